"""Runs the benchmarks, prints a table of ratios and targets, and writes everything that was measured as JSON."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import control, failover, growth, idle, log_floor, profiling, raft
from benchmarks.children import Children
from benchmarks.report import LATEST, Report

EXAMPLES = """
examples:
  make bench                                      everything, in about ten minutes
  make bench ARGS="--quick"                       everything, smaller and shorter: does it work?
  make bench ARGS="--only raft,idle --quick"      two of the parts
  make bench ARGS="--only raft --rounds 5"        more rounds where the machine is not quiet
  make bench ARGS="--only profile --load small"   where the processor time goes (needs: .venv/bin/pip install py-spy)
  make bench ARGS="--only control --document"     what a cluster's size costs; docs/explanation/scale.md is written anew
  make bench ARGS="--directory /mnt/disk"         measure that disk
  make bench ARGS="--document"                    everything; the table goes into docs/explanation/performance.md

parts:
  log        the durable log against pwrite + fdatasync
  raft       a group of three processes against stock PySyncObj, a bare gRPC stream, the disk, bare replication
  idle       a thousand groups with nothing to do on three stores: processor, memory, opening them again
  failover   the leader killed with -9: until a write is acknowledged again
  control    only when asked for: what 1,000, 10,000 and 100,000 partitions cost a nameserver; ten minutes of its own
  profile    only when asked for: the leader and a follower under load, sampled by py-spy
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    log_s: float = 2.0
    load_s: float = 3.0
    rounds: int = 2
    groups: int = 1_000
    idle_s: float = 20.0
    kills: int = 50
    stock_kills: int = 10
    partitions: tuple[int, ...] = (1_000, 10_000, 100_000)


QUICK = Size(log_s=0.3, load_s=1.0, rounds=1, groups=100, idle_s=5.0, kills=3, stock_kills=1, partitions=(100, 1_000))

Part = Callable[[Children, Path, Size, Report, raft.Say], Awaitable[None]]


async def _log(_children: Children, directory: Path, size: Size, report: Report, say: raft.Say) -> None:
    results = []
    for name, entry_bytes in log_floor.SIZES.items():
        say(f"log: {name}")
        results.append(await asyncio.to_thread(log_floor.measure, name, entry_bytes, size.log_s, directory))
    report.add(log_floor.rows(results), "log", [asdict(result) for result in results])


async def _raft(children: Children, directory: Path, size: Size, report: Report, say: raft.Say) -> None:
    found = await raft.measure(children, directory, size.load_s, size.rounds, say)
    report.add(raft.rows(found), "raft", found)
    report.problems += raft.problems(found)


async def _idle(children: Children, directory: Path, size: Size, report: Report, say: raft.Say) -> None:
    found = await idle.measure(children, directory, size.groups, size.idle_s, say)
    report.add(idle.rows(found), "idle", found)


async def _failover(children: Children, directory: Path, size: Size, report: Report, say: raft.Say) -> None:
    found = await failover.measure(children, directory, size.kills, size.stock_kills, say)
    report.add(failover.rows(found), "failover", found)


async def _control(_children: Children, directory: Path, size: Size, report: Report, say: raft.Say) -> None:
    found, problems = await control.measure(directory, size.partitions, size.idle_s / 2, say)
    report.add(control.rows(found), "control", found)
    report.problems += problems


USUAL: dict[str, Part] = {"log": _log, "raft": _raft, "idle": _idle, "failover": _failover}
PARTS = USUAL | {"control": _control}


async def run(parts: Sequence[str], size: Size, directory: Path, report: Report, console: Console) -> None:
    begin = time.monotonic()
    with console.status("") as status:

        def say(what: str) -> None:
            line = f"{time.monotonic() - begin:4.0f} s  {what}"
            status.update(line)
            if not console.is_terminal:
                console.print(line, highlight=False)

        for name in parts:
            here = directory / name
            here.mkdir()
            async with Children(here / "errors.log") as children:
                try:
                    await PARTS[name](children, here, size, report, say)
                except Exception as e:  # the others still run, and what there is is written
                    report.complete = False
                    report.problems.append(f"{name}: {type(e).__name__}: {e}; {_last_line(here / 'errors.log')}")
    report.seconds = time.monotonic() - begin


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    return lines[-1] if lines else "the processes said nothing"


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--only",
        type=_parts,
        default=list(USUAL),
        metavar="PART,…",
        help="the parts to run (default: all but control and profile)",
    )
    add("--quick", action="store_true", help="small sizes: shows that everything works, not how fast it is")
    add("--rounds", type=int, default=None, help="how often the contestants of `raft` take turns (default 2)")
    add("--kills", type=int, default=None, help="leaders that `failover` kills (default 50)")
    add("--groups", type=int, default=None, help="groups on each store in `idle` (default 1000)")
    add("--partitions", type=_sizes, default=None, metavar="N,…", help="sizes of the cluster in `control`")
    add("--directory", type=Path, default=None, help="a folder on the disk to measure (default: a temporary one)")
    add("--json", type=Path, default=LATEST, metavar="FILE", help="where the figures go (default: %(default)s)")
    add("--document", action="store_true", help="put the table into docs/explanation/performance.md; keep the figures")
    add(
        "--load",
        choices=sorted(profiling.LOADS),
        default="small",
        help="what `profile` looks at (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _parts(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [*PARTS, "profile"]
    if wrong := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no part {wrong[0]!r}; there are {', '.join(known)}")
    if not names:
        raise argparse.ArgumentTypeError(f"which of {', '.join(known)}?")
    return names


def _sizes(text: str) -> tuple[int, ...]:
    sizes = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"numbers of partitions, separated by commas, not {text!r}")
    return tuple(map(int, sizes))


def size_of(chosen: argparse.Namespace) -> Size:
    size = QUICK if chosen.quick else Size()
    given = {
        name: getattr(chosen, name)
        for name in ("rounds", "kills", "groups", "partitions")
        if getattr(chosen, name) is not None
    }
    return Size(**{**asdict(size), **given})


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    console = Console(stderr=True)
    size = size_of(chosen)
    shown: dict[str, Any] = {"only": chosen.only, **asdict(size)}
    report = Report(shown)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="stele-bench-", dir=chosen.directory) as directory:
            parts = [name for name in chosen.only if name != "profile"]
            asyncio.run(run(parts, size, Path(directory), report, console))
            if "profile" in chosen.only:
                asyncio.run(profiling.run(chosen.load, Path(directory), console))
    except KeyboardInterrupt:
        console.print("interrupted; every process that was started has ended")
        return 130
    if report.rows or report.problems:
        report.draw(Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "150"))))
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(report.to_json(), encoding="utf-8")
        console.print(f"{report.seconds:.0f} s; figures in {chosen.json}", highlight=False)
        if chosen.document and chosen.only == ["control"]:
            console.print(f"documented; figures kept in {growth.document(report)}", highlight=False)
        elif chosen.document:
            console.print(f"documented; figures kept in {report.document()}", highlight=False)
    return 0 if report.complete and all(row.value is not None for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
