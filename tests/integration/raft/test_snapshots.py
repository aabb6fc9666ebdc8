"""Snapshots over real gRPC and real files: a follower behind the log's start, transfers that break, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stele.datanode.storage import opener
from stele.services.errors import ConnectionBroken, InvalidArgument
from stele.services.raft.group import Group
from tests.integration.raft.stores import Store, Stores
from tests.support.eventually import eventually

SMALL_SEGMENTS = opener(16 << 10, 0)


async def write(leader: Group, count: int, size: int = 1000) -> list[bytes]:
    """``count`` commands, ten at a time: what is proposed at once stands in one segment."""
    commands = [b"%06d" % i + b"." * size for i in range(leader.last_index, leader.last_index + count)]
    for at in range(0, count, 10):
        await asyncio.gather(*(leader.propose(c) for c in commands[at : at + 10]))
    return commands


async def compacted(stores: Stores) -> tuple[Group, Store, list[bytes]]:
    """A leader that has dropped what store ``absent`` (stopped) would need next, and all commands."""
    await stores.group(1)
    leader = await stores.leader(1)
    commands = await write(leader, 20)
    absent = next(s for s in stores.stores.values() if s.store_id != leader.store_id)
    await absent.stop()
    commands += await write(leader, 200)
    snapshot = await leader.take_snapshot()
    assert snapshot is not None
    assert leader.compact(snapshot.index)
    await eventually(lambda: leader.journal.first_index > 100)
    commands += await write(leader, 20)
    return leader, absent, commands


async def test_a_follower_behind_the_start_is_brought_back(tmp_path: Path) -> None:
    async with Stores(tmp_path, open_storage=SMALL_SEGMENTS) as stores:
        leader, absent, commands = await compacted(stores)
        await absent.start()
        group = await absent.create(1, stores.first)
        await eventually(lambda: absent.machines[1].applied == commands)
        assert group.journal.first_index == leader.snapshots[0].index + 1
        assert [s.index for s in group.snapshots] == [leader.snapshots[0].index]
        commands += await write(leader, 5)
        await absent.stop()  # and what it was given is there after a restart
        await absent.start()
        group = await absent.create(1, stores.first)
        assert group.applied_index >= leader.snapshots[0].index
        await eventually(lambda: absent.machines[1].applied == commands)


async def test_a_transfer_that_breaks_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with Stores(tmp_path, open_storage=SMALL_SEGMENTS) as stores:
        _, absent, commands = await compacted(stores)
        await absent.start()
        offsets: list[int] = []
        fetch = absent.transport.fetch_snapshot

        async def breaks(store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]:
            offsets.append(offset)
            async for chunk in fetch(store_id, group_id, index, offset):
                yield chunk[:50_000]
                raise ConnectionBroken("the transfer broke")

        absent.transport.fetch_snapshot = breaks  # type: ignore[method-assign]
        await absent.create(1, stores.first)
        await eventually(lambda: absent.machines[1].applied == commands)
        assert offsets == [50_000 * i for i in range(len(offsets))]
        assert len(offsets) > 3


async def test_bytes_that_do_not_check_are_fetched_again_and_replace_nothing(tmp_path: Path) -> None:
    async with Stores(tmp_path, open_storage=SMALL_SEGMENTS) as stores:
        _, absent, commands = await compacted(stores)
        await absent.start()
        fetch = absent.transport.fetch_snapshot
        calls = 0

        async def lies_once(*asked: Any) -> AsyncIterator[bytes]:
            nonlocal calls
            calls += 1
            async for chunk in fetch(*asked):
                yield bytes(len(chunk)) if calls == 1 else chunk

        absent.transport.fetch_snapshot = lies_once  # type: ignore[method-assign]
        group = await absent.create(1, stores.first)
        await eventually(lambda: calls == 1)
        assert group.engine.failed is None
        await eventually(lambda: absent.machines[1].applied == commands)
        assert calls == 2


async def test_a_restart_applies_only_what_the_snapshot_does_not_stand_for(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        commands = await write(leader, 100)
        follower = next(s for s in stores.stores.values() if s.store_id != leader.store_id)
        await eventually(lambda: follower.machines[1].applied == commands)
        group = follower.registry.get(1)
        assert group is not None
        snapshot = await group.take_snapshot()
        assert snapshot is not None
        assert await group.take_snapshot() is None, "nothing was applied since"
        await follower.stop()
        await follower.start()
        group = await follower.create(1, stores.first)
        assert group.applied_index == snapshot.index
        assert follower.machines[1].applied == commands


async def test_only_a_snapshot_that_is_there_can_become_the_oldest(tmp_path: Path) -> None:
    async with Stores(tmp_path) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        with pytest.raises(InvalidArgument, match="no snapshot at entry 7"):
            leader.compact(7)


async def test_a_replica_stops_in_the_middle_of_a_transfer(tmp_path: Path) -> None:
    async with Stores(tmp_path, open_storage=SMALL_SEGMENTS) as stores:
        leader, absent, commands = await compacted(stores)
        await absent.start()
        under_way = asyncio.Event()

        async def hangs(*_: Any) -> AsyncIterator[bytes]:
            under_way.set()
            await asyncio.sleep(3600)
            yield b""

        absent.transport.fetch_snapshot = hangs  # type: ignore[method-assign]
        await absent.create(1, stores.first)
        await under_way.wait()
        await absent.stop()
        await absent.start()
        await absent.create(1, stores.first)
        await eventually(lambda: absent.machines[1].applied == commands)
        await leader.propose(b"on")


async def test_p39_a_leader_whose_snapshot_is_damaged_lets_another_lead(tmp_path: Path) -> None:
    async with Stores(tmp_path, open_storage=SMALL_SEGMENTS) as stores:
        leader, absent, commands = await compacted(stores)
        other = next(s for s in stores.stores.values() if s.store_id not in (leader.store_id, absent.store_id))
        group = other.registry.get(1)
        assert group is not None
        await eventually(lambda: group.applied_index == leader.applied_index)
        snapshot = await group.take_snapshot()
        assert snapshot is not None
        assert group.compact(snapshot.index)
        [path] = leader._directory.glob("*.snap")
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xa5")
        await absent.start()
        await absent.create(1, stores.first)
        await eventually(lambda: absent.machines[1].applied == commands, 30)
        assert not leader.is_leader
        assert path.exists(), "it is needed, and stays"
