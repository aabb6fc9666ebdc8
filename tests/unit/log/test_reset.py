"""A log that begins behind 1, and how it gets there: a reset is the old log or the new beginning at every step (H8, H10)."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog
from stele.services.errors import DiskFull, GroupStopped, LogDamaged, StorageFailed
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.logs import FOLDER, entries, entry, everything, open_log


def filled(disk: SimulatedDisk, log_type: type[SegmentLog] = SegmentLog) -> SegmentLog:
    """Entries 1..60 of term 1 in six segments, synced."""
    log = open_log(disk, 1000, log_type)
    for start in range(1, 60, 10):
        log.append(entries(start, start + 9))
    log.sync()
    return log


@pytest.mark.parametrize("index", [0, 1, 9, 10, 11, 30, 35, 49, 50, 59, 60, 61, 1000, 1 << 40])
def test_a_reset_log_is_empty_begins_behind_the_index_and_goes_on(index: int) -> None:
    disk = SimulatedDisk()
    log = filled(disk)
    log.reset(index, 7)
    for opened in (log, open_log(disk, 1000)):
        assert (opened.first_index, opened.last_index, opened.segment_count) == (index + 1, index, 1)
        assert opened.term_at(index) == 7
        assert everything(opened) == []
        assert opened.bytes == 0
        for outside in (index - 1, index + 1):
            with pytest.raises(IndexError):
                opened.term_at(outside)
        if index:
            with pytest.raises(IndexError):
                opened.read(index, index, 1)
    assert len(disk.listdir(FOLDER)) == 1
    log = open_log(disk, 1000)
    for start in range(index + 1, index + 41, 10):
        log.append(entries(start, start + 9, term=8))
    log.sync()
    disk.crash(random.Random(1))
    again = open_log(disk, 1000)
    assert everything(again) == entries(index + 1, index + 40, term=8)
    again.truncate_from(index + 1)
    assert (again.first_index, again.last_index, again.term_at(index)) == (index + 1, index, 7)


def test_a_reset_is_durable_when_it_returns() -> None:
    for seed in range(30):
        disk = SimulatedDisk()
        filled(disk).reset(100, 3)
        disk.crash(random.Random(seed))
        log = open_log(disk, 1000)
        assert (log.first_index, log.last_index, log.term_at(100)) == (101, 100, 3)


def test_a_log_is_reset_twice_and_again_to_the_same_index() -> None:
    disk = SimulatedDisk()
    log = filled(disk)
    for index, term in ((70, 2), (70, 2), (90, 2), (91, 3)):
        log.reset(index, term)
        assert (log.first_index, log.last_index, log.term_at(index)) == (index + 1, index, term)
    log.append(entries(92, 95, term=3))
    log.sync()
    log.close()
    assert everything(open_log(disk, 1000)) == entries(92, 95, term=3)


def test_a_log_is_not_reset_to_what_it_has_left_behind() -> None:
    log = filled(SimulatedDisk())
    log.drop_before(35)
    with pytest.raises(ValueError, match="begins at 31"):
        log.reset(29, 1)
    assert everything(log) == entries(31, 60)
    log.reset(30, 1)
    assert log.first_index == 31


def test_a_closed_or_failed_log_is_not_reset() -> None:
    log = filled(SimulatedDisk())
    log.close()
    with pytest.raises(GroupStopped):
        log.reset(70, 1)
    disk = SimulatedDisk()
    log = filled(disk)
    disk.fail("fdatasync")
    log.append([entry(61)])
    with pytest.raises(StorageFailed):
        log.sync()
    with pytest.raises(StorageFailed):
        log.reset(70, 1)


@pytest.mark.parametrize("index", [30, 35, 60, 100])
async def test_h8_every_step_of_a_reset_leaves_a_prefix_or_the_new_beginning(index: int) -> None:
    async def scenario(log_type: type[SegmentLog]) -> None:
        for how, step, seed in [("kill", s, 0) for s in range(60)] + [
            ("crash", s, x) for s in range(60) for x in range(4)
        ]:
            disk = SimulatedDisk()
            log = filled(disk, log_type)
            disk.lose_power_after(step)
            done = False
            try:
                log.reset(index, 7)
                done = True
            except PowerLost:
                pass
            _die(disk, how, seed)
            with promise("a reset leaves the old log or the new one"):
                log = open_log(disk, 1000)
                if how == "kill":  # what was found is counted now, and the power goes
                    before = (log.first_index, log.last_index)
                    disk.crash(random.Random(seed))
                    log = open_log(disk, 1000)
                    assert (log.first_index, log.last_index) == before
                if log.first_index == 1:
                    assert not done
                    assert min(index, 60) <= log.last_index <= 60, f"{how} at {step}: {log.last_index} left"
                    assert everything(log) == entries(1, log.last_index)
                else:
                    assert (log.first_index, log.last_index, log.term_at(index)) == (index + 1, index, 7)
                    assert disk.listdir(FOLDER) == [f"{index + 1:020d}.seg"]

    await holds_and_mutant_fails(scenario, SegmentLog, "log.RemovesBeforeNaming")


def _die(disk: SimulatedDisk, how: str, seed: int) -> None:
    if how == "kill":
        disk.kill()
    else:
        disk.crash(random.Random(seed))


def test_segments_that_a_reset_voided_are_removed_whatever_is_left_of_them() -> None:
    for left in range(1 << 6):
        disk = SimulatedDisk()
        log = filled(disk)
        old = {name: disk.content(FOLDER / name) for name in disk.listdir(FOLDER)}
        log.reset(100, 2)
        log.close()
        for bit, name in enumerate(sorted(old)):
            if left >> bit & 1:
                disk.create(FOLDER / name).pwrite([old[name][: bit * 50]], 0)
        assert open_log(disk, 1000).first_index == 101
        assert disk.listdir(FOLDER) == [f"{101:020d}.seg"]


def test_a_full_disk_resets_nothing_and_the_reset_can_be_repeated() -> None:
    for operation in ("create", "pwrite", "rename"):
        disk = SimulatedDisk()
        log = filled(disk)
        disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
        with pytest.raises(DiskFull):
            log.reset(35, 7)
        assert everything(log) == entries(1, 35 if operation == "rename" else 60)
        log.reset(35, 7)
        assert (log.first_index, log.last_index) == (36, 35)
        log.append(entries(36, 40, term=7))
        log.sync()
        disk.crash(random.Random(1))
        assert everything(open_log(disk, 1000)) == entries(36, 40, term=7)


@pytest.mark.parametrize("operation", ["create", "pwrite", "fdatasync", "rename", "fsync_dir", "truncate", "unlink"])
def test_h7_any_other_failure_of_a_reset_is_final(operation: str) -> None:
    disk = SimulatedDisk()
    log = filled(disk)
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(StorageFailed):
        log.reset(35, 7)
    with pytest.raises(StorageFailed):
        log.append([entry(61)])
    disk.crash(random.Random(4))
    log = open_log(disk, 1000)
    if log.first_index == 1:
        assert everything(log) == entries(1, log.last_index)
        assert log.last_index >= 35
    else:
        assert (log.first_index, log.last_index) == (36, 35)


# --- membership entries ---------------------------------------------------------------------------------------------

MEMBERSHIPS = {3, 4, 19, 40, 41, 60}


def with_memberships(disk: SimulatedDisk, indexes: set[int] = MEMBERSHIPS) -> SegmentLog:
    log = open_log(disk, 1000)
    for start in range(1, 70, 10):
        log.append([entry(i, kind=2 if i in indexes else i % 2) for i in range(start, start + 10)])
    log.sync()
    return log


def membership_indexes(log: SegmentLog) -> set[int]:
    found = log.memberships()
    assert found == [entry(e.index, kind=2) for e in found]
    assert [e.index for e in found] == sorted(e.index for e in found)
    return {e.index for e in found}


def test_every_membership_entry_is_found_before_and_after_opening() -> None:
    disk = SimulatedDisk()
    log = with_memberships(disk)
    assert log.segment_count == 7
    assert membership_indexes(log) == MEMBERSHIPS
    assert membership_indexes(open_log(disk, 1000)) == MEMBERSHIPS


def test_a_damaged_footer_hides_no_membership_entry() -> None:
    disk = SimulatedDisk()
    with_memberships(disk).close()
    for name in disk.listdir(FOLDER)[:-1]:
        disk.damage(FOLDER / name, lambda content: content.__setitem__(-1, content[-1] ^ 1))
    assert membership_indexes(open_log(disk, 1000)) == MEMBERSHIPS


@pytest.mark.parametrize("index", [1, 3, 4, 5, 19, 20, 40, 41, 42, 60, 61, 70])
def test_what_is_cut_from_the_log_is_out_of_force(index: int) -> None:
    disk = SimulatedDisk()
    log = with_memberships(disk)
    log.truncate_from(index)
    left = {i for i in MEMBERSHIPS if i < index}
    assert membership_indexes(log) == left
    log.append([entry(index), entry(index + 1, kind=2)])
    for start in range(index + 2, index + 42, 10):
        log.append(entries(start, start + 9))
    assert membership_indexes(log) == left | {index + 1}
    assert membership_indexes(open_log(disk, 1000)) == left | {index + 1}


@pytest.mark.parametrize("index", [0, 11, 21, 35, 45, 61, 1000])
def test_retention_forgets_membership_entries_with_their_segments(index: int) -> None:
    disk = SimulatedDisk()
    log = with_memberships(disk)
    log.drop_before(index)
    left = {i for i in MEMBERSHIPS if i >= log.first_index}
    assert membership_indexes(log) == membership_indexes(open_log(disk, 1000)) == left


def test_a_reset_forgets_all_of_them() -> None:
    disk = SimulatedDisk()
    log = with_memberships(disk)
    log.reset(65, 1)
    assert membership_indexes(log) == membership_indexes(open_log(disk, 1000)) == set()


def test_segments_without_membership_entries_are_not_read_for_them() -> None:
    disk = SimulatedDisk()
    with_memberships(disk, {15}).close()
    log = open_log(disk, 1000)
    disk.trace.clear()
    assert membership_indexes(log) == {15}
    assert {name for operation, name in disk.trace if operation in ("open", "pread")} == {f"{11:020d}.seg"}


def test_a_damaged_membership_entry_is_found_out() -> None:
    disk = SimulatedDisk()
    with_memberships(disk, {15}).close()
    disk.damage(FOLDER / f"{11:020d}.seg", lambda content: content.__setitem__(64 + 4 * 65 + 30, 0))
    with pytest.raises(LogDamaged):
        open_log(disk, 1000).memberships()


# --- readers --------------------------------------------------------------------------------------------------------


def test_readers_beside_resets(tmp_path: Path) -> None:
    """Real files, real threads: a read is right, or IndexError before the start."""
    log = SegmentLog(tmp_path, segment_bytes=4096, disk_reserve_bytes=0)
    stop = threading.Event()
    wrong: list[object] = []
    reads = [0, 0, 0]

    def reader(number: int, look: Callable[[int], bool]) -> None:
        while not stop.is_set():
            for first in range(max(1, log.first_index - 5), log.last_index + 2):
                try:
                    reads[number] += look(first)
                except IndexError:
                    continue
                except Exception as e:
                    wrong.append(e)
                    return

    def entries_are_right(first: int) -> bool:
        found = log.read(first, first + 40, 3000)
        if any(e != entry(e.index, e.term, kind=e.kind) for e in found) or [e.index for e in found] != list(
            range(first, first + len(found))
        ):
            raise AssertionError((first, found))
        return bool(found)

    def terms_are_right(first: int) -> bool:
        return log.term_at(first) > 0

    def memberships_are_right(_: int) -> bool:
        found = log.memberships()
        if any(e != entry(e.index, e.term, kind=2) for e in found):
            raise AssertionError(found)
        return bool(found)

    looks = (entries_are_right, terms_are_right, memberships_are_right)
    threads = [threading.Thread(target=reader, args=(number, look)) for number, look in enumerate(looks)]
    for thread in threads:
        thread.start()
    for round_ in range(1, 151):
        last = log.last_index
        log.append([entry(i, round_, kind=2 * (i % 40 == 0)) for i in range(last + 1, last + 60)])
        if round_ % 3 == 0:
            log.reset(log.last_index + (0, 7, -20, 1000)[round_ % 4], round_)
        if round_ % 7 == 0:
            log.drop_before(log.last_index - 30)
    log.append([entry(i, 151, kind=2) for i in range(log.last_index + 1, log.last_index + 60)])
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
