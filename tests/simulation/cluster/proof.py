"""The simulated cluster proves itself: with a part of the product wrong on purpose it must find a violation, without it none.

python -m tests.simulation.cluster.proof                              every row, at most 2,000 runs each
python -m tests.simulation.cluster.proof names.TakesFromTheLive R5.9  some of them, by mutant or by what it breaks

A row says of which kind the violation is that the mutant comes to; any other one, as of a mutant that merely stumbles, does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stele.lab.mutants import MUTANTS
from tests.simulation.cluster.plan import EXACT, KINDS
from tests.simulation.cluster.world import Options
from tests.simulation.runner import Found, Totals, quiet, run_seeds

RUNS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Proof:
    """``mutants`` come to a violation of the kind ``sees``; soonest with faults of ``kinds``.  The suite runs it at most ``runs`` times,
    those that take long (0) not at all."""

    mutants: tuple[str, ...]  # together, of the registry in lab/mutants
    runs: int
    sees: str
    kinds: tuple[str, ...]
    seconds: float = 0.0  # of faults; 0: drawn from the seed
    operations: bool = False  # a store is decommissioned meanwhile
    pressure: bool = False  # what bounds memory is small
    about: str = ""  # the fault of docs/explanation/faults.md that comes back

    @property
    def breaks(self) -> str:
        """The rules, or the fault that comes back."""
        return ", ".join([*([self.about] if self.about else []), *MUTANTS[self.mutants[0]].rules])


PROOFS = (
    Proof(("names.PresentIsTaken",), 3, "name", ("kill",)),
    Proof(("names.TakesFromTheLive",), 3, "name", ("double",)),
    Proof(("names.NeverTakesOver",), 0, "name", ("moved",)),
    Proof(("names.ChecksThenWrites",), 3, "name", ("race",)),
    Proof(("names.CampaignsFirst",), 1, "order", ("kill",)),
    Proof(("names.TakesItsNameFirst",), 1, "order", ("kill",)),
    Proof(("names.ShowsItselfNameless",), 1, "order", ("kill",)),
    Proof(("names.CampaignsUnseen",), 1, "order", ("kill",)),
    Proof(("names.OwnPastIsAStranger",), 3, "name", ("kill",)),
    Proof(("members.AdoptsALeftover",), 3, "member", ("leftover",)),
    Proof(("members.AdoptsThePreviousSession",), 3, "member", ("kill",)),
    Proof(("members.OwnNodeIsAStranger",), 3, "name", ("kill",)),
    Proof(("members.RegistersOnce",), 0, "liveness", ("session expired",)),
    Proof(("members.ComesBackAfterLeaving",), 3, "member", ("terminate",)),
    Proof(("members.StormsBack",), 3, "storm", ("member deleted",)),
    Proof(("members.RegistersForGood",), 1, "member", ("kill",)),
    Proof(("gate.OpensPortFirst",), 1, "gate", ("kill",)),
    Proof(("gate.SkipsCatchingUp",), 0, "gate", ("kill",)),
    Proof(("gate.RegistersWhenReady",), 1, "gate", ("kill",)),
    Proof(("names.UnknownIsAbsent",), 0, "name", ("unanswered double",), seconds=14.0),
    Proof(("names.TakesOverBlindly",), 0, "name", ("race",), seconds=12.0),
    Proof(("members.OverwritesTheLive",), 0, "member", ("usurped",), seconds=10.0),
    Proof(("members.AssumesSuccess",), 0, "member", ("answer lost at start",), seconds=8.0),
    Proof(("members.AssumesFailure",), 2, "name", ("answer lost at start",), seconds=8.0),
    Proof(("catalog.KeepsWhatIsDerived",), 0, "liveness", ("kill",)),
    Proof(("catalog.TellsOfTheTouchedAlone",), 0, "liveness", ("kill",), seconds=12.0),
    Proof(("ownership.LeadershipWithoutEpoch",), 0, "deposed leader", ("deposed",)),
    Proof(("ownership.assigns_by_name", "ownership.WritesUnchecked"), 0, "owner", ("gone", "terminate"), seconds=14.0),
    Proof(("ownership.keeps_the_epoch",), 0, "liveness", ("kill",)),
    Proof(("ownership.IgnoresEpoch",), 0, "fenced owner", ("pause", "stall", "cut from zookeeper")),
    Proof(("ownership.BorrowsEpoch",), 0, "owner", ("expires unheard",), seconds=8.0),
    Proof(("ownership.forgets_what_was_seen",), 0, "liveness", ("older epochs",), seconds=8.0, about="P3"),
    Proof(("ownership.NeverTooOld",), 0, "stale answer", ("cut from zookeeper",), seconds=10.0, about="P4"),
    Proof(
        ("store.ForgetsWhatItCannotRead",), 6, "live data deleted", ("unreadable at start",), seconds=8.0, about="P1"
    ),
    Proof(
        ("catalog.begins_the_lost_anew",),
        2,
        "applied entry changed",
        ("lost behind a laggard",),
        seconds=8.0,
        about="P2",
    ),
    Proof(("incarnations.RepeatsAcksAfterASeek",), 0, "acknowledged in another generation", ("reset",), about="P7"),
    Proof(("incarnations.AcksWhatItOnceHeld",), 0, "acknowledged in another generation", ("reset",), about="P7"),
    Proof(("moves.leaves_first",), 0, "voters", ("kill",), operations=True),
    Proof(("gate.CampaignsWhileLoading",), 0, "gate", ("slow cold start",), seconds=8.0),
    Proof(("gate.WaitsForALeader",), 0, "liveness", ("cold start",), seconds=6.0),
    Proof(("members.CreatesWithoutItsName",), 0, "order", ("usurped",), seconds=10.0, about="P24"),
    Proof(("ownership.WritesUnchecked",), 8, "owner", ("owner expires", "kill", "terminate"), seconds=10.0),
    Proof(("ownership.TakesWhatIsOlder",), 0, "view went back", ("laggard alone",), seconds=10.0, about="P4"),
    Proof(("ownership.ServesWhatIsBeingCreated",), 0, "written too early", ("kill",), about="P2"),
    Proof(("gate.ClosesPortFirst",), 0, "gate", ("terminate",)),
    Proof(("controller.EndsWithItsFirstFault",), 1, "unhandled error", ("round fails",), seconds=8.0, about="P21"),
    Proof(("catalog.WelcomesTheRemoved",), 0, "removed store", ("reset",), operations=True),
    Proof(("moves.counts_every_store",), 0, "too few stores", ("reset",), operations=True),
    Proof(("store.NeverTriesAgain",), 0, "liveness", ("unreadable at start",), about="P26"),
    Proof(("catalog.drops_orphans",), 0, "live data deleted", ("older zookeeper",), about="P3"),
    Proof(("members.BelievesAnyTree",), 2, "cluster", ("wiped under way",), seconds=8.0, about="P3"),
    Proof(("incarnations.SendsAgainWhatMayBeStored",), 0, "stored twice", ("answers lost",), about="P7b"),
    Proof(("groups.RemovesFirst",), 0, "runs on", ("kill",), operations=True),
    Proof(("incarnations.ServesWhoeverHasTheName",), 0, "wrong partition", ("stale route",), seconds=16.0, about="P7b"),
    Proof(("appends.BelievesThatItLeadsStill",), 1, "stored twice", ("old leader",), seconds=10.0, about="P14"),
    Proof(("mirror.OverlooksReturns",), 4, "liveness", ("returns unseen",), seconds=6.0),
    Proof(("catalog.ReusesGroups", "catalog.BelievesTheOlderCopy"), 0, "id used again", ("reset",), seconds=12.0),
    Proof(("catalog.BelievesTheOlderCopy",), 8, "id used again", ("older topics",), seconds=10.0, about="P3"),
    Proof(
        ("catalog.joins_before_it_has_left", "elections.VotesWithoutItsLog"),
        4,
        "applied entry changed",
        ("lost beside a still disk",),
        seconds=10.0,
        about="P2",
    ),
    Proof(
        ("store.ForgetsWhatItDeleted",),
        0,
        "applied entry changed",
        ("older half deleted",),
        seconds=24.0,
        about="P3",
    ),
    Proof(("moves.AsksTheMirror",), 0, "too few stores", ("another goes",), seconds=5.0, operations=True),
    Proof(("ownership.DeniesWhatItHasNotHeardOf",), 2, "living topic denied", ("unheard of",), seconds=6.0, about="P5"),
    Proof(("calls.ForgetsItsAttempts",), 1, "definite error", ("deletion unanswered",), seconds=6.0, about="P6"),
    Proof(("batches.GoesOnAsAnother",), 0, "order", ("still disks",), seconds=12.0, pressure=True, about="P7c"),
    Proof(("ownership.takes_what_nobody_can_have",), 1, "owner", ("refused",), seconds=6.0, about="P23"),
)


def options(proof: Proof, seed: int) -> Options:
    assert set(proof.kinds) <= {*KINDS, *EXACT}, proof
    return Options(
        seed,
        proof.seconds,
        kinds=proof.kinds,
        mutants=proof.mutants,
        operations=proof.operations,
        pressure=proof.pressure,
    )


def first_violation(proof: Proof, seed: int, runs: int) -> tuple[int, Found | None, list[Found]]:
    """How many runs it took, in the order of their seeds from ``seed`` on, what was seen, and what does not count."""
    others: list[Found] = []

    def enough(totals: Totals) -> bool:
        return totals.violations[-1].kind == proof.sees

    totals = run_seeds(options(proof, seed), range(seed, seed + runs), enough)
    others = [found for found in totals.violations if found.kind != proof.sees]
    found = next((found for found in totals.violations if found.kind == proof.sees), None)
    return totals.runs, found, others


def without(proof: Proof, seeds: range) -> Found | None:
    """What the product itself comes to in the same runs."""
    totals = run_seeds(replace(options(proof, seeds.start), mutants=()), seeds, lambda _: True)
    return totals.violations[0] if totals.violations else None


def chosen(names: list[str]) -> Iterator[Proof]:
    for proof in PROOFS:
        known = {*proof.mutants, proof.about, *(rule for name in proof.mutants for rule in MUTANTS[name].rules)}
        if not names or set(names) & known:
            yield proof


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster.proof", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="mutants, or what they break, such as R5.9 or P24; all if none is given"
    )
    parser.add_argument("--runs", type=int, default=RUNS_MAX, help="at most this many for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--suite", action="store_true", help="those that take few runs, each at most as many as it is given"
    )
    parser.add_argument("--no-control", action="store_true", help="without the runs of the product itself")
    given = parser.parse_args()
    quiet()
    failed = 0
    controlled: dict[tuple[str, ...], int] = {}  # kinds → runs without a mutant that were done
    print(f"{'breaks':<12}{'switched on':<36}{'runs':>5}{'s':>6}  what was seen")
    for proof in chosen(given.names):
        if given.suite and not proof.runs:
            continue
        started = time.monotonic()
        runs, found, others = first_violation(proof, given.seed, proof.runs if given.suite else given.runs)
        saw = found.message if found is not None else "NOTHING"
        if others:
            saw += f" (and {len(others)} that do not count, such as {others[0].message[:100]})"
        took_s = time.monotonic() - started
        print(f"{proof.breaks:<12}{' '.join(proof.mutants):<36}{runs:>5}{took_s:>6.0f}  {saw[:400]}", flush=True)
        failed += found is None
        if found is not None:
            print(f"{'':61}{replace(options(proof, given.seed), seed=found.seed).replay()}", flush=True)
        if not given.no_control and controlled.get(proof.kinds, 0) < runs:
            first, controlled[proof.kinds] = controlled.get(proof.kinds, 0), runs
            violation = without(proof, range(given.seed + first, given.seed + runs))
            if violation is not None:
                failed += 1
                print(f"{'':61}THE PRODUCT ITSELF: {violation.message}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation.cluster.proof", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
