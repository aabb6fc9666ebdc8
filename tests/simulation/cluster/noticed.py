"""What a check of the simulated cluster has noticed."""

from __future__ import annotations

from tests.simulation.cluster.world import World


def noticed(world: World) -> str:
    return world._error.kind if world._error is not None else ""
