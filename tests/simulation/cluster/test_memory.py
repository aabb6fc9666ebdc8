"""A series of runs in one process: none leaves anything behind, and none knows which ones came before."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.cluster.world import Options, World
from tests.simulation.runner import quiet, release

RUNS = 3
SPARE_OBJECTS = 2_000  # of some 50,000 that a run has: caches fill, the counts of generations differ


def _live_objects(seed: int) -> list[tuple[int, int, int]]:
    """Of each of a series of equal runs: its events, and afterwards how many objects live, and how many worlds."""
    quiet()
    found = []
    for _ in range(RUNS):
        world = World(Options(seed))
        world.run()
        events = world.events
        del world
        release()
        live = gc.get_objects()
        found.append((events, len(live), sum(type(each) is World for each in live)))
    return found


@pytest.mark.timeout(600)
def test_runs_leave_nothing_behind() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        found = alone.submit(_live_objects, 7).result()
    events, objects, worlds = zip(*found, strict=True)
    assert set(worlds) == {0}, found
    assert max(objects[1:]) - objects[1] < SPARE_OBJECTS, found
    assert len(set(events)) == 1, f"a run depends on those before it: {found}"
