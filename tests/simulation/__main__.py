"""Runs the simulator: ``python -m tests.simulation --runs 1000 --seed 0 --nodes 3``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

import structlog

from tests.simulation.world import LIVENESS_S, Options, Violation, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated seconds of faults in a run")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    faults: Counter[str] = Counter()
    events = acked = bad = 0
    started = time.monotonic()
    for seed in range(given.seed, given.seed + given.runs):
        world = World(seed, Options(nodes=given.nodes, seconds=given.seconds))
        try:
            world.run()
        except Violation as e:
            bad += 1
            print(e)
        faults += world.faults
        events += world.events
        acked += len(world.acked)
    took = time.monotonic() - started
    hours = given.runs * (given.seconds + LIVENESS_S) / 3600
    print(
        f"runs {given.runs} (seeds {given.seed}..{given.seed + given.runs - 1}, {given.nodes} nodes), violations {bad}"
    )
    print(
        f"simulated hours {hours:.1f}, events {events} ({events / took:.0f}/s), acknowledged writes {acked}, {took:.0f} s"
    )
    print("faults: " + ", ".join(f"{k} {v}" for k, v in faults.most_common()))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
