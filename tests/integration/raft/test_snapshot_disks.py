"""A disk that is full or fails while a replica writes, installs or drops snapshots: read-only or failed, never wrong (H7)."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stele.datanode.storage import opener
from stele.services.errors import DiskFull, StorageFailed
from stele.services.files import File, OsFileSystem
from stele.services.raft.group import Group
from tests.integration.raft.stores import Store, Stores
from tests.support.eventually import eventually


class FailingDisk(OsFileSystem):
    """Operations on files whose names hold ``name``, below ``folder``, fail with ``number``."""

    def __init__(self) -> None:
        self.number = 0
        self.name = ".snap"
        self.folder = Path("/")

    def _may_fail(self, path: Path) -> None:
        if self.number and self.name in path.name and path.is_relative_to(self.folder):
            raise OSError(self.number, os.strerror(self.number), str(path))

    def create(self, path: Path) -> File:
        self._may_fail(path)
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        self._may_fail(target)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._may_fail(path)
        super().unlink(path)


@asynccontextmanager
async def alone(folder: Path, disk: FailingDisk) -> AsyncIterator[tuple[Stores, Group]]:
    async with Stores(folder, count=1, open_storage=opener(16 << 10, 0, disk)) as stores:
        await stores.group(1)
        group = await stores.leader(1)
        for i in range(60):
            await group.propose(b"%06d" % i + b"." * 1000)
        yield stores, group


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_no_room_for_a_snapshot_changes_nothing_and_is_over_when_there_is_room(
    tmp_path: Path, number: int
) -> None:
    disk = FailingDisk()
    async with alone(tmp_path, disk) as (_, group):
        disk.number = number
        for _ in range(2):
            with pytest.raises(DiskFull):
                await group.take_snapshot()
        assert group.snapshots == ()
        await group.propose(b"writes go on")
        disk.number = 0
        snapshot = await group.take_snapshot()
        assert snapshot is not None
        assert group.snapshots == (snapshot,)


async def test_h7_a_snapshot_that_cannot_be_written_ends_the_replica(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with alone(tmp_path, disk) as (stores, group):
        disk.number = errno.EIO
        with pytest.raises(StorageFailed):
            await group.take_snapshot()
        assert group.state == "failed"
        with pytest.raises(StorageFailed):
            await group.propose(b"too late")
        disk.number = 0
        await stores.stores[1].stop()
        await stores.stores[1].start()
        await stores.group(1)
        again = await stores.leader(1)
        await eventually(lambda: len(stores.stores[1].machines[1].applied) == 60)
        assert await again.take_snapshot() is not None


async def test_h7_a_compaction_that_fails_ends_the_replica_and_loses_nothing(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with alone(tmp_path, disk) as (stores, group):
        first = await group.take_snapshot()
        for i in range(60, 90):
            await group.propose(b"%06d" % i + b"." * 1000)
        second = await group.take_snapshot()
        assert first is not None
        assert second is not None
        disk.number = errno.EIO
        assert group.compact(second.index)
        await eventually(lambda: group.state == "failed")
        disk.number = 0
        await stores.stores[1].stop()
        await stores.stores[1].start()
        await stores.group(1)
        await stores.leader(1)
        await eventually(lambda: len(stores.stores[1].machines[1].applied) == 90)


@pytest.mark.parametrize("name", ["incoming.part", ".snap", ".seg"])
async def test_a_follower_without_room_for_a_snapshot_catches_up_when_it_has_some(tmp_path: Path, name: str) -> None:
    """Wherever on the way from the first chunk to the log's new beginning the room runs out."""
    disk = FailingDisk()
    async with Stores(tmp_path, open_storage=opener(16 << 10, 0, disk)) as stores:
        leader, absent, index = await _behind(stores)
        await absent.start()
        group = await absent.create(1, stores.first)
        disk.folder, disk.name, disk.number = tmp_path / str(absent.store_id), name, errno.ENOSPC
        with pytest.raises(TimeoutError):
            await _caught_up(group, index, within_s=1.5)
        assert group.state == "follower"
        disk.number = 0
        await _caught_up(group, index, within_s=15)
        assert absent.machines[1].applied == stores.stores[leader.store_id].machines[1].applied


async def test_h7_a_follower_whose_disk_fails_under_a_snapshot_ends_and_the_transfer_goes_on_after_a_restart(
    tmp_path: Path,
) -> None:
    disk = FailingDisk()
    async with Stores(tmp_path, open_storage=opener(16 << 10, 0, disk)) as stores:
        _, absent, index = await _behind(stores)
        await absent.start()
        group = await absent.create(1, stores.first)
        disk.folder, disk.name, disk.number = tmp_path / str(absent.store_id), "incoming.part", errno.EIO
        await eventually(lambda: group.state == "failed")
        disk.number = 0
        await absent.stop()
        await absent.start()
        await _caught_up(await absent.create(1, stores.first), index, within_s=15)


async def _behind(stores: Stores) -> tuple[Group, Store, int]:
    """A leader, a stopped store that is behind the start of the leader's log, and the entry at which that begins."""
    await stores.group(1)
    leader = await stores.leader(1)
    absent = next(s for s in stores.stores.values() if s.store_id != leader.store_id)
    await leader.propose(b"000000")
    await absent.stop()
    for i in range(1, 120):
        await leader.propose(b"%06d" % i + b"." * 1000)
    index = leader.applied_index
    for group in stores.replicas(1):  # whoever leads when the store comes back has nothing else to give it
        await eventually(lambda group=group: group.applied_index >= index)
        snapshot = await group.take_snapshot()
        assert snapshot is not None
        assert group.compact(snapshot.index)
        await eventually(lambda group=group: group.journal.first_index > index)
    return leader, absent, index


async def _caught_up(group: Group, index: int, within_s: float) -> None:
    try:
        await eventually(lambda: group.journal.synced_index >= index and group.journal.first_index > 1, within_s)
    except AssertionError as e:
        raise TimeoutError from e
