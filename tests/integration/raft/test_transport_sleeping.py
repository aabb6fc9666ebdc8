"""Sleeping groups over real links: what they cost, and what wakes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stele.services.raft.group import Group
from stele.services.raft.transport import RaftTransport
from tests.integration.raft.stores import TIMING, Stores
from tests.support.eventually import eventually

GROUPS = 40


class Said:
    """Counts the Raft messages of all stores."""

    def __init__(self, stores: Stores) -> None:
        self.by_kind: Counter[str] = Counter()
        for store in stores.stores.values():
            store.registry._ticker.send = self._counted(store.transport)

    def _counted(self, transport: RaftTransport):  # type: ignore[no-untyped-def]
        def send(to, message):  # type: ignore[no-untyped-def]
            self.by_kind[message.WhichOneof("body")] += 1
            transport.send(to, message)

        return send


async def all_asleep(stores: Stores, groups: int = GROUPS) -> None:
    await eventually(
        lambda: all(r.engine.asleep for g in range(1, groups + 1) for r in stores.replicas(g)),
        within_s=30,
        describe=lambda: [stores.describe(g) for g in range(1, groups + 1)],
    )


async def started(stores: Stores, groups: int = GROUPS) -> None:
    await asyncio.gather(*(stores.group(g) for g in range(1, groups + 1)))
    for g in range(1, groups + 1):
        await stores.propose(g, b"first")


async def test_idle_groups_say_nothing_and_have_no_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        said, turns = Said(stores), Counter[int]()
        step = Group.step

        def counted(group: Group) -> float:
            turns[group.group_id] += 1
            return step(group)

        monkeypatch.setattr(Group, "step", counted)
        await asyncio.sleep(3 * TIMING.election_max_s)
        assert not said.by_kind
        assert not turns
        assert all(not s.registry._ticker._deadlines for s in stores.stores.values())
        for g in range(1, GROUPS + 1):
            assert sum(r.is_leader for r in stores.replicas(g)) == 1


async def test_a_wake_up_costs_a_few_messages_of_one_group(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        said = Said(stores)
        leader = await stores.leader(7)
        await leader.propose(b"second")
        assert sum(said.by_kind.values()) <= 6
        await eventually(lambda: leader.engine.asleep)
        for store in stores.stores.values():
            await eventually(lambda s=store: s.machines[7].applied == [b"first", b"second"])


async def test_the_death_of_a_node_wakes_its_groups_and_they_elect_at_once(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        victim = stores.stores.pop((await stores.leader(1)).store_id)
        await victim.stop()
        for g in range(1, GROUPS + 1):
            await stores.propose(g, b"second")
        await victim.start()
        stores.stores[victim.store_id] = victim
        for g in range(1, GROUPS + 1):
            await victim.create(g, [1, 2, 3])
            await eventually(lambda g=g: victim.machines[g].applied == [b"first", b"second"])
        await all_asleep(stores)


async def test_a_deleted_leading_replica_is_succeeded_while_its_node_lives(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        leader = await stores.leader(3)
        await stores.stores[leader.store_id].registry.delete(3)
        successor = await stores.propose(3, b"second")
        assert successor.store_id != leader.store_id


async def test_r4_1_a_replica_that_starts_under_a_sleeping_leader_catches_up_before_it_is_settled(
    tmp_path: Path,
) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        leader = await stores.leader(5)
        follower = next(s for i, s in stores.stores.items() if i != leader.store_id)
        await follower.registry.stop_group(5)
        await leader.propose(b"second")
        await eventually(lambda: not leader.engine.reads and leader.last_index == leader.applied_index)
        follower.machines.pop(5)
        group = await follower.create(5, [1, 2, 3])
        await eventually(lambda: group.settled)
        assert follower.machines[5].applied == [b"first", b"second"]


async def test_every_group_of_a_drained_store_is_handed_over(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await started(stores)
        await all_asleep(stores)
        for store in stores.stores.values():
            assert await store.registry.transfer_all(10.0) == 0
            store.registry.may_lead = True
            await eventually(
                lambda: all(sum(r.is_leader for r in stores.replicas(g)) == 1 for g in range(1, GROUPS + 1))
            )
        await all_asleep(stores)
