"""A length that a damaged file claims is not believed before that many bytes are there: nothing of that size is ever allocated."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from stele.datanode.log import SegmentLog, SnapshotFiles, frames
from stele.datanode.log.segments import HEADER_BYTES, SegmentHeader, SegmentIndex, segment_name
from stele.datanode.log.snapshot_format import SnapshotHeader, snapshot_name
from stele.datanode.partition import PartitionState
from stele.datanode.snapshot_codec import SnapshotDamaged
from stele.services.errors import LogDamaged
from stele.services.files import OsFileSystem
from stele.services.raft.storage import Members, Snapshot
from tests.fuzz.seeds import seeds
from tests.unit.log.logs import entries

PEAK_BYTES_MAX = 4 << 20
CLAIMS = [1 << 20, 63 << 20, 64 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
WIDE_CLAIMS = [*CLAIMS, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < PEAK_BYTES_MAX, f"{peak} bytes were allocated"


def test_the_measure_sees_an_allocation() -> None:
    with pytest.raises(AssertionError, match="were allocated"), little_memory():
        bytes(PEAK_BYTES_MAX)


@pytest.mark.parametrize("length", CLAIMS)
@pytest.mark.parametrize("at", [0, 3])
def test_frames_of_the_last_segment(tmp_path: Path, length: int, at: int) -> None:
    tail = bytearray(b"".join(frames.encode_run(entries(1, 5), 7, True)))
    struct.pack_into(">I", tail, 65 * at, length)
    (tmp_path / segment_name(1)).write_bytes(SegmentHeader(1, 7).to_bytes() + tail)
    with little_memory(), suppress(LogDamaged):
        SegmentLog(tmp_path, disk_reserve_bytes=0)


@pytest.mark.parametrize("length", CLAIMS)
def test_frames_of_a_sealed_segment(tmp_path: Path, length: int) -> None:
    log = SegmentLog(tmp_path, segment_bytes=1000, disk_reserve_bytes=0)
    for start in range(1, 30, 10):
        log.append(entries(start, start + 9))
    log.close()
    path = tmp_path / segment_name(1)
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, HEADER_BYTES + 65 * 3, length)
    path.write_bytes(content)
    log = SegmentLog(tmp_path, segment_bytes=1000, disk_reserve_bytes=0)
    reads: list[Callable[[], object]] = [
        lambda: log.read(4, 9, 1 << 40),
        lambda: log.read(8, 9, 1),
        lambda: log.truncate_from(9),
    ]
    with little_memory():
        assert log.read(1, 9, 1 << 40) == entries(1, 3)  # what stands before the damage
        for read in reads:
            with pytest.raises(LogDamaged):
                read()
    log.close()


@pytest.mark.parametrize("count", CLAIMS)
@pytest.mark.parametrize("at", [4, 8, 12])
def test_footers(count: int, at: int) -> None:
    content = bytearray(seeds()["footer"][1])
    struct.pack_into(">I", content, at, count)
    with little_memory():
        assert SegmentIndex.from_bytes(bytes(content)) is None


@pytest.mark.parametrize("size", WIDE_CLAIMS)
def test_snapshots(tmp_path: Path, size: int) -> None:
    claim = Snapshot(7, 1, Members((1,)), 0, 0, size, 0)
    (tmp_path / snapshot_name(7)).write_bytes(SnapshotHeader(claim, False).to_bytes() + b"state")
    with little_memory():
        assert SnapshotFiles(tmp_path, OsFileSystem()).damaged == (7,)


@pytest.mark.parametrize("size", WIDE_CLAIMS)
def test_transfers(tmp_path: Path, size: int) -> None:
    claim = Snapshot(7, 1, Members((1,)), 0, 0, size, 0)
    (tmp_path / "incoming.part").write_bytes(SnapshotHeader(claim, True).to_bytes() + b"state")
    with little_memory():
        files = SnapshotFiles(tmp_path, OsFileSystem())
        assert files.staged(claim) == 5
        with pytest.raises(LogDamaged):
            files.check_staged(claim)
        assert files.staged(replace(claim, crc=crc32c(b""))) == 0
        files.close()


def test_members(tmp_path: Path) -> None:
    head = bytearray(SnapshotHeader(Snapshot(7, 1, Members((1,)), 0, 0, 5, 0), False).to_bytes())
    struct.pack_into(">HH", head, len(head) - 4 - 8 - 4, 0xFFFF, 0xFFFF)
    (tmp_path / snapshot_name(7)).write_bytes(bytes(head) + b"state")
    with little_memory():
        assert SnapshotFiles(tmp_path, OsFileSystem()).damaged == (7,)


@pytest.mark.parametrize("number", WIDE_CLAIMS)
def test_partitions(number: int) -> None:
    right = seeds()["partition"][1]
    with little_memory():
        for at in range(0, len(right) - 8, 8):
            content = bytearray(right)
            struct.pack_into(">Q", content, at, number)
            machine = PartitionState()
            with suppress(SnapshotDamaged):
                machine.restore(bytes(content))
