"""A log that ends before where it was known to be synced has lost its end, and says so when it is opened (R4.5)."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.log.reached import REACHED_NAME, ReachedFile, read_reached
from stele.datanode.storage import GroupStorage, opener
from stele.services.errors import StorageFailed
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.support.in_place import with_part
from tests.unit.log.logs import FOLDER, entries, open_log

SEGMENT_BYTES = 1000


class _NoLock:
    def check_in_place(self) -> None:
        return None

    def release(self) -> None:
        return None


def open_group(disk: SimulatedDisk) -> GroupStorage:
    disk.makedirs(FOLDER)
    return opener(SEGMENT_BYTES, 0, disk, lambda folder: _NoLock())(FOLDER)


def holding(last: int) -> SimulatedDisk:
    """A group's folder with entries up to ``last``, synced and noted; its process was killed."""
    disk = SimulatedDisk()
    storage = open_group(disk)
    for first in range(1, last, 5):
        storage.log.append(entries(first, min(last, first + 4)))
        storage.log.sync()
    storage.terms.store(1, 0)
    storage.note_synced()
    disk.kill()
    return disk


def segments(disk: SimulatedDisk) -> list[Path]:
    return [FOLDER / name for name in disk.listdir(FOLDER) if name.endswith(".seg")]


def cut(size: int) -> Callable[[SimulatedDisk], None]:
    def shorten(disk: SimulatedDisk) -> None:
        disk.damage(segments(disk)[-1], lambda content: content.__delitem__(slice(len(content) - size, None)))

    return shorten


def lose_segments(count: int) -> Callable[[SimulatedDisk], None]:
    def remove(disk: SimulatedDisk) -> None:
        for path in segments(disk)[-count:]:
            disk.unlink(path)

    return remove


@pytest.mark.parametrize(
    "lose",
    [cut(1), cut(69), cut(100), lose_segments(1), lose_segments(2)],
    ids=["a byte", "an entry", "entries", "a segment", "segments"],
)
async def test_p38_a_log_whose_end_is_gone_is_opened_as_recovering(lose: Callable[[SimulatedDisk], None]) -> None:
    async def scenario() -> None:
        disk = holding(33)
        lose(disk)
        with promise("a log whose end is gone says so"):
            storage = open_group(disk)
            assert storage.log.last_index < 33
            assert storage.recovering
        storage.log.append(entries(storage.log.last_index + 1, 33))
        storage.log.sync()
        disk.crash(random.Random(1))
        assert open_group(disk).recovering, "filled up again, it still waits for its leader's word"

    await holds_and_mutant_fails(with_part(scenario), ReachedFile, "log.NeverLooksBack")


async def what_is_cut_on_purpose_does_not_look_lost() -> None:
    for power_after in range(12):
        for survives in range(6):
            disk = holding(33)
            storage = open_group(disk)
            disk.lose_power_after(power_after)
            with suppress(PowerLost):
                storage.log.truncate_from(12)
            disk.crash(random.Random(survives))
            with promise("what was cut on purpose does not look lost"):
                assert not open_group(disk).recovering


async def test_p38_what_is_cut_on_purpose_does_not_look_lost_wherever_the_power_goes() -> None:
    await holds_and_mutant_fails(
        with_part(what_is_cut_on_purpose_does_not_look_lost), ReachedFile, "log.CutsWithoutAWord"
    )


def test_p38_nor_does_what_a_snapshot_replaced() -> None:
    for power_after in range(20):
        disk = holding(33)
        storage = open_group(disk)
        disk.lose_power_after(power_after)
        with suppress(PowerLost):
            storage.log.reset(20, 1)
        disk.crash(random.Random(power_after))
        assert not open_log(disk, SEGMENT_BYTES).reached.is_ahead


def test_p38_what_was_never_synced_is_no_loss() -> None:
    disk = holding(10)
    storage = open_group(disk)
    storage.log.append(entries(11, 20))
    storage.note_synced()
    disk.crash(random.Random(3))
    assert not open_group(disk).recovering


@pytest.mark.parametrize("content", [b"", b"STRE", bytes(20), b"x" * 20, b"x" * 99])
def test_p38_a_file_that_does_not_check_says_nothing(content: bytes) -> None:
    disk = holding(10)
    disk.damage(FOLDER / REACHED_NAME, lambda was: was.__setitem__(slice(0, None), content))
    storage = open_group(disk)
    assert not storage.recovering
    storage.note_synced()
    assert read_reached(FOLDER / REACHED_NAME, disk) == 10


def test_p38_once_it_is_whole_again_what_was_lost_is_forgotten() -> None:
    """The history that it is filled up with may end before the one that it lost: uncommitted entries of a leader of which nobody knows."""
    disk = holding(33)
    cut(300)(disk)
    storage = open_group(disk)
    assert storage.recovering
    storage.recovered()
    disk.crash(random.Random(5))
    assert not open_group(disk).recovering


def test_p38_a_disk_in_trouble_keeps_the_older_bound_and_refuses_the_cut() -> None:
    disk = holding(33)
    storage = open_group(disk)
    storage.log.append(entries(34, 40))
    storage.log.sync()
    disk.fail("pwrite", name=REACHED_NAME, times=2)
    storage.note_synced()
    assert storage.log.last_index == 40
    disk.heal()
    disk.fail("fdatasync", name=REACHED_NAME)
    with pytest.raises(StorageFailed):
        storage.log.truncate_from(5)
    disk.kill()
    assert open_group(disk).log.last_index == 40


def test_p38_a_loss_that_cannot_be_written_down_is_a_failure() -> None:
    disk = holding(33)
    cut(100)(disk)
    disk.fail("create")
    with pytest.raises(StorageFailed):
        open_group(disk)
    assert open_group(disk).recovering
