"""Runs the simulated cluster: ``python -m tests.simulation.cluster --runs 200 --seed 0``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from tests.simulation.cluster.plan import EXACT, KINDS
from tests.simulation.cluster.spacetime import diagram
from tests.simulation.cluster.world import Options, World
from tests.simulation.mutants import switched
from tests.simulation.runner import Totals, quiet, run_parallel
from tests.simulation.shrink import Shrunk, report, shrink

SHOWN_VIOLATIONS_MAX = 5
SHRINK_S = 120.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seconds", type=float, default=0.0, help="simulated seconds of faults in a run; 0: by seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only-faults", default=None, help="numbers of the seed's faults, or none")
    parser.add_argument(
        "--kinds", default="", help="kinds of fault: " + ", ".join(k.replace(" ", "-") for k in (*KINDS, *EXACT))
    )
    parser.add_argument("--operations", action="store_true", help="a store is decommissioned meanwhile")
    parser.add_argument("--pressure", action="store_true", help="what bounds memory is small in every run")
    parser.add_argument("--mutants", default="", help="names of lab/mutants, wrong on purpose")
    parser.add_argument(
        "--trace", choices=("none", "text", "html"), default="none", help="every event of one run; html: as a file"
    )
    parser.add_argument("--to", type=Path, default=Path("sim-cluster.html"), help="where the diagram is written")
    parser.add_argument("--no-shrink", action="store_true", help="report violations as they are found")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser.parse_args()


def _options(given: argparse.Namespace) -> Options:
    only = None
    if given.only_faults is not None:
        only = tuple(int(n) for n in given.only_faults.split(",") if n != "none")
    by_name = {kind.replace(" ", "-"): kind for kind in (*KINDS, *EXACT)}
    kinds = tuple(by_name[name] for name in given.kinds.split(",") if name)
    mutants = tuple(name for name in given.mutants.split(",") if name)
    return Options(
        given.seed,
        given.seconds,
        only,
        kinds,
        mutants=mutants,
        operations=given.operations,
        pressure=given.pressure,
    )


def _print(totals: Totals, took_s: float, options: Options) -> None:
    print(f"runs                    {totals.runs} (seeds {options.seed}..{options.seed + totals.runs - 1})")
    print(f"violations              {len(totals.violations)}")
    print(f"simulated hours         {totals.simulated_s / 3600:.2f}")
    print(f"events                  {totals.events} ({totals.events / took_s:.0f} per second)")
    for name, count in sorted(totals.counts.items()):
        print(f"{name:<23} {count}")
    print(f"time                    {took_s:.0f} s, {totals.cpu_s / max(1, totals.runs):.3f} s of CPU per run")
    print(f"faults injected         {sum(totals.faults.values())}")
    for kind, count in totals.faults.most_common():
        print(f"  {kind:<30} {count}")
    print("nearest to its bound")
    for what, share in sorted(totals.nearest.items(), key=lambda found: -found[1]):
        print(f"  {what:<44} {share:.0%}")


def _progress(runs: int) -> None:
    started, shown, told = time.monotonic(), 0.0, 0

    def progress(totals: Totals) -> None:
        nonlocal shown, told
        for found in totals.violations[told:]:  # at once: a long series need not come to its end
            print(f"VIOLATION with seed {found.seed}: {found.message}", file=sys.stderr, flush=True)
        told = len(totals.violations)
        if (now := time.monotonic()) - shown > (0.2 if sys.stderr.isatty() else 60):
            shown = now
            left_s = (now - started) * (runs - totals.runs) / max(1, totals.runs)
            line = f"{totals.runs} of {runs} runs, {len(totals.violations)} violations, {left_s:.0f} s left"
            print(
                f"\r{line} \x1b[K" if sys.stderr.isatty() else line,
                end="" if sys.stderr.isatty() else "\n",
                file=sys.stderr,
            )

    return progress  # type: ignore[return-value]


def _trace(options: Options, how: str, to: Path) -> None:
    world = World(dataclasses.replace(options, traced=True))
    with switched(options.mutants):
        try:
            world.run()
        except AssertionError as error:
            world.say("violation", "", str(error))
    if how == "html":
        to.write_text(diagram(world.trace, world.hosts, options.replay()), encoding="utf-8")
        print(f"written: {to}")
    else:
        print("\n".join(map(str, world.trace)))


def main() -> int:
    given = _arguments()
    options = _options(given)
    quiet()
    started = time.monotonic()
    seeds = range(given.seed, given.seed + given.runs)
    totals = run_parallel(options, seeds, min(given.jobs, given.runs), _progress(given.runs))  # type: ignore[arg-type,func-returns-value]
    took_s = max(0.001, time.monotonic() - started)
    if given.output == "json":
        found = [dataclasses.asdict(violation) for violation in totals.violations]
        print(json.dumps({"runs": totals.runs, "violations": found, "counts": totals.counts, "faults": totals.faults}))
        return 1 if totals.violations else 0
    shown: Options = options
    for violation in totals.violations[:SHOWN_VIOLATIONS_MAX]:
        one = dataclasses.replace(options, seed=violation.seed)
        if given.no_shrink:
            print(f"VIOLATION with seed {violation.seed}: {violation.message}\n  replay: {one.replay()}\n")
        else:
            shrunk: Shrunk = shrink(one, SHRINK_S)
            shown = shrunk.options  # type: ignore[assignment]
            print(report(shrunk), end="\n\n")
    for violation in totals.violations[SHOWN_VIOLATIONS_MAX:]:
        print(f"VIOLATION with seed {violation.seed}: {violation.message}")
    if given.trace != "none":
        _trace(shown, given.trace, given.to)
    _print(totals, took_s, options)
    return 1 if totals.violations else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names are gone through in the same order in every process
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation.cluster", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
