"""The log's rules on a disk that does as told: round trips, segments, truncation, retention, limits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog, frames
from stele.datanode.log.segment_list import SEALED_IN_USE_MAX
from stele.services.errors import GroupStopped, MessageTooLarge
from stele.services.raft.storage import Entry, LogStorage
from tests.support.disks import SimulatedDisk
from tests.unit.log.logs import FOLDER, entries, entry, everything, open_log


def test_it_is_a_log_storage() -> None:
    storage: LogStorage = open_log(SimulatedDisk())
    assert storage.last_index == storage.first_index - 1 == 0


def test_an_empty_log() -> None:
    log = open_log(SimulatedDisk())
    assert (log.first_index, log.last_index, log.bytes) == (1, 0, 0)
    assert log.read(1, 10, 100) == []
    assert log.term_at(0) == 0
    log.truncate_from(1)
    log.drop_before(100)
    log.sync()
    with pytest.raises(IndexError):
        log.term_at(1)


def test_entries_read_back_across_segments_and_after_opening_again() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    written: list[Entry] = []
    for start in range(1, 400, 3):
        more = [entry(i, term=1 + i // 50, size=i % 190, kind=i % 3) for i in range(start, start + 3)]
        log.append(more)
        written += more
        assert log.last_index == start + 2
    log.sync()
    assert log.segment_count > 5
    assert everything(log) == written
    log.close()
    again = open_log(disk)
    assert everything(again) == written
    assert again.bytes == log.bytes == sum(25 + len(e.payload) for e in written)


@pytest.mark.parametrize("first", [1, 2, 57, 58, 149, 150])
@pytest.mark.parametrize("bytes_max", [0, 1, 39, 40, 41, 120, 5000, 1 << 30])
def test_read_is_cut_off_by_bytes_but_gives_at_least_one(first: int, bytes_max: int) -> None:
    log = open_log(SimulatedDisk())
    log.append(entries(1, 75))
    log.append(entries(76, 150))
    wanted = max(1, bytes_max // 40)
    assert log.read(first, 150, bytes_max) == entries(first, min(150, first + wanted - 1))


def test_read_stops_at_last_and_at_the_end() -> None:
    log = open_log(SimulatedDisk())
    log.append(entries(1, 30))
    assert log.read(5, 9, 1 << 30) == entries(5, 9)
    assert log.read(29, 99, 1 << 30) == entries(29, 30)
    assert log.read(31, 99, 1 << 30) == []
    assert log.read(9, 5, 1 << 30) == []


def test_entries_larger_than_a_segment_and_than_a_read() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    written = [entry(1, size=3), entry(2, size=3 << 20), entry(3, size=0), entry(4, size=1 << 20), entry(5, size=10)]
    for e in written:
        log.append([e])
    assert everything(log) == written
    assert log.read(2, 5, 1) == written[1:2]
    log.close()
    assert everything(open_log(disk)) == written


def test_memory_does_not_grow_with_the_log() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    for start in range(1, 2000, 20):
        log.append(entries(start, start + 19))
    everything(log)
    in_use = [s for s in log._segments.all if s.file is not None or s.index is not None]
    assert log.segment_count > 20
    assert len(in_use) <= SEALED_IN_USE_MAX + 1


def test_a_term_of_a_sealed_segment_needs_no_reading_where_it_has_only_one() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(1, 60, term=3))
    for start in range(61, 600, 60):
        log.append(entries(start, start + 59, term=3))
    log.close()
    log = open_log(disk)
    disk.trace.clear()
    assert {log.term_at(i) for i in range(62, 601)} == {3}
    assert not [operation for operation, _ in disk.trace if operation in ("open", "pread")]


@pytest.mark.parametrize("index", [1, 2, 25, 49, 50, 51, 99, 100, 101, 199, 200])
def test_truncation_anywhere_and_going_on(index: int) -> None:
    disk = SimulatedDisk()
    log = open_log(disk, segment_bytes=3300)
    for start in range(1, 200, 50):
        log.append(entries(start, start + 49))
    log.sync()
    assert log.segment_count == 4
    log.truncate_from(index)
    assert log.last_index == index - 1
    assert everything(log) == entries(1, index - 1)
    log.append(entries(index, index + 80, term=2))
    log.sync()
    log.close()
    assert everything(open_log(disk)) == entries(1, index - 1) + entries(index, index + 80, term=2)


def test_truncation_behind_the_end_does_nothing_and_before_the_start_is_refused() -> None:
    log = open_log(SimulatedDisk(), segment_bytes=1000)
    for start in range(1, 100, 10):
        log.append(entries(start, start + 9))
    log.truncate_from(101)
    assert log.last_index == 100
    log.drop_before(50)
    with pytest.raises(IndexError):
        log.truncate_from(log.first_index - 1)
    assert log.last_index == 100


def test_retention_drops_whole_segments_and_keeps_the_term_before() -> None:
    disk = SimulatedDisk()
    log = open_log(disk, segment_bytes=1000)
    for start in range(1, 100, 10):
        log.append(entries(start, start + 9, term=start))
    log.sync()
    log.drop_before(35)
    assert log.first_index == 31
    assert log.term_at(30) == 21
    log.drop_before(35)
    assert log.first_index == 31
    with pytest.raises(IndexError):
        log.read(30, 40, 1000)
    with pytest.raises(IndexError):
        log.term_at(29)
    log.close()
    log = open_log(disk, segment_bytes=1000)
    assert (log.first_index, log.term_at(30)) == (31, 21)
    log.drop_before(1000)
    assert (log.first_index, log.last_index, log.segment_count) == (91, 100, 1)
    log.truncate_from(91)
    assert (log.first_index, log.last_index, log.term_at(90)) == (91, 90, 81)
    log.append(entries(91, 95, term=200))
    log.close()
    assert everything(open_log(disk)) == entries(91, 95, term=200)


def test_what_cannot_follow_is_refused_and_nothing_is_appended() -> None:
    log = open_log(SimulatedDisk())
    log.append(entries(1, 5, term=4))
    for wrong in (
        [entry(7, 4)],
        [entry(5, 4)],
        [entry(6, 3)],
        [entry(6, 4), entry(8, 4)],
        [entry(6, 4), entry(7, 3)],
        [entry(6, 4, kind=127)],
        [entry(6, 4, kind=-1)],
    ):
        with pytest.raises(ValueError, match="cannot follow"):
            log.append(wrong)
    assert everything(log) == entries(1, 5, term=4)


def test_an_entry_over_the_limit_is_refused_and_nothing_is_appended() -> None:
    log = SegmentLog(FOLDER, SimulatedDisk())
    with pytest.raises(MessageTooLarge) as refused:
        log.append([entry(1), Entry(2, 1, 0, bytes(frames.PAYLOAD_BYTES_MAX + 1))])
    assert refused.value.facts["bytes_max"] == str(frames.PAYLOAD_BYTES_MAX)
    log.append([entry(1, size=100)])
    assert everything(log) == [entry(1, size=100)]


def test_a_closed_log_says_so() -> None:
    log = open_log(SimulatedDisk())
    log.append(entries(1, 5))
    log.close()
    log.close()
    for call in (
        lambda: log.append([entry(6)]),
        lambda: log.read(1, 5, 100),
        lambda: log.term_at(2),
        lambda: log.sync(),
        lambda: log.truncate_from(2),
        lambda: log.drop_before(2),
    ):
        with pytest.raises(GroupStopped):
            call()


def test_a_leftover_of_an_interrupted_roll_is_removed() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(1, 5))
    log.close()
    left = FOLDER / "00000000000000000006.seg.new"
    disk.create(left).pwrite([b"half a head"], 0)
    disk.create(FOLDER / "notes.txt")
    assert everything(open_log(disk)) == entries(1, 5)
    assert left.name not in disk.listdir(FOLDER)
    assert "notes.txt" in disk.listdir(FOLDER)


def test_an_unneeded_sync_costs_nothing() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(1, 5))
    log.sync()
    disk.trace.clear()
    log.sync()
    assert disk.trace == []


def test_one_write_for_one_append() -> None:
    disk = SimulatedDisk()
    log = open_log(disk, segment_bytes=1 << 20)
    disk.trace.clear()
    log.append(entries(1, 1000))
    log.sync()
    assert [operation for operation, _ in disk.trace] == ["pwrite", "fdatasync"]


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    """Real files, real threads: every read sees right entries while segments are appended, truncated, dropped and let go of."""
    log = SegmentLog(tmp_path, segment_bytes=4096, disk_reserve_bytes=0)
    log.append(entries(1, 100))
    stop = threading.Event()
    wrong: list[object] = []
    reads = [0, 0, 0]

    def reader(number: int) -> None:
        step = 7 + number
        while not stop.is_set():
            for first in range(1, 100_000, step):
                try:
                    found = log.read(first, first + 60, 3000)
                    terms = [log.term_at(e.index) for e in found[:1]]
                except IndexError:
                    continue
                except Exception as e:
                    wrong.append(e)
                    return
                reads[number] += 1
                if not found:
                    break
                if any(e != entry(e.index, e.term) for e in found) or [e.index for e in found] != list(
                    range(first, first + len(found))
                ):
                    wrong.append((first, found, terms))
                    return

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    term = 1
    for round_ in range(1, 121):
        last = log.last_index
        log.append(entries(last + 1, last + 30, term))
        if round_ % 4 == 0:
            term += 1
            log.truncate_from(max(log.first_index, log.last_index - 20 * (round_ % 11)))
        if round_ % 15 == 0:
            log.drop_before(log.last_index - 300)
    for _ in range(3000):
        if min(reads) > 0 or wrong:
            break
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert min(reads) > 0
    everything(log)
    log.close()
