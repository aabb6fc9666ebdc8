"""Coverage-guided fuzzing of the decoders (targets.py) with atheris.

    python -m tests.fuzz --seconds 60 [--target snapshot_file ...]

The targets share the time.  An input that crashes one, keeps it busy for INPUT_TIMEOUT_S or makes it take RSS_MIB_MAX of memory is
printed, and the command fails.  The same targets run under hypothesis in test_fuzz.py, which needs nothing installed.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

INPUT_TIMEOUT_S = 10
INPUT_BYTES_MAX = 4096
RSS_MIB_MAX = 1024


def fuzz(name: str, flags: Sequence[str]) -> None:
    """In a process of its own: runs one target until the time is over.  Does not return."""
    import atheris
    import structlog

    with atheris.instrument_imports(include=["datanode", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()


def run(name: str, inputs: Sequence[bytes], seconds: int) -> bool:
    """Whether the target held."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus, crashes = Path(scratch, "corpus"), Path(scratch, "crashes")
        corpus.mkdir()
        crashes.mkdir()
        for number, content in enumerate(inputs):
            (corpus / f"right{number}").write_bytes(content)
        flags = [
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={RSS_MIB_MAX}",
            f"-artifact_prefix={crashes}/",
            "-print_final_stats=1",
        ]
        command = [sys.executable, "-m", "tests.fuzz", "--run", name, "--", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
        units = re.search(r"number_of_executed_units: ([0-9]+)", done.stderr)
        covered = re.findall(r" cov: ([0-9]+) ", done.stderr)
        held = done.returncode == 0 and units is not None
        print(
            f"{name:16} {'held' if held else 'FAILED':8} {units[1] if units else '?':>9} inputs"
            f"   {covered[-1] if covered else '?':>6} branches"
        )
        if not held:
            print(done.stderr[-4000:])
            for crash in crashes.iterdir():
                print(f"{crash.name}: {crash.read_bytes()!r}")
        return held


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the decoders of what stands on disk.")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default %(default)s)")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.run:
        fuzz(options.run, options.flags)
    from tests.fuzz.seeds import seeds

    inputs = {name: right for name, right in seeds().items() if name in (options.target or [name])}
    unknown = set(options.target) - set(inputs)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(seeds())}")
    each_s = max(1, options.seconds // len(inputs))
    print(f"{each_s} s for each of {len(inputs)} targets", flush=True)
    return 0 if all([run(name, right, each_s) for name, right in inputs.items()]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
