"""Groups over real gRPC and real files."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from stele.services.errors import GroupStopped, MessageTooLarge, NotLeader, StoreMismatch
from stele.services.raft import transport
from stele.services.raft.links import Link
from stele.services.rpc.resolution import StoreAddress
from tests.integration.raft.stores import Stores
from tests.support.eventually import eventually


async def test_proposals_reach_every_replica_in_one_order(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        results = await asyncio.gather(*(leader.propose(b"%d" % i) for i in range(500)))
        assert results == list(range(1, 501))
        expected = [b"%d" % i for i in range(500)]
        for store in stores.stores.values():
            await eventually(lambda s=store: s.machines[1].applied == expected)


async def test_a_restart_of_all_stores_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await asyncio.gather(*(leader.propose(b"%d" % i) for i in range(200)))
        for store in stores.stores.values():
            await store.stop()
        for store in stores.stores.values():
            await store.start()
        await stores.group(1)
        leader = await stores.leader(1)
        await leader.propose(b"after")
        for store in stores.stores.values():
            await eventually(lambda s=store: len(s.machines[1].applied) == 201)


async def test_the_death_of_the_leader_is_noticed_by_its_refused_port(tmp_path: Path) -> None:
    """Fast failover: the election does not wait for the timeout.  Generous bound; the figure itself is a benchmark's."""
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await leader.propose(b"one")
        dead = stores.stores[leader.store_id]
        await dead.stop()
        rest = {i: s for i, s in stores.stores.items() if s is not dead}
        stores.stores = rest
        successor = await stores.leader(1)
        assert successor.store_id != dead.store_id
        await successor.propose(b"two")
        for store in rest.values():
            await eventually(lambda s=store: s.machines[1].applied == [b"one", b"two"])
        await dead.start()
        stores.stores[dead.store_id] = dead
        await dead.create(1, [1, 2, 3])
        await eventually(lambda: dead.machines[1].applied == [b"one", b"two"])


async def test_a_follower_refuses_proposals_and_names_the_leader(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await leader.propose(b"one")
        follower = next(g for g in stores.replicas(1) if not g.is_leader)
        await eventually(lambda: follower.leader_store_id == leader.store_id)
        with pytest.raises(NotLeader) as refused:
            await follower.propose(b"two")
        assert refused.value.facts["leader"] == str(leader.store_id)


async def test_h13_an_entry_over_the_limit_is_refused_and_one_at_the_limit_travels_whole(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        with pytest.raises(MessageTooLarge):
            await leader.propose(b"x" * ((1 << 20) + 1))
        await leader.propose(b"x" * (1 << 20))
        for store in stores.stores.values():
            await eventually(lambda s=store: [len(c) for c in s.machines[1].applied] == [1 << 20])


async def test_leadership_is_handed_over(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await leader.propose(b"one")
        await eventually(leader.transfer_leadership)
        successor = await eventually(
            lambda: next((g for g in stores.replicas(1) if g.is_leader and g is not leader), None)
        )
        assert successor is not None
        await successor.propose(b"two")


async def test_r4_2_a_closed_gate_neither_campaigns_nor_takes_over(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        stores.stores[1].registry.may_lead = False
        stores.stores[2].registry.may_lead = False
        await stores.group(1)
        leader = await stores.leader(1)
        assert leader.store_id == 3
        await leader.propose(b"one")
        assert leader.transfer_leadership()
        await eventually(lambda: not leader.successor)  # given up
        await leader.propose(b"two")
        assert leader.is_leader
        assert [g.store_id for g in stores.replicas(1) if g.is_leader] == [3]


async def test_r2_5_a_message_for_another_store_is_refused_and_resolved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "DIAL_ANYWAY_S", 60.0)  # store 3 would dial by itself
    async with Stores(tmp_path) as stores:
        right = stores.addresses[3]
        wrong = stores.addresses[2]
        stores.addresses[3] = StoreAddress("", wrong.raft_endpoint)  # the address was reused by another store
        await stores.group(1)
        await stores.leader(1)
        assert not stores.stores[1].transport.is_connected(3)
        stores.addresses[3] = right
        await eventually(lambda: stores.stores[1].transport.is_connected(3), within_s=40)
        assert StoreMismatch.retryable


async def test_r2_5_dialling_a_reused_address_costs_the_store_that_is_there_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "DIAL_ANYWAY_S", 60.0)
    async with Stores(tmp_path) as stores:
        stores.addresses[3] = StoreAddress("", stores.addresses[2].raft_endpoint)
        links = stores.stores[1].transport
        dial_once, dialled = links._dial_once, Counter[int]()

        async def counted(link: Link, endpoint: str) -> bool:
            dialled[link.store_id] += 1
            return await dial_once(link, endpoint)

        monkeypatch.setattr(links, "_dial_once", counted)
        await stores.group(1)
        await eventually(lambda: dialled[3] >= 5)
        assert links.is_connected(2)
        assert dialled[2] == 1, "its stream was broken by the other one's"


async def test_r3_7_a_group_whose_directory_vanished_stops_itself(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await leader.propose(b"one")
        victim = next(g for g in stores.replicas(1) if not g.is_leader)
        shutil.rmtree(stores.stores[victim.store_id].registry.path(1))
        await eventually(lambda: victim.state == "failed")
        with pytest.raises(GroupStopped):
            await victim.propose(b"two")
        await leader.propose(b"two")
