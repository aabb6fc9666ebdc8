"""A full disk and a failing one: typed to producers, readers served, nothing acknowledged lost."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stele.datanode.role import Parts
from stele.services.errors import DiskFull, SteleError
from stele.services.files import File, OsFileSystem
from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import Cluster, Node
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch

MIB = 1 << 20


class Meter:
    """What the disk says it has left."""

    def __init__(self, free_bytes: int) -> None:
        self.free = free_bytes

    def __call__(self) -> int:
        return self.free


async def test_below_the_reserve_producers_are_refused_and_the_rest_goes_on(datanodes: Cluster) -> None:
    meter = Meter(100 * MIB)
    node = datanodes.node("dn1", disk_reserve_bytes=0)
    await node.start(Parts(free_bytes=meter))
    node.store.disk._reserve_bytes = 64 * MIB
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(3))
    meter.free = 10 * MIB
    await eventually(lambda: node.store.disk.disk_full)
    with pytest.raises(DiskFull):
        await node.append(1, make_batch())
    assert (await node.fetch(1, 0)).high_watermark == 3
    create = pb.CreateCursorRequest(group=1, owner_epoch=1, subscription="s", earliest=True)
    assert (await node.call("CreateCursor", create)).created
    meter.free = 65 * MIB
    await asyncio.sleep(1.2)
    assert node.store.disk.disk_full, "the answer must not flicker at the limit"
    meter.free = 100 * MIB
    await eventually(lambda: not node.store.disk.disk_full)
    assert [r.base_offset for r in await node.append(1, make_batch())] == [3]


async def test_a_leader_without_room_hands_over_to_one_that_has_some(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    leader = await datanodes.leader(1)
    meter = Meter(10 * MIB)
    leader.store.disk._free_bytes, leader.store.disk._reserve_bytes = meter, 64 * MIB
    await eventually(lambda: leader.store.disk.disk_full)
    await eventually(lambda: any(n.store.registry.get(1).is_leader for n in nodes if n is not leader))
    [stored] = await datanodes.appended(1, make_batch())
    assert stored.base_offset == 1


class FailingFile:
    """A file whose writes the test can make fail."""

    def __init__(self, inner: File, disk: FailingDisk) -> None:
        self._inner, self._disk = inner, disk

    def size(self) -> int:
        return self._inner.size()

    def pread(self, length: int, offset: int) -> bytes:
        return self._inner.pread(length, offset)

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        if self._disk.write_errno:
            raise OSError(self._disk.write_errno, os.strerror(self._disk.write_errno))
        self._inner.pwrite(buffers, offset)

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)

    def fdatasync(self) -> None:
        if self._disk.sync_errno:
            raise OSError(self._disk.sync_errno, os.strerror(self._disk.sync_errno))
        self._inner.fdatasync()

    def close(self) -> None:
        self._inner.close()


class FailingDisk(OsFileSystem):
    write_errno = 0
    sync_errno = 0

    def create(self, path: Path) -> File:
        return FailingFile(super().create(path), self)

    def open(self, path: Path) -> File:
        return FailingFile(super().open(path), self)


async def test_when_writes_fail_for_want_of_space_nothing_is_lost_and_writing_resumes(datanodes: Cluster) -> None:
    disk = FailingDisk()
    node = datanodes.node("dn1")
    await node.start(Parts(file_system=disk))
    await datanodes.create(1)
    for i in range(5):
        await datanodes.appended(1, make_batch(1, producer_id=7, sequence=i))
    disk.write_errno = errno.ENOSPC
    first = asyncio.create_task(node.append(1, make_batch(1, producer_id=7, sequence=5)))
    await eventually(lambda: node.store.registry.get(1).disk_full)
    with pytest.raises(DiskFull):
        await node.append(1, make_batch(1, producer_id=7, sequence=6))
    assert (await node.fetch(1, 0)).high_watermark == 5
    disk.write_errno = 0
    assert [r.base_offset for r in await first] == [5]
    [again] = await datanodes.appended(1, make_batch(1, producer_id=7, sequence=5))
    assert (again.base_offset, again.duplicate) == (5, True)
    [after] = await datanodes.appended(1, make_batch(1, producer_id=7, sequence=6))
    assert after.base_offset == 6


async def test_a_disk_that_fails_costs_its_replicas_not_the_process(datanodes: Cluster) -> None:
    disk = FailingDisk()
    nodes = [datanodes.node(f"dn{i}") for i in (1, 2, 3)]
    for node in nodes:
        await node.start(Parts(file_system=disk) if node is nodes[0] else None)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    await lead(nodes[0], nodes)
    disk.sync_errno = errno.EIO
    outcome = await asyncio.gather(nodes[0].append(1, make_batch()), return_exceptions=True)
    if isinstance(outcome[0], SteleError):
        assert not outcome[0].definite or outcome[0].retryable
    await eventually(lambda: nodes[0].store.replicas[1].state == "failed")

    async def takes_writes() -> bool:
        live = await datanodes.leader(1)
        return live is not nodes[0] and bool(await live.append(1, make_batch()))

    await eventually(takes_writes)
    with pytest.raises(SteleError):
        await nodes[0].fetch(1, 0)
    async for status in nodes[0].stub.WatchStore(pb.WatchStoreRequest()):
        assert status.replicas[0].state == "failed"
        assert "stopped" in status.replicas[0].problem
        break
    await nodes[0].stop()
    await nodes[0].start()
    end = (await (await datanodes.leader(1)).fetch(1, 0)).high_watermark
    await datanodes.replicated(1, end)


async def lead(node: Node, nodes: Sequence[Node]) -> None:
    """Moves the leadership of group 1 to ``node``."""

    def ask() -> bool:
        for other in nodes:
            group = other.store.registry.get(1)
            if group.is_leader and other is not node:
                group.engine.transfer_leadership(to=node.store_id)
                other.store.registry._ticker.wake(group)
        return bool(node.store.registry.get(1).is_leader)

    await eventually(ask)


class SmallFile(FailingFile):
    """Writes as far as there is room, then ENOSPC, as a real disk does."""

    def __init__(self, inner: File, disk: SmallDisk) -> None:
        super().__init__(inner, disk)
        self._small = disk

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        content = b"".join(buffers)
        room = self._small.room() + max(0, self._inner.size() - offset)
        self._inner.pwrite([content[:room]], offset)
        if len(content) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SmallDisk(FailingDisk):
    """A folder that holds ``capacity`` bytes."""

    def __init__(self, path: Path, capacity: int) -> None:
        self.path, self.capacity = path, capacity

    def create(self, path: Path) -> File:
        return SmallFile(OsFileSystem.create(self, path), self)

    def open(self, path: Path) -> File:
        return SmallFile(OsFileSystem.open(self, path), self)

    def room(self) -> int:
        return max(0, self.capacity - sum(p.stat().st_size for p in self.path.rglob("*.seg")))

    def free_bytes(self, directory: Path) -> int:
        return self.room()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, SmallDisk | None]]:
    """A folder with 24 MiB: a file system of its own where this process may mount one, else counted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield place, SmallDisk(place, 24 * MIB)
        return
    try:
        yield place, None
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def make_room(place: Path, disk: SmallDisk | None) -> None:
    if disk is not None:
        disk.capacity = 64 * MIB
    else:
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)


async def fill(node: Node) -> int:
    """Appends half a MiB at a time until that is refused; how many were acknowledged."""
    for sequence in range(100):
        try:
            await node.append(1, make_batch(1, producer_id=7, sequence=sequence, size=512 << 10))
        except DiskFull:
            return sequence
    raise AssertionError("the disk did not become full")


async def test_a_disk_that_is_really_full(datanodes: Cluster, small_disk: tuple[Path, SmallDisk | None]) -> None:
    place, disk = small_disk
    node = datanodes.node("dn1", data_dir=str(place / "d"), disk_reserve_bytes=4 * MIB, segment_bytes=4 * MIB)
    await node.start(Parts(file_system=disk, free_bytes=disk and disk.room))
    await datanodes.create(1)
    await datanodes.leader(1)
    stored = await fill(node)
    assert stored > 20
    held: list[pb.StoredBatch] = []
    while len(held) < stored:
        held += (await node.fetch(1, len(held), bytes_max=4 * MIB)).batches
    assert [b.base_offset for b in held[:stored]] == list(range(stored))
    await asyncio.to_thread(make_room, place, disk)

    async def resumed() -> bool:
        [outcome] = await asyncio.gather(
            node.append(1, make_batch(1, producer_id=7, sequence=stored, size=512 << 10)), return_exceptions=True
        )
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, DiskFull)
            return False
        return outcome[0].base_offset == stored and not outcome[0].error.reason

    await eventually(resumed, within_s=20)
