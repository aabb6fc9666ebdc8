"""What a log and its snapshots hold in memory does not grow with what they hold on disk."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from stele.datanode.log import SegmentLog, SnapshotFiles
from stele.services.files import OsFileSystem
from stele.services.raft.storage import MEMBERSHIP, Entry, Members, Snapshot

MIB = 1 << 20
ENTRY_BYTES = 2_000
BATCH = 500
SEGMENT_BYTES = 4 * MIB
PER_SEGMENT_BYTES_MAX = 4_000
"""A sealed segment's record; its path and header are the most of it."""


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def write(log: SegmentLog, mib: int, payload: bytes) -> None:
    """Entries up to so many MiB more; one in a thousand changes the members."""
    end = log.bytes + mib * MIB
    while log.bytes < end:
        first = log.last_index + 1
        log.append(
            [Entry(i, 1 + i // 5000, MEMBERSHIP * (i % 1000 == 0), payload) for i in range(first, first + BATCH)]
        )


def read_all(log: SegmentLog) -> int:
    """Reads everything as a follower far behind would; how many entries there are."""
    at = log.first_index
    while at <= log.last_index:
        at = log.read(at, log.last_index, MIB)[-1].index + 1
    return at - log.first_index


def test_a_log_of_200_mib_holds_what_one_of_100_does(tmp_path: Path, traced: None) -> None:
    payload = bytes(ENTRY_BYTES)
    start = held()
    log = SegmentLog(tmp_path, segment_bytes=SEGMENT_BYTES, disk_reserve_bytes=0)
    write(log, 20, payload)
    read_all(log)
    after_20, segments_20 = held() - start, log.segment_count
    write(log, 80, payload)
    read_all(log)
    after_100, segments_100 = held() - start, log.segment_count
    write(log, 100, payload)
    entries = read_all(log)
    after_200, segments_200 = held() - start, log.segment_count
    print(f"{entries} entries: {after_20} bytes held at 20 MiB, {after_100} at 100 MiB, {after_200} at 200 MiB")
    assert entries > 100_000
    assert after_200 < 512 * 1024
    assert after_200 - after_100 < (segments_200 - segments_100) * PER_SEGMENT_BYTES_MAX
    assert after_100 - after_20 < (segments_100 - segments_20) * PER_SEGMENT_BYTES_MAX
    log.sync()
    log.close()
    del log

    before = held()
    tracemalloc.reset_peak()
    log = SegmentLog(tmp_path, segment_bytes=SEGMENT_BYTES, disk_reserve_bytes=0)
    peak = tracemalloc.get_traced_memory()[1] - before
    print(f"opening took {peak} bytes, {held() - before} are held")
    assert peak < 4 * MIB
    assert held() - before < 512 * 1024
    assert len(log.memberships()) == log.last_index // 1000
    log.drop_before(log.last_index - 1000)
    assert held() - before < 256 * 1024
    log.close()


def test_a_snapshot_is_checked_and_sent_in_pieces(tmp_path: Path, traced: None) -> None:
    state = bytes(48 * MIB)
    snapshot = Snapshot(10, 1, Members((1, 2, 3)), 5, 0, len(state), crc32c(state))
    files = SnapshotFiles(tmp_path, OsFileSystem())
    files.write(snapshot, state)
    del state
    before = held()
    tracemalloc.reset_peak()
    again = SnapshotFiles(tmp_path, OsFileSystem())
    again.check(10)
    source = again.open(10)
    sent = 0
    while chunk := source.read(sent, 256 * 1024):
        sent += len(chunk)
    source.close()
    assert sent == snapshot.size
    assert tracemalloc.get_traced_memory()[1] - before < 4 * MIB
