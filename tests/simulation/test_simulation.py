"""Whole replicas under virtual time: what was acknowledged stays, and what is wrong on purpose is found."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from stele.services.raft import lanes, proposals
from tests.simulation.runner import Totals, quiet, run_one, run_seeds
from tests.simulation.selfproof import PROOFS, Proof, first_violation
from tests.simulation.shrink import report, shrink
from tests.simulation.world import Options, World

RUNS = 50
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 500, RUNS))
def test_replicas_keep_what_they_acknowledged(first: int) -> None:
    totals = run_seeds(Options(), range(first, first + RUNS), lambda totals: bool(totals.violations))
    if totals.violations:
        pytest.fail(report(shrink(Options(totals.violations[0].seed), within_s=20)))


def test_bounds_are_met_under_pressure_and_kept() -> None:
    totals = run_seeds(Options(pressure=True), range(20))
    assert not totals.violations
    for what in ("proposals of a group", "requests in flight to a follower", "reads of a group"):
        assert totals.nearest[what] == 1.0
    for what in ("bytes in flight to a follower", "bytes of a replica that wait for its disk"):
        assert totals.nearest[what] > 0.6  # the last piece may be smaller than the largest, for which there is room
    assert proposals.PENDING_MAX == 20_000


def test_groups_that_share_links_take_turns() -> None:
    totals = run_seeds(Options(groups=10), range(20))
    assert not totals.violations
    assert totals.counts["commits of other groups"] > 500
    assert 0.25 < totals.nearest["entries that wait for a link"] <= 1.0  # BULK_BYTES_MAX were there
    assert lanes.QUEUE_BYTES_MAX == 64 << 20


@pytest.mark.parametrize("proof", [p for p in PROOFS if p.runs], ids=lambda p: "+".join(p.mutants))
def test_it_finds_what_is_wrong(proof: Proof) -> None:
    runs, found = first_violation(proof.options(0), proof.runs)
    assert found is not None, f"{runs} runs did not show what is wrong with {' and '.join(proof.mutants)}"


_DIGEST = """
import sys
from stele.services.raft import lanes, proposals
from tests.simulation.runner import quiet
from tests.simulation.world import Options, World
quiet()
for seed in (7, 8, 9):
    world = World(Options(seed, traced=True))
    world.run()
    print(world.digest())
"""


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
        ran = subprocess.run(
            [sys.executable, "-c", _DIGEST], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
        )
        found.add(ran.stdout)
    assert len(found) == 1


def test_tracing_changes_nothing() -> None:
    plain, traced = World(Options(3)), World(Options(3, traced=True))
    plain.run()
    traced.run()
    assert plain.scheduler.events == traced.scheduler.events
    assert plain.workload.acked == traced.workload.acked


def test_a_violation_is_shrunk_to_few_faults_and_replayed() -> None:
    wrong = Options(mutants=("replication.PromisesFirst",))
    seed = run_seeds(wrong, range(100), lambda totals: bool(totals.violations)).violations[0].seed
    shrunk = shrink(Options(seed, mutants=wrong.mutants), within_s=20)
    assert len(shrunk.faults) <= 5
    again = run_one(shrunk.options, Totals())
    assert str(again) == str(shrunk.violation)
    assert f"SEED={seed}" in report(shrunk)
