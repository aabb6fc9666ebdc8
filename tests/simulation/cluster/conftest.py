"""A run that is over, in which a test plants what a check is there to notice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.simulation.cluster.world import Options, World


@pytest.fixture(scope="module")
def ended() -> Iterator[World]:
    """A run without faults, and over."""
    world = World(Options(seed=3, seconds=4.0, only_faults=()))
    world.run()
    yield world
    running = [*world.buried, *(server.process for server in world.servers.values()), *world.workload.clients.values()]
    for guest in running:  # what was under way ends here, and not in whichever test collects it
        if guest is not None:
            guest.end()
            for task in guest.loop.tasks:
                with contextlib.suppress(BaseException):
                    task.get_coro().close()


@pytest.fixture
def world(ended: World) -> World:
    ended._error = None
    return ended


@pytest.fixture
def running(world: World) -> Iterator[World]:
    """It goes on."""
    with world.ambience():
        yield world
