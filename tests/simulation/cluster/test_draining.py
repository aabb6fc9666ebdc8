"""A datanode that is told to end while it still opens."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.cluster.process import Process
from tests.simulation.cluster.world import Options, World
from tests.simulation.runner import release


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a run leaves is given back between runs, as in a series of them."""
    gc.disable()
    yield
    release()
    gc.enable()


@pytest.mark.parametrize("after_ms", range(5, 12))
def test_r4_8_a_datanode_that_still_opens_ends_in_order(after_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Options(seed=3, seconds=3.0, only_faults=()))
    told = world._told

    def telling(process: Process, name: str, facts: dict[str, Any]) -> None:
        told(process, name, facts)
        if process.host == "dn1" and name == "groups_loaded" and process.server.starts == 2:
            world.scheduler.after(after_ms / 1000, process.terminate)

    monkeypatch.setattr(world, "_told", telling)
    world.scheduler.at(2.0, lambda: world.servers["dn1"].kill(0.1))
    world.run()
    assert world.servers["dn1"].starts >= 3, "it was told to end, and an operator started it again"
