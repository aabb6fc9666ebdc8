"""A store comes back and catches up in many groups at once, over one link.  Sizes are a 64th of the product's, in the same proportions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from stele.services.raft import lanes, progress, replication
from stele.services.raft.lanes import Lanes
from tests.integration.raft.stores import Stores
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.in_place import with_part

SCALE = 64
GROUPS = 32
PAYLOAD = bytes(4096)
EACH = 64  # entries a group: more than it may have in flight


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (lanes, "QUEUE_BYTES_MAX"),
        (lanes, "BULK_BYTES_MAX"),
        (lanes, "BATCH_BYTES_MAX"),
        (lanes, "FRAME_BYTES_MAX"),
        (progress, "INFLIGHT_BYTES_MAX"),
        (replication, "BATCH_BYTES_MAX"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) // SCALE)


async def test_p12_a_store_catches_up_in_many_groups_at_once(small: None, tmp_path: Path) -> None:
    runs = iter(range(10))

    @with_part
    async def scenario() -> None:
        async with Stores(tmp_path / str(next(runs))) as stores:
            back = stores.stores[3]
            for other in (2, 3):
                stores.stores[other].registry.may_lead = False  # store 1 leads all: one link carries everything
            for group in range(1, GROUPS + 1):
                await stores.group(group)
            await eventually(lambda: all(stores.stores[1].registry.get(g).is_leader for g in range(1, GROUPS + 1)))
            await back.stop()
            for group in range(1, GROUPS + 1):
                leader = await stores.leader(group)
                await asyncio.gather(*(leader.propose(PAYLOAD) for _ in range(EACH)))
            with (
                structlog.testing.capture_logs() as logged,
                promise("groups that catch up at once do not break their link"),
            ):
                await back.start()
                await asyncio.gather(*(back.create(group, [1, 2, 3]) for group in range(1, GROUPS + 1)))  # at once

                def broke() -> bool:
                    return any(line["event"] == "raft_link_overflow" for line in logged)

                def caught_up() -> bool:
                    return all(len(machine.applied) == EACH for machine in back.machines.values())

                await eventually(lambda: broke() or caught_up(), within_s=60)
                assert not broke()

    await holds_and_mutant_fails(scenario, Lanes, "links.GivesEverybodyRoom")
