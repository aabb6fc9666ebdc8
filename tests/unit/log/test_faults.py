"""A full disk takes nothing and stops nothing; any other failure is final (H7)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from stele.datanode.log import SegmentLog, SnapshotFiles
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import SimulatedDisk
from tests.unit.log.groups import snapshot_of, state_of
from tests.unit.log.logs import FOLDER, entries, entry, everything, open_log


def fill(log: SegmentLog) -> int:
    """Appends seven entries at a time until there is no room; the last index that went in."""
    for last in range(0, 1000, 7):
        try:
            log.append(entries(last + 1, last + 7, size=100))
        except DiskFull:
            return last
    raise AssertionError("the disk took everything")


def test_a_write_that_finds_no_room_is_cut_back_and_repeatable() -> None:
    disk = SimulatedDisk(capacity_bytes=10_000)
    log = open_log(disk, 1 << 20)
    last = fill(log)
    assert 70 < last < 100
    assert log.last_index == last
    assert everything(log) == entries(1, last, size=100)
    log.sync()
    disk.capacity_bytes += 2000
    log.append(entries(last + 1, last + 7, size=100))
    log.sync()
    disk.crash(random.Random(1))
    assert everything(open_log(disk, 1 << 20)) == entries(1, last + 7, size=100)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_roll_that_finds_no_room_appends_nothing(number: int, skip: int) -> None:
    """The footer, the next segment's header and the entries are three writes."""
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    log.append(entries(1, 10))
    disk.fail("pwrite", number, skip=skip)
    for _ in range(2):
        with pytest.raises(DiskFull):
            log.append(entries(11, 20))
        assert everything(log) == entries(1, 10)
        disk.fail("pwrite", number, skip=0 if skip == 2 else skip)
    disk.heal()
    log.append(entries(11, 20))
    log.sync()
    assert everything(log) == entries(1, 20)
    disk.crash(random.Random(1))
    assert everything(open_log(disk, 1000)) == entries(1, 20)


@pytest.mark.parametrize("operation", ["create", "rename"])
def test_no_room_for_a_new_file_appends_nothing(operation: str) -> None:
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    log.append(entries(1, 10))
    disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        log.append(entries(11, 20))
    log.append(entries(11, 20))
    log.sync()
    disk.crash(random.Random(1))
    assert everything(open_log(disk, 1000)) == entries(1, 20)


def test_the_reserve_is_left_free() -> None:
    disk = SimulatedDisk(capacity_bytes=20_000)
    log = open_log(disk, 1 << 20, reserve=15_000)
    log.append(entries(1, 50))
    with pytest.raises(DiskFull) as full:
        log.append(entries(51, 100))
    assert full.value.facts["reserve_bytes"] == "15000"
    assert disk.free_bytes(FOLDER) >= 15_000
    assert everything(log) == entries(1, 50)
    log.append(entries(51, 52))


def test_no_room_at_creation_is_a_full_disk() -> None:
    disk = SimulatedDisk(capacity_bytes=10)
    with pytest.raises(DiskFull):
        open_log(disk)


def test_a_removal_that_finds_no_room_removes_nothing_and_can_be_repeated() -> None:
    """On file systems that copy on write every change takes room, a removal too."""
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    for start in range(1, 60, 10):
        log.append(entries(start, start + 9))
    disk.fail("unlink", errno.ENOSPC, skip=1)
    with pytest.raises(DiskFull):
        log.drop_before(35)
    assert everything(log) == entries(11, 60)
    log.append(entries(61, 62))
    log.drop_before(35)
    assert everything(log) == entries(31, 62)


def test_what_a_reset_voided_never_comes_back_although_its_removal_found_no_room() -> None:
    """What says that it is void may itself be dropped later."""
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    for start in range(1, 60, 10):
        log.append(entries(start, start + 9))
    log.sync()
    disk.fail("unlink", errno.ENOSPC)
    with pytest.raises(StorageFailed):
        log.reset(100, 2)
    disk.kill()
    log = open_log(disk, 1000)
    assert disk.listdir(FOLDER) == [f"{101:020d}.seg"]
    for start in range(101, 130, 10):
        log.append(entries(start, start + 9, term=2))
    log.drop_before(125)
    assert log.first_index == 121
    assert everything(open_log(disk, 1000)) == entries(121, 130, term=2)


async def test_h7_a_failed_sync_is_final() -> None:
    """The system dropped what it could not write and calls the file clean: a second sync that succeeds proves nothing."""

    async def scenario(log_type: type[SegmentLog]) -> None:
        disk = SimulatedDisk()
        log = open_log(disk, 1 << 20, log_type)
        log.append(entries(1, 5))
        log.sync()
        log.append(entries(6, 10))
        disk.fail("fdatasync")
        acked = 5
        try:
            log.sync()
            acked = 10
        except StorageFailed:
            with pytest.raises(StorageFailed):
                log.sync()
            with pytest.raises(StorageFailed):
                log.append([entry(11)])
        disk.crash(random.Random(1))
        with promise("a sync that failed is never believed later"):
            assert open_log(disk, 1 << 20).last_index >= acked

    await holds_and_mutant_fails(scenario, SegmentLog, "log.SyncsAgain")


async def test_h7_what_a_failed_sync_covered_is_not_there_for_a_restarted_process() -> None:
    """The process is restarted, the system is not: its cache shows the bytes, calls them clean, and no disk holds them."""

    async def scenario(log_type: type[SegmentLog]) -> None:
        calls: list[Callable[[SegmentLog], None]] = [
            lambda log: log.sync(),
            lambda log: log.append(entries(11, 20)),  # seals the segment
            lambda log: log.truncate_from(9),
        ]
        for call in calls:
            disk = SimulatedDisk()
            log = open_log(disk, 1000, log_type)
            log.append(entries(1, 5))
            log.sync()
            log.append(entries(6, 10))
            disk.fail("fdatasync")
            with pytest.raises(StorageFailed):
                call(log)
            disk.kill()
            promised = open_log(disk, 1000, log_type).last_index
            assert promised >= 5
            disk.crash(random.Random(1))
            with promise("what a failed sync lost is not taken for stored"):
                assert open_log(disk, 1000, log_type).last_index == promised

    await holds_and_mutant_fails(scenario, SegmentLog, "log.LeavesEntries")


async def test_h7_a_transfer_whose_sync_failed_is_not_there_for_a_restarted_process() -> None:
    snapshot = snapshot_of(20)

    async def scenario(files_type: type[SnapshotFiles]) -> None:
        disk = SimulatedDisk()
        files = files_type(FOLDER, disk)
        files.stage(snapshot, 0, state_of(20))
        disk.fail("fdatasync")
        with pytest.raises(StorageFailed):
            files.check_staged(snapshot)
        disk.kill()
        files = files_type(FOLDER, disk)
        if files.staged(snapshot) == 0:
            files.stage(snapshot, 0, state_of(20))
        files.install_staged(snapshot)
        disk.crash(random.Random(1))
        with promise("what a failed sync lost is not taken for stored"):
            files = files_type(FOLDER, disk)
            assert files.snapshots == (snapshot,)
            assert files.read(20) == state_of(20)

    await holds_and_mutant_fails(scenario, SnapshotFiles, "log.LeavesATransfer")


FAILURES = [
    ("append", "pwrite"),
    ("sync", "fdatasync"),
    ("truncate", "truncate"),
    ("truncate", "fdatasync"),
    ("truncate", "unlink"),
    ("truncate", "fsync_dir"),
    ("drop", "unlink"),
    ("drop", "fsync_dir"),
    *(("roll", operation) for operation in ("pwrite", "fdatasync", "create", "rename", "fsync_dir")),
]


@pytest.mark.parametrize(("call", "operation"), FAILURES)
def test_any_other_failure_is_final_and_loses_nothing_synced(call: str, operation: str) -> None:
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    for start in range(1, 50, 10):
        log.append(entries(start, start + 9))
        log.sync()
    log.append([entry(51, size=100)])
    disk.fail(operation)  # type: ignore[arg-type]
    calls = {
        "append": lambda: log.append([entry(52, size=10)]),
        "roll": lambda: log.append(entries(52, 70)),
        "sync": lambda: log.sync(),
        "truncate": lambda: log.truncate_from(15),
        "drop": lambda: log.drop_before(25),
    }
    with pytest.raises(StorageFailed) as failed:
        calls[call]()
    assert failed.value.facts["errno"] == str(errno.EIO)
    for again in (*calls.values(), lambda: log.read(1, 2, 100), lambda: log.term_at(5)):
        with pytest.raises(StorageFailed):
            again()
    log.close()
    disk.crash(random.Random(3))
    found = everything(open_log(disk, 1000))
    kept = 14 if call == "truncate" else 50
    assert [e.index for e in found][-1] >= kept
    assert found == [entry(e.index, size=40 if e.index != 51 else 100) for e in found]


def test_a_read_error_is_reported_and_the_log_goes_on() -> None:
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    for start in range(1, 50, 10):
        log.append(entries(start, start + 9))
    disk.fail("pread", errno.ENOMEM)
    with pytest.raises(StorageFailed):
        log.read(1, 10, 1000)
    assert log.read(1, 10, 1000) == entries(1, 10)
    disk.fail("pread", errno.EIO)
    with pytest.raises(LogDamaged) as damaged:
        log.read(1, 10, 1000)
    assert damaged.value.facts["index"] == "1"
    assert log.read(1, 10, 1000) == entries(1, 10)
    disk.fail("pread")
    with pytest.raises(StorageFailed):
        log.truncate_from(15)
    assert everything(log) == entries(1, 50)
    log.append([entry(51)])


@pytest.mark.parametrize("operation", ["open", "pread", "fdatasync"])
def test_a_failure_while_opening_is_reported(operation: str) -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(1, 5))
    log.close()
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(StorageFailed):
        open_log(disk)
    assert everything(open_log(disk)) == entries(1, 5)


def test_a_slow_disk_says_how_slow() -> None:
    disk = SimulatedDisk()
    log = open_log(disk)
    disk.slow(write_s=0.5, sync_s=2.0)
    log.append([entry(1)])
    log.sync()
    assert disk.take_busy_s() == 2.5
    assert disk.take_busy_s() == 0.0
