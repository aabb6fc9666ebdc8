"""Groups whose members change, and linearizable reads, over real gRPC and real files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stele.datanode.storage import opener
from stele.services.errors import InvalidArgument, NotLeader
from stele.services.raft.storage import Members
from tests.integration.raft.stores import Stores
from tests.support.eventually import eventually


async def test_a_store_joins_and_another_leaves_while_writes_go_on(tmp_path: Path) -> None:
    async with Stores(tmp_path, spare=1) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        written: list[bytes] = []
        going = True

        async def writes() -> None:
            while going:
                command = b"%d" % len(written)
                await leader.propose(command)
                written.append(command)

        writing = asyncio.ensure_future(writes())
        joiner = stores.stores[4]
        await joiner.create(1, [])
        await leader.add_member(4)
        leaver = next(i for i in (1, 2, 3) if i != leader.store_id)
        await leader.remove_member(leaver)
        going = False
        await writing
        expected = tuple(sorted({1, 2, 3, 4} - {leaver}))
        assert leader.members == Members(expected)
        await eventually(lambda: joiner.machines[1].applied == written)
        await stores.stores[leaver].stop()
        for i in expected:  # the majority is one of the new three
            if i != leader.store_id and i != 4:
                await stores.stores[i].stop()
                await leader.propose(b"two of three")
                await stores.stores[i].start()
                await stores.stores[i].create(1, stores.first)
                break
        await stores.stores[leaver].start()


async def test_a_store_joins_behind_the_start_of_the_log(tmp_path: Path) -> None:
    async with Stores(tmp_path, spare=1, open_storage=opener(16 << 10, 0)) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        commands = [b"%d" % i + b"." * 1000 for i in range(100)]
        for at in range(0, 100, 10):
            await asyncio.gather(*(leader.propose(c) for c in commands[at : at + 10]))
        snapshot = await leader.take_snapshot()
        assert snapshot is not None
        leader.compact(snapshot.index)
        await eventually(lambda: leader.journal.first_index > 1)
        await stores.stores[4].create(1, [])
        await leader.add_member(4)
        assert leader.members == Members((1, 2, 3, 4))
        await eventually(lambda: stores.stores[4].machines[1].applied == commands)


async def test_members_survive_a_restart_of_everybody(tmp_path: Path) -> None:
    async with Stores(tmp_path, spare=1) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        await stores.stores[4].create(1, [])
        await leader.add_member(4)
        for store in stores.stores.values():
            await store.stop()
        for store in stores.stores.values():
            await store.start()
        await stores.group(1)
        await stores.stores[4].create(1, [])
        leader = await stores.leader(1)
        assert leader.members == Members((1, 2, 3, 4))
        await leader.propose(b"after")
        await eventually(lambda: stores.stores[4].machines[1].applied == [b"after"])


async def test_who_does_not_lead_changes_and_reads_nothing(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        follower = next(g for g in stores.replicas(1) if g is not leader)
        with pytest.raises(NotLeader):
            await follower.change_members(Members((1, 2)))
        with pytest.raises(NotLeader):
            await follower.add_member(4)
        with pytest.raises(NotLeader):
            await follower.read_index()
        with pytest.raises(InvalidArgument, match="transfer its leadership first"):
            await leader.remove_member(leader.store_id)


async def test_a_read_sees_what_was_acknowledged_before_it(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        machine = stores.stores[leader.store_id].machines[1]
        last = leader.last_index
        for i in range(50):
            count = await leader.propose(b"%d" % i)
            assert isinstance(count, int)
            await leader.read_index()
            assert len(machine.applied) >= count
        assert leader.last_index == last + 50, "reads write nothing"
