"""The simulator proves itself: with a correction switched off it must find a violation.

python -m tests.simulation.selfproof            every variant, at most 10,000 runs each
python -m tests.simulation.selfproof H4 H9      some of them
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace

from tests.simulation.runner import Found, Totals, quiet, run_parallel, run_seeds
from tests.simulation.shrink import replay_command
from tests.simulation.world import Options

RUNS_MAX = 10_000
STUMBLES = frozenset({"unhandled error", "replica failed", "liveness"})


@dataclass(frozen=True, slots=True)
class Proof:
    """``variant`` breaks ``correction``; seen soonest with faults of ``kinds``, if there are any.  The suite runs it at most ``runs``
    times, those that take long (0) not at all."""

    correction: str
    what: str
    variant: str
    runs: int
    kinds: tuple[str, ...] = ()
    nodes: int = 0


PROOFS = (
    Proof("H1", "cuts off entries that match", "h1_truncates_what_matches:TruncatesWhatMatches", 100),
    Proof("H2", "commits what no message verified", "h2_trusts_the_commit_index:TrustsTheCommitIndex", 100),
    Proof("H3", "installs snapshots that are old", "h3_installs_what_is_old:InstallsWhatIsOld", 150),
    Proof("H4", "counts answers of another term", "h4_counts_late_answers:CountsLateAnswers", 100, ("comeback",), 5),
    Proof(
        "H5",
        "counts votes, not voters",
        "h5_counts_votes_twice:CountsVotesTwice",
        150,
        ("contested election", "duplicate", "leadership transfer"),
        5,
    ),
    Proof("H6", "changes members twice at once", "h6_changes_two_at_once:ChangesTwoAtOnce", 150),
    Proof("H6", "forgets the members in its log", "h6_forgets_the_log:ForgetsTheLog", 0),
    Proof("H7", "promises before it has synced", "r3_8_promises_before_persisting:PromisesFirst", 100),
    Proof("H7", "counts its own unsynced entries", "h7_counts_itself_unsynced:CountsItself", 100),
    Proof(
        "H8",
        "empties the log too early",
        "h8_resets_before_the_snapshot:ResetsFirst",
        0,
        ("power-loss in disk operation", "isolate", "snapshot", "trim", "compact"),
    ),
    Proof("H9", "believes its commit index on disk", "h9_believes_its_commit_index:BelievesItsCommitIndex", 100),
    Proof(
        "H14",
        "looks at the clock first",
        "h14_looks_at_the_clock_first:TurnsFirst,h14_looks_at_the_clock_first:CampaignsByTheClock",
        100,
        ("pause",),
    ),
    Proof("H15", "reads without a round", "h15_reads_without_a_round:ReadsWithoutARound", 0),
    Proof("H15", "reads before its own entry", "h15_reads_before_its_own_entry:ReadsBeforeItsOwnEntry", 0),
    Proof("R4.5", "votes without its log", "r4_5_votes_without_its_log:VotesWithoutItsLog", 100),
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
    """A variant that merely stumbles proves nothing."""
    return found.kind not in STUMBLES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.selfproof", description=__doc__)
    parser.add_argument("corrections", nargs="*", help="such as H4; all if none is given")
    parser.add_argument("--runs", type=int, default=RUNS_MAX, help="at most this many for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    quiet()
    missed = 0
    print(f"{'':6}{'switched off':36}{'runs':>7}{'s':>6}  what it saw")
    for proof in PROOFS:
        if given.corrections and proof.correction not in given.corrections:
            continue
        started = time.monotonic()
        options = Options(given.seed, proof.nodes, kinds=proof.kinds, variant=proof.variant)
        runs, found = first_violation(options, given.runs, given.jobs)
        took_s = time.monotonic() - started
        saw = found.message if found is not None else "NOTHING"
        print(f"{proof.correction:6}{proof.what:36}{runs:>7}{took_s:>6.0f}  {saw[:150]}", flush=True)
        if found is None:
            missed += 1
        else:
            command = replay_command(replace(options, seed=found.seed))
            print(f"{'':57}{command}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
