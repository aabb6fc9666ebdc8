"""The engine and its journal under virtual time, with crashes, cuts, pauses and a disk that forgets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from lab.variants.h7_counts_itself_unsynced import CountsItself
from lab.variants.r3_8_promises_before_persisting import PromisesFirst
from lab.variants.r4_5_votes_without_its_log import VotesWithoutItsLog
from services.raft.engine import Engine
from tests.simulation.world import Options, Violation, World


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_three_replicas_keep_what_they_acknowledged(first: int) -> None:
    for seed in range(first, first + 10):
        World(seed, Options(nodes=3, seconds=20)).run()


@pytest.mark.parametrize("first", range(0, 10, 5))
def test_five_replicas_keep_what_they_acknowledged(first: int) -> None:
    for seed in range(first, first + 5):
        World(seed, Options(nodes=5, seconds=20)).run()


def test_the_same_seed_gives_the_same_run() -> None:
    traces = []
    for _ in range(2):
        world = World(7, Options(nodes=3, seconds=8))
        world.run()
        traces.append((world.trace, world.events, world.acked))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("wrong", [PromisesFirst, CountsItself, VotesWithoutItsLog])
def test_the_simulator_finds_what_is_wrong(wrong: type[Engine]) -> None:
    """It proves itself: a variant that breaks a correction is caught."""
    for seed in range(100):
        try:
            World(seed, Options(nodes=3, seconds=20, make_engine=wrong)).run()
        except Violation:
            return
    pytest.fail(f"100 runs did not show what is wrong with {wrong.__name__}")
