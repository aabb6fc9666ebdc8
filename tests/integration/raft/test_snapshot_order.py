"""A replica's snapshot never gets ahead of its log on disk (H10)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.storage import opener
from stele.services.files import File, OsFileSystem
from stele.services.raft.snapshotting import Snapshotting
from tests.integration.raft.stores import Stores
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


class GatedFile:
    """Its syncs wait at the disk's gate."""

    def __init__(self, inner: File, path: Path, disk: GatedDisk) -> None:
        self._inner, self._path, self._disk = inner, path, disk

    def size(self) -> int:
        return self._inner.size()

    def pread(self, length: int, offset: int) -> bytes:
        return self._inner.pread(length, offset)

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        self._inner.pwrite(buffers, offset)

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)

    def fdatasync(self) -> None:
        if self._disk.slow is not None and self._path.is_relative_to(self._disk.slow) and ".seg" in self._path.name:
            self._disk.gate.wait(30)
        self._inner.fdatasync()

    def close(self) -> None:
        self._inner.close()


class GatedDisk(OsFileSystem):
    """While ``gate`` is shut, syncs of log segments below ``slow`` do not return."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.slow: Path | None = None

    def create(self, path: Path) -> File:
        return GatedFile(super().create(path), path, self)

    def open(self, path: Path) -> File:
        return GatedFile(super().open(path), path, self)


async def test_h10_a_snapshot_waits_for_the_sync_of_what_it_stands_for(tmp_path: Path) -> None:
    async def scenario(snapshotting: type[Snapshotting]) -> None:
        disk = GatedDisk()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stele.services.raft.group.Snapshotting", snapshotting)
            folder = tmp_path / snapshotting.__name__
            async with Stores(folder, open_storage=opener(1 << 20, 0, disk)) as stores:
                try:
                    await stores.group(1)
                    leader = await stores.leader(1)
                    await leader.propose(b"first")
                    disk.slow = folder / str(leader.store_id)
                    await leader.propose(b"held by the two others")
                    index = leader.applied_index
                    assert leader.journal.synced_index < index
                    taking = asyncio.create_task(leader.take_snapshot())
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(taking), 0.5)
                    with promise("a snapshot stands for entries that are synced here"):
                        assert not leader.snapshots or leader.journal.synced_index >= leader.snapshots[-1].index
                finally:
                    disk.gate.set()
                snapshot = await asyncio.wait_for(taking, 10)
                assert snapshot is not None
                assert snapshot.index == index
                await eventually(lambda: leader.journal.synced_index >= index)

    await holds_and_mutant_fails(scenario, Snapshotting, "snapshots.SnapshotsBeforeTheSync")


async def test_a_snapshot_that_waits_ends_with_its_replica(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with Stores(tmp_path, open_storage=opener(1 << 20, 0, disk)) as stores:
        await stores.group(1)
        leader = await stores.leader(1)
        disk.slow = tmp_path / str(leader.store_id)
        await leader.propose(b"held by the two others")
        taking = asyncio.create_task(leader.take_snapshot())
        await asyncio.sleep(0.1)
        assert not taking.done()
        stopping = asyncio.create_task(leader.stop())
        await asyncio.wait([taking], timeout=5)
        disk.gate.set()
        await stopping
        assert taking.done()
        assert taking.exception() is not None or leader.journal.synced_index >= leader.snapshots[-1].index
