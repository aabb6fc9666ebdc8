"""A sealed segment whose bytes have changed is written anew, from what it still holds and from what others hold."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog
from stele.datanode.log.mending import SegmentMending
from stele.datanode.log.segments import DAMAGED_SUFFIX, HEADER_BYTES, MENDED_SUFFIX
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from stele.services.raft.storage import Entry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.logs import FOLDER, entries, everything, open_log

SEGMENT_BYTES = 1000
FRAME_BYTES = 25 + 40
WHOLE = entries(1, 60)


def stored() -> tuple[SimulatedDisk, SegmentLog]:
    """Six segments of ten entries."""
    disk = SimulatedDisk()
    log = open_log(disk, SEGMENT_BYTES)
    for first in range(1, 60, 10):
        log.append(entries(first, first + 9))
        log.sync()
    return disk, log


def path_of(index: int) -> Path:
    return FOLDER / f"{(index - 1) // 10 * 10 + 1:020d}.seg"


def flip(disk: SimulatedDisk, index: int, at: int = 30) -> None:
    """Byte ``at`` of the frame of ``index``."""
    where = HEADER_BYTES + (index - 1) % 10 * FRAME_BYTES + at

    def change(content: bytearray) -> None:
        content[where] ^= 0xFF

    disk.damage(path_of(index), change)


def mended(log: SegmentLog, index: int, good: Sequence[Entry] = WHOLE) -> SegmentMending:
    """As services/raft/mending.py does it: what cannot be read comes from elsewhere."""
    mending = log.begin_mending(index)
    while (at := mending.next_index) <= mending.last_index:
        try:
            found = log.read(at, mending.last_index, 100)
        except LogDamaged:
            found = [good[at - 1]]
        mending.add(found)
    mending.finish()
    return mending


def complete(mending: SegmentMending, found: Sequence[Entry]) -> None:
    mending.add(found)
    mending.finish()


@pytest.mark.parametrize("at", [0, 3, 5, 9, 20, 24, 25, 64])
@pytest.mark.parametrize("index", [11, 15, 20])
def test_p39_a_damaged_entry_costs_itself_and_is_mended(index: int, at: int) -> None:
    disk, log = stored()
    flip(disk, index, at)
    if index > 11:
        assert log.read(11, 20, 1 << 20) == entries(11, index - 1)
    with pytest.raises(LogDamaged) as damaged:
        log.read(index, 20, 1 << 20)
    assert damaged.value.facts["index"] == str(index)
    assert log.put_mended(mended(log, index))
    assert everything(log) == WHOLE
    log.append(entries(61, 75))
    log.close()
    assert everything(open_log(disk, SEGMENT_BYTES)) == entries(1, 75), "and after it is opened again"


def test_p39_what_was_damaged_is_kept_beside() -> None:
    disk, log = stored()
    flip(disk, 25)
    old = disk.content(path_of(25))
    log.put_mended(mended(log, 25))
    kept = path_of(25).with_name(path_of(25).name + DAMAGED_SUFFIX)
    assert disk.content(kept) == old
    log.drop_before(31)
    assert kept.name not in disk.listdir(FOLDER), "until the messages themselves are no longer kept"
    assert everything(log) == entries(31, 60)


def test_p39_several_places_of_one_segment_are_mended_together() -> None:
    disk, log = stored()
    for index in (21, 24, 25, 30):
        flip(disk, index)
    assert log.put_mended(mended(log, 24))
    assert everything(log) == WHOLE


def test_p39_a_damaged_footer_comes_back_too() -> None:
    disk, log = stored()
    log.close()
    flip(disk, 15)
    disk.damage(
        path_of(15), lambda content: content.__setitem__(slice(HEADER_BYTES + 10 * FRAME_BYTES, None), b"\0" * 20)
    )
    disk.damage(path_of(15), lambda content: content.extend(bytes(len(disk.content(path_of(1))) - len(content))))
    log = open_log(disk, SEGMENT_BYTES)
    with pytest.raises(LogDamaged):
        log.read(11, 20, 1)
    assert log.put_mended(mended(log, 15))
    assert everything(log) == WHOLE


def test_p39_the_active_segment_is_mended_once_it_is_sealed() -> None:
    disk, log = stored()
    flip(disk, 55)
    assert log.sealed_around(55) is None
    with pytest.raises(IndexError):
        log.begin_mending(55)
    log.seal()
    assert log.sealed_around(55) == (51, 60)
    assert log.put_mended(mended(log, 55))
    log.append(entries(61, 65))
    assert everything(log) == entries(1, 65)


def test_p39_a_reader_in_the_old_file_reads_on_beside_the_change() -> None:
    disk, log = stored()
    flip(disk, 12)
    with log._segments.guard:
        segment = log._segments.find(12)
        log._segments.pin(segment)
    assert log.put_mended(mended(log, 12))
    assert segment.file is not None
    log._segments.unpin(segment)
    assert segment.file is None
    assert everything(log) == WHOLE


def test_p39_what_was_cut_or_trimmed_meanwhile_is_not_put_back() -> None:
    disk, log = stored()
    flip(disk, 55)
    flip(disk, 5)
    log.seal()
    cut, trimmed = mended(log, 55), mended(log, 5)
    log.truncate_from(53)
    log.append(entries(53, 70, term=2))
    assert not log.put_mended(cut)
    log.drop_before(11)
    assert not log.put_mended(trimmed)
    assert not [name for name in disk.listdir(FOLDER) if name.endswith(MENDED_SUFFIX)]
    assert everything(log) == entries(11, 52) + entries(53, 70, term=2)


async def test_p39_entries_of_another_history_do_not_take_its_place() -> None:
    async def scenario(kind: type[SegmentMending]) -> None:
        disk, log = stored()
        flip(disk, 15)
        with promise("a mended part of a log is as long as the old one, and ends in its term"):
            for other in (entries(11, 20, size=41), entries(11, 20, term=2), entries(11, 19), entries(12, 20)):
                mending = kind(disk, log._segments.find(15))
                with pytest.raises(LogDamaged):
                    complete(mending, other)
                mending.discard()
        assert log.read(11, 14, 1 << 20) == entries(11, 14)

    await holds_and_mutant_fails(scenario, SegmentMending, "log.MendsWithAnything")


@pytest.mark.parametrize("seed", range(40))
def test_p39_a_crash_while_mending_leaves_the_old_segment_or_the_new(seed: int) -> None:
    rng = random.Random(seed)
    disk, log = stored()
    flip(disk, 25)
    with suppress(PowerLost):
        disk.lose_power_after(rng.randrange(14))
        log.put_mended(mended(log, 25))
    disk.crash(rng)
    again = open_log(disk, SEGMENT_BYTES)
    assert again.read(1, 24, 1 << 20) == entries(1, 24)
    assert again.read(26, 60, 1 << 20) == entries(26, 60)
    try:
        assert again.read(25, 25, 1) == [WHOLE[24]]
    except LogDamaged:
        assert again.put_mended(mended(again, 25))
    assert everything(again) == WHOLE


def test_p39_a_full_disk_refuses_the_mending_and_the_log_goes_on() -> None:
    disk, log = stored()
    flip(disk, 25)
    disk.capacity_bytes = 0
    with pytest.raises(DiskFull):
        log.begin_mending(25)
    disk.capacity_bytes = 1 << 40
    assert log.put_mended(mended(log, 25))
    assert everything(log) == WHOLE


def test_p39_a_file_that_cannot_be_written_beside_costs_no_log() -> None:
    disk, log = stored()
    flip(disk, 25)
    disk.fail("create", errno.EIO)
    with pytest.raises(StorageFailed):
        log.begin_mending(25)
    log.append(entries(61, 61))
    assert log.put_mended(mended(log, 25))


def test_p39_what_the_disk_does_not_give_is_had_from_elsewhere_too() -> None:
    disk, log = stored()
    disk.fail("pread", errno.EIO, name=path_of(25).name, times=1_000)
    with pytest.raises(LogDamaged) as damaged:
        log.read(25, 30, 1)
    assert damaged.value.facts["index"] == "25"
    assert log.read(31, 60, 1 << 20) == entries(31, 60)
    mending = mended(log, 25)
    disk.heal()
    disk.damage(path_of(25), lambda content: content.clear())
    assert log.put_mended(mending)
    assert everything(log) == WHOLE
