"""Term, snapshots and log of a group are opened as one history, or refused (H3, H7, H8, H10)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog, TermFile, start_point
from stele.datanode.log.reached import REACHED_NAME
from stele.datanode.log.snapshot_format import snapshot_name
from stele.datanode.log.start_point import StartPoint
from stele.datanode.storage import GroupStorage
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from stele.services.files import FileSystem
from stele.services.raft.storage import Entry, OpenStorage, Snapshot, is_ahead
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.groups import (
    SEGMENT_BYTES,
    cut,
    flip,
    install,
    open_group,
    snapshot_of,
    stage_all,
    state_of,
)
from tests.unit.log.logs import FOLDER, entries, everything

Install = Callable[[OpenStorage, Snapshot], None]
Compact = Callable[[OpenStorage, Snapshot, bytes], None]


def group(last: int = 60, term: int = 1) -> tuple[SimulatedDisk, GroupStorage]:
    """A replica of term 5 with entries 1..``last`` in segments of ten, synced."""
    disk = SimulatedDisk()
    storage = open_group(disk)
    storage.terms.store(5, 2)
    for start in range(1, last, 10):
        storage.log.append(entries(start, start + 9, term))
    storage.log.sync()
    return disk, storage


def write(storage: OpenStorage, snapshot: Snapshot) -> None:
    storage.snapshots.write(snapshot, state_of(snapshot.index, snapshot.term, snapshot.size))


def compact(storage: OpenStorage, snapshot: Snapshot, state: bytes) -> None:
    """As a replica does it: the snapshot is durable BEFORE what it covers goes."""
    storage.snapshots.write(snapshot, state)
    storage.snapshots.drop_before(snapshot.index)
    storage.log.drop_before(snapshot.index + 1)


def indexes(storage: OpenStorage) -> list[int]:
    for snapshot in storage.snapshots.snapshots:
        assert storage.snapshots.read(snapshot.index) == state_of(snapshot.index, snapshot.term, snapshot.size)
    return [snapshot.index for snapshot in storage.snapshots.snapshots]


def logged(storage: OpenStorage) -> list[Entry]:
    assert isinstance(storage.log, SegmentLog)
    return everything(storage.log)


def path_of(index: int) -> Path:
    return FOLDER / snapshot_name(index)


# --- H10: a log that begins behind 1 --------------------------------------------------------------------------------


async def test_h10_a_log_that_begins_behind_1_needs_a_snapshot_that_covers_it() -> None:
    async def scenario(open_: Callable[[FileSystem], GroupStorage]) -> None:
        for index in (None, 29, 30, 37, 60):
            disk, storage = group()
            if index is not None:
                write(storage, snapshot_of(index))
            storage.log.drop_before(35)
            assert storage.log.first_index == 31
            storage.close()
            if index in (None, 29):
                try:
                    open_(disk)
                except LogDamaged:
                    continue
                with promise("a log that begins behind 1 needs its snapshot"):
                    raise AssertionError(f"a log that begins at 31 was opened with snapshot {index}")
            storage = open_(disk)
            assert indexes(storage) == [index]
            assert logged(storage) == entries(31, 60)

    await holds_and_mutant_fails(
        scenario,
        open_group,
        "snapshots.starts_without_its_beginning",
        lambda mutant: lambda fs: mutant(fs, FOLDER, SEGMENT_BYTES),
    )


def test_snapshots_that_end_before_the_log_begins_are_removed() -> None:
    disk, storage = group()
    for index in (5, 29, 40, 50):
        write(storage, snapshot_of(index))
    storage.log.drop_before(35)
    storage.close()
    assert indexes(open_group(disk)) == [40, 50]
    assert [name for name in disk.listdir(FOLDER) if name.startswith("snapshot")] == [
        snapshot_name(40),
        snapshot_name(50),
    ]


async def test_h8_segments_go_only_once_the_snapshot_that_covers_them_is_durable() -> None:
    async def scenario(compact_: Compact) -> None:
        for step in range(40):
            for how in ("kill", *range(6)):
                disk, storage = group()
                compact_(storage, snapshot_of(15), state_of(15))
                disk.lose_power_after(step)
                done = False
                try:
                    compact_(storage, snapshot_of(45), state_of(45))
                    done = True
                except PowerLost:
                    pass
                _die(disk, how)
                with promise("a power loss during compaction loses nothing"):
                    storage = open_group(disk)
                    kept = [45] if done else indexes(storage)
                    assert indexes(storage) == kept
                    assert kept in ([15], [15, 45], [45])
                    assert logged(storage) == entries(storage.log.first_index, 60)
                    assert storage.log.first_index <= kept[0] + 1

    await holds_and_mutant_fails(scenario, compact, "snapshots.drops_before_the_snapshot")


# --- installs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "snapshot",
    [snapshot_of(500, 4), snapshot_of(61, 2), snapshot_of(60, 2), snapshot_of(45, 3)],
    ids=["far ahead", "the next", "another last", "another history"],
)
async def test_h8_an_install_is_there_or_not_after_a_crash_at_any_step(snapshot: Snapshot) -> None:
    async def scenario(install_: Install) -> None:
        for step in range(60):
            for how in ("kill", *range(5)):
                disk, storage = group()
                write(storage, snapshot_of(20))
                write(storage, snapshot_of(40))
                stage_all(storage, snapshot)
                disk.lose_power_after(step)
                done = False
                try:
                    install_(storage, snapshot)
                    done = True
                except PowerLost:
                    pass
                _die(disk, how)
                with promise("a power loss during an install leaves log or snapshot"):
                    storage = open_group(disk)
                    if snapshot in storage.snapshots.snapshots:
                        _installed(disk, storage, snapshot)
                        disk.crash(random.Random(step))
                        _installed(disk, open_group(disk), snapshot)
                    else:
                        assert not done
                        assert indexes(storage) == [20, 40]
                        assert logged(storage) == entries(1, 60)

    await holds_and_mutant_fails(scenario, install, "snapshots.resets_before_installing")


def _installed(disk: SimulatedDisk, storage: GroupStorage, snapshot: Snapshot) -> None:
    log = storage.log
    assert indexes(storage) == [snapshot.index]
    assert (log.first_index, log.last_index, log.term_at(snapshot.index)) == (
        snapshot.index + 1,
        snapshot.index,
        snapshot.term,
    )
    found = [name for name in disk.listdir(FOLDER) if name != REACHED_NAME]
    assert found == [f"{snapshot.index + 1:020d}.seg", snapshot_name(snapshot.index), "term"]


def _die(disk: SimulatedDisk, how: str | int) -> None:
    if isinstance(how, str):
        disk.kill()
    else:
        disk.crash(random.Random(how))


def test_h3_a_snapshot_whose_entry_is_in_the_log_resets_nothing() -> None:
    """Installed and crashed before the reset, or long ago: either way the log goes on behind it."""
    disk, storage = group()
    snapshot = snapshot_of(45, 1)
    stage_all(storage, snapshot)
    storage.snapshots.install_staged(snapshot)
    assert not is_ahead(snapshot, storage.log)
    disk.kill()
    storage = open_group(disk)
    assert logged(storage) == entries(1, 60)
    assert indexes(storage) == [45]


def test_an_unfinished_install_whose_state_is_damaged_destroys_nothing() -> None:
    disk, storage = group()
    write(storage, snapshot_of(40))
    stage_all(storage, snapshot_of(500, 4))
    storage.snapshots.check_staged(snapshot_of(500, 4))
    disk.lose_power_after(0)
    with pytest.raises(PowerLost):
        storage.snapshots.install_staged(snapshot_of(500, 4))
    disk.kill()
    flip(disk, path_of(500), 400)
    storage = open_group(disk)
    assert indexes(storage) == [40]
    assert logged(storage) == entries(1, 60)
    assert snapshot_name(500) + ".damaged" in disk.listdir(FOLDER)


def test_h7_a_snapshot_of_a_later_term_than_the_term_file_is_refused() -> None:
    disk, storage = group()
    snapshot = snapshot_of(500, 6)
    stage_all(storage, snapshot)
    install(storage, snapshot)
    storage.close()
    with pytest.raises(LogDamaged, match="the term is 5"):
        open_group(disk)
    TermFile(FOLDER, disk).store(6, 0)
    open_group(disk)


# --- the replica's own snapshots ------------------------------------------------------------------------------------


async def test_h10_an_own_snapshot_ahead_of_the_log_is_damage() -> None:
    """The log was synced that far: although what is left of it looks whole, promised entries are gone."""

    def all_segments(disk: SimulatedDisk) -> None:
        for name in disk.listdir(FOLDER):
            if name.endswith(".seg"):
                disk.unlink(FOLDER / name)

    def last_append(disk: SimulatedDisk) -> None:
        newest = [name for name in disk.listdir(FOLDER) if name.endswith(".seg")][-1]
        cut(disk, FOLDER / newest, 64 + 9 * 65)

    def last_segment(disk: SimulatedDisk) -> None:
        disk.unlink(FOLDER / [name for name in disk.listdir(FOLDER) if name.endswith(".seg")][-1])

    async def scenario(decide: Callable[..., StartPoint]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stele.datanode.storage.decide", decide)
            for lose in (all_segments, last_append, last_segment):
                disk, storage = group()
                write(storage, snapshot_of(30))
                write(storage, snapshot_of(60))
                storage.close()
                assert indexes(open_group(disk)) == [30, 60]
                lose(disk)
                try:
                    open_group(disk)
                except LogDamaged:
                    continue
                with promise("a log is not reset for a snapshot of the replica's own"):
                    raise AssertionError("a log that has lost entries was opened")

    await holds_and_mutant_fails(scenario, start_point.decide, "snapshots.resets_for_its_own")


def test_h10_an_own_snapshot_that_the_log_contradicts_is_damage() -> None:
    disk, storage = group()
    write(storage, snapshot_of(30, 2))
    storage.close()
    with pytest.raises(LogDamaged, match="another history"):
        open_group(disk)


# --- damaged snapshots ----------------------------------------------------------------------------------------------

HURTS = [
    ("header", lambda disk, index: flip(disk, path_of(index), 9)),
    ("state", lambda disk, index: flip(disk, path_of(index), 500)),
    ("cut", lambda disk, index: cut(disk, path_of(index), 300)),
]


@pytest.mark.parametrize("hurt", [hurt for _, hurt in HURTS], ids=[name for name, _ in HURTS])
def test_the_newest_snapshot_may_be_damaged_while_an_older_one_covers_the_log(
    hurt: Callable[[SimulatedDisk, int], None],
) -> None:
    disk, storage = group()
    for index in (35, 40, 50):
        write(storage, snapshot_of(index))
    storage.log.drop_before(36)
    storage.close()
    hurt(disk, 50)
    storage = open_group(disk)
    assert indexes(storage) == [35, 40]
    assert logged(storage) == entries(31, 60)
    assert snapshot_name(50) + ".damaged" in disk.listdir(FOLDER)
    hurt(disk, 40)
    assert indexes(open_group(disk)) == [35]


@pytest.mark.parametrize("hurt", [hurt for _, hurt in HURTS], ids=[name for name, _ in HURTS])
def test_any_snapshot_may_be_damaged_while_the_log_begins_at_1(hurt: Callable[[SimulatedDisk, int], None]) -> None:
    disk, storage = group()
    for index in (20, 40):
        write(storage, snapshot_of(index))
    storage.close()
    hurt(disk, 40)
    assert indexes(open_group(disk)) == [20]
    hurt(disk, 20)
    storage = open_group(disk)
    assert indexes(storage) == []
    assert logged(storage) == entries(1, 60)


@pytest.mark.parametrize("hurt", [HURTS[0][1], HURTS[2][1]], ids=["header", "cut"])
def test_h10_the_oldest_snapshot_is_needed_although_a_newer_one_covers_the_log(
    hurt: Callable[[SimulatedDisk, int], None],
) -> None:
    """A follower that starts from the newer one would lack messages that are kept."""
    disk, storage = group()
    for index in (35, 50):
        write(storage, snapshot_of(index))
    storage.log.drop_before(36)
    storage.close()
    hurt(disk, 35)
    before = {name: disk.content(FOLDER / name) for name in disk.listdir(FOLDER)}
    with pytest.raises(LogDamaged, match="no older snapshot"):
        open_group(disk)
    assert {name: disk.content(FOLDER / name) for name in disk.listdir(FOLDER)} == before, "damage stays where it is"


@pytest.mark.parametrize("hurt", [hurt for _, hurt in HURTS], ids=[name for name, _ in HURTS])
def test_h10_the_only_snapshot_of_a_log_that_begins_behind_1_is_needed(
    hurt: Callable[[SimulatedDisk, int], None],
) -> None:
    disk, storage = group()
    stage_all(storage, snapshot_of(500, 4))
    install(storage, snapshot_of(500, 4))
    storage.close()
    hurt(disk, 500)
    with pytest.raises(LogDamaged):
        open_group(disk)


def test_a_damaged_snapshot_that_ends_before_the_log_begins_is_nobodys_loss() -> None:
    disk, storage = group()
    for index in (10, 50):
        write(storage, snapshot_of(index))
    storage.log.drop_before(50)
    storage.close()
    flip(disk, path_of(10), 9)
    assert indexes(open_group(disk)) == [50]


# --- the folder itself ----------------------------------------------------------------------------------------------


def test_a_group_opens_wholly_on_a_simulated_disk() -> None:
    disk = SimulatedDisk()
    disk.makedirs(FOLDER)
    disk.create(FOLDER / "recovering")
    storage = open_group(disk)
    assert storage.recovering
    storage.recovered()
    storage.recovered()
    disk.crash(random.Random(1))
    assert not open_group(disk).recovering


def test_a_marker_that_cannot_be_removed_is_a_failure() -> None:
    for operation in ("unlink", "fsync_dir"):
        disk = SimulatedDisk()
        disk.makedirs(FOLDER)
        disk.create(FOLDER / "recovering")
        storage = open_group(disk)
        disk.fail(operation)  # type: ignore[arg-type]
        with pytest.raises(StorageFailed):
            storage.recovered()


def test_no_room_to_finish_an_install_is_a_full_disk_and_it_is_finished_later() -> None:
    disk, storage = group()
    stage_all(storage, snapshot_of(500, 4))
    storage.snapshots.install_staged(snapshot_of(500, 4))
    disk.kill()
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(DiskFull):
        open_group(disk)
    disk.capacity_bytes += 10_000
    _installed(disk, open_group(disk), snapshot_of(500, 4))
