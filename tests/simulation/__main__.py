"""Runs the simulator: ``python -m tests.simulation --runs 1000 --seed 0 --nodes 3``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any

from tests.simulation.plan import KINDS
from tests.simulation.runner import Totals, quiet, run_parallel
from tests.simulation.shrink import report, shrink
from tests.simulation.world import Options

SHOWN_VIOLATIONS_MAX = 5


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--nodes", type=int, default=0, help="members of the group; 0: most runs 3, some 5")
    parser.add_argument("--seconds", type=float, default=0.0, help="simulated seconds of faults in a run; 0: by seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only-faults", default=None, help="numbers of the seed's faults, or none")
    parser.add_argument("--kinds", default="", help="kinds of fault: " + ", ".join(k.replace(" ", "-") for k in KINDS))
    parser.add_argument("--mutants", default="", help="names of lab/mutants, wrong on purpose")
    parser.add_argument("--pressure", action="store_true", help="what bounds memory is small in every run")
    parser.add_argument("--groups", type=int, default=0, help="that share each link; 0: one in most runs, many in some")
    parser.add_argument("--trace", action="store_true", help="print every event (with one run)")
    parser.add_argument("--no-shrink", action="store_true", help="report violations as they are found")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser.parse_args()


def _options(given: argparse.Namespace) -> Options:
    only = None
    if given.only_faults is not None:
        only = tuple(int(n) for n in given.only_faults.split(",") if n != "none")
    by_name = {kind.replace(" ", "-"): kind for kind in KINDS}
    kinds = tuple(by_name[name] for name in given.kinds.split(",") if name)
    mutants = tuple(name for name in given.mutants.split(",") if name)
    return Options(
        given.seed, given.nodes, given.seconds, only, kinds, given.trace, mutants, given.pressure, given.groups
    )


class _Progress:
    """One line that is written over; where stderr is no terminal, one a minute."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._started = time.monotonic()
        self._shown = self._started
        self._terminal = sys.stderr.isatty()
        self._told = 0

    def __call__(self, totals: Totals) -> None:
        for found in totals.violations[self._told :]:  # at once: a long series need not come to its end
            print(f"VIOLATION with seed {found.seed}: {found.message}", file=sys.stderr, flush=True)
        self._told = len(totals.violations)
        now = time.monotonic()
        if now - self._shown < (0.2 if self._terminal else 60):
            return
        self._shown = now
        left_s = (now - self._started) * (self._runs - totals.runs) / max(1, totals.runs)
        line = f"{totals.runs} of {self._runs} runs, {len(totals.violations)} violations, {left_s:.0f} s left"
        if self._terminal:
            print(f"\r{line} \x1b[K", end="", file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def _as_json(totals: Totals, took_s: float, options: Options) -> dict[str, Any]:
    return {
        "seeds": [options.seed, options.seed + totals.runs - 1],
        "nodes": options.nodes,
        "runs": totals.runs,
        "violations": [{**asdict(found), "replay": _one(options, found.seed).replay()} for found in totals.violations],
        "simulated_hours": round(totals.simulated_s / 3600, 3),
        "events": totals.events,
        "events_per_s": round(totals.events / took_s),
        "seconds": round(took_s, 1),
        "cpu_s_per_run": round(totals.cpu_s / max(1, totals.runs), 4),
        "faults": dict(totals.faults.most_common()),
        "counts": dict(sorted(totals.counts.items())),
        "nearest": dict(sorted(totals.nearest.items())),
    }


def _one(options: Options, seed: int) -> Options:
    return replace(options, seed=seed, traced=False)


def _print(totals: Totals, took_s: float, options: Options) -> None:
    nodes = f"{options.nodes} nodes" if options.nodes else "3 or 5 nodes"
    last = options.seed + totals.runs - 1
    print(f"runs                {totals.runs} (seeds {options.seed}..{last}, {nodes})")
    print(f"violations          {len(totals.violations)}")
    print(f"simulated hours     {totals.simulated_s / 3600:.2f}")
    print(f"events              {totals.events} ({totals.events / took_s:.0f} per second)")
    for name, count in sorted(totals.counts.items()):
        print(f"{name:<19} {count}")
    print(f"time                {took_s:.0f} s, {totals.cpu_s / max(1, totals.runs):.3f} s of CPU per run")
    print(f"faults injected     {sum(totals.faults.values())}")
    for kind, count in totals.faults.most_common():
        print(f"  {kind:<30} {count}")
    print("of what may be there, at most")
    for what, share in sorted(totals.nearest.items(), key=lambda found: -found[1]):
        print(f"  {what:<42} {share:.3f}")


def main() -> int:
    given = _arguments()
    options = _options(given)
    quiet()
    progress = _Progress(given.runs)
    started = time.monotonic()
    seeds = range(given.seed, given.seed + given.runs)
    totals = run_parallel(_one(options, 0), seeds, min(given.jobs, given.runs), progress)
    took_s = max(0.001, time.monotonic() - started)
    progress.end()
    if given.output == "json":
        print(json.dumps(_as_json(totals, took_s, options), indent=2))
        return 1 if totals.violations else 0
    for found in totals.violations[:SHOWN_VIOLATIONS_MAX]:
        one = _one(options, found.seed)
        if given.no_shrink:
            print(f"VIOLATION with seed {found.seed}: {found.message}\n  replay: {one.replay()}\n")
        else:
            shrunk = shrink(one)
            if given.trace:
                print("\n".join(shrunk.trace))
            print(report(shrunk), end="\n\n")
    for found in totals.violations[SHOWN_VIOLATIONS_MAX:]:
        print(f"VIOLATION with seed {found.seed}: {found.message}")
    if given.trace and not totals.violations and given.runs == 1:
        _trace(options)
    _print(totals, took_s, options)
    return 1 if totals.violations else 0


def _trace(options: Options) -> None:
    from tests.simulation.world import World

    world = World(options)
    world.run()
    print("\n".join(world.trace or ()))


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
