"""The simulator proves itself: with a correction switched off it must find a violation.

python -m tests.simulation.selfproof            every mutant, at most 10,000 runs each
python -m tests.simulation.selfproof H4 H9      some of them
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace

from stele.lab.mutants import MUTANTS
from tests.simulation.runner import Found, Totals, quiet, run_parallel, run_seeds
from tests.simulation.world import Options

RUNS_MAX = 10_000
STUMBLES = frozenset({"unhandled error", "replica failed", "liveness"})


@dataclass(frozen=True, slots=True)
class Proof:
    """What ``mutants`` break is seen; soonest with faults of ``kinds``, if there are any.  The suite runs it at most ``runs`` times,
    those that take long (0) not at all."""

    mutants: tuple[str, ...]  # together, of the registry in lab/mutants
    runs: int
    kinds: tuple[str, ...] = ()
    nodes: int = 0
    pressure: bool = False  # what bounds memory is small
    groups: int = 0  # that share each link

    def options(self, seed: int) -> Options:
        return Options(
            seed,
            self.nodes,
            kinds=self.kinds,
            mutants=self.mutants,
            pressure=self.pressure,
            groups=self.groups,
        )

    @property
    def correction(self) -> str:
        """The rule that it is about, if it has a number: the first that the first mutant breaks."""
        return next(iter(MUTANTS[self.mutants[0]].rules), "")


PROOFS = (
    Proof(("replication.TruncatesWhatMatches", "replication.MovesBack"), 100),
    Proof(("replication.TrustsTheCommitIndex", "replication.TrustsTheOffer"), 100),
    Proof(("replication.InstallsWhatIsOld",), 150),
    Proof(("replication.CountsLateAnswers",), 100, ("comeback",), 5),
    Proof(("elections.CountsVotesTwice",), 150, ("contested election", "duplicate", "leadership transfer"), 5),
    Proof(("replication.changes_two_at_once",), 150),
    Proof(("replication.ForgetsTheLog",), 0),
    Proof(("replication.PromisesFirst",), 100),
    Proof(("replication.CountsItself",), 100),
    Proof(("log.SyncsAgain",), 20, ("disk error",)),
    Proof(("log.CountsCachedNames",), 60, ("kill", "power-loss", "kill in disk operation")),
    Proof(("log.CountsTheCache",), 0, ("kill in disk operation", "isolate")),
    Proof(("snapshots.ResetsFirst",), 0, ("power-loss in disk operation", "isolate", "snapshot", "trim", "compact")),
    Proof(("replication.BelievesItsCommitIndex", "replication.KeepsItsCommitIndex"), 100),
    Proof(("elections.TurnsFirst", "elections.CampaignsByTheClock"), 100, ("pause",)),
    Proof(("replication.CallsTheUnknownDefinite",), 50, ("closed in order",)),
    Proof(("replication.TakesAllThatIsProposed",), 20, pressure=True),
    Proof(("links.GivesEverybodyRoom",), 10, groups=10),
    Proof(("replication.ReadsWithoutARound",), 0),
    Proof(("replication.ReadsBeforeItsOwnEntry",), 0),
    Proof(("elections.VotesWithoutItsLog",), 100),
    Proof(("elections.WinsBehindTheGate",), 100, ("closed gate", "contested election")),
    Proof(("elections.RecoversAtAWord",), 200, ("unguarded word",)),
    Proof(("log.NeverLooksBack",), 100, ("lost tail",)),
)


def first_violation(options: Options, runs: int, jobs: int = 1) -> tuple[int, Found | None]:
    """How many runs it took, in the order of their seeds from ``options.seed`` on, and what was seen."""
    seeds = range(options.seed, options.seed + runs)

    def enough(totals: Totals) -> bool:
        return any(_counts(found) for found in totals.violations)

    totals = run_seeds(options, seeds, enough) if jobs == 1 else run_parallel(options, seeds, jobs, enough=enough)
    counted = [found for found in totals.violations if _counts(found)]
    if not counted:
        return totals.runs, None
    first = min(counted, key=lambda found: found.seed)
    return first.seed - options.seed + 1, first


def _counts(found: Found) -> bool:
    """A mutant that merely stumbles proves nothing."""
    return found.kind not in STUMBLES


def _names(proof: Proof) -> set[str]:
    """What it goes by on the command line: its mutants and the rules that they break."""
    return {*proof.mutants, *(rule for name in proof.mutants for rule in MUTANTS[name].rules)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.selfproof", description=__doc__)
    parser.add_argument("corrections", nargs="*", help="such as H4; all if none is given")
    parser.add_argument("--runs", type=int, default=RUNS_MAX, help="at most this many for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    quiet()
    missed = 0
    print(f"{'':6}{'switched on':50}{'runs':>7}{'s':>6}  what it saw")
    for proof in PROOFS:
        if given.corrections and not set(given.corrections) & _names(proof):
            continue
        started = time.monotonic()
        options = proof.options(given.seed)
        runs, found = first_violation(options, given.runs, given.jobs)
        took_s = time.monotonic() - started
        saw = found.message if found is not None else "NOTHING"
        print(f"{proof.correction:6}{' '.join(proof.mutants)[:48]:50}{runs:>7}{took_s:>6.0f}  {saw[:150]}", flush=True)
        if found is None:
            missed += 1
        else:
            command = replace(options, seed=found.seed).replay()
            print(f"{'':71}{command}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
