"""A journal's flush over a group's folder, cut off by a power loss at any step: what is left is one history (H7, H8, H10)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from stele.datanode.storage import GroupStorage
from stele.services.errors import DiskFull, StorageFailed
from stele.services.raft.journal import Flush, Journal
from stele.services.raft.storage import Members
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.groups import open_group, snapshot_of, stage_all, state_of
from tests.unit.log.logs import entry


def journal_on(storage: GroupStorage) -> Journal:
    return Journal(storage.log, storage.terms, storage.snapshots, Members((1, 2, 3)))


def flush(journal: Journal) -> None:
    begun = journal.begin()
    assert begun is not None
    begun.run()
    if isinstance(begun.error, PowerLost):
        raise begun.error
    assert journal.finish(begun) is None


def replica(last: int = 40) -> tuple[SimulatedDisk, GroupStorage, Journal]:
    disk = SimulatedDisk()
    storage = open_group(disk)
    journal = journal_on(storage)
    journal.store_term(1, 1)
    for index in range(1, last + 1):
        journal.append(entry(index))
    flush(journal)
    return disk, storage, journal


def snap(storage: GroupStorage, index: int) -> None:
    storage.snapshots.write(snapshot_of(index), state_of(index))


def test_h8_a_compaction_cut_off_at_any_step_leaves_what_covers_the_log() -> None:
    for step in range(30):
        for seed in range(5):
            disk, storage, journal = replica()
            snap(storage, 25)
            snap(storage, 40)
            journal.append(entry(41))
            journal.compact(40)
            _until(disk, step, lambda journal=journal: flush(journal))
            disk.crash(random.Random(seed))
            again = open_group(disk)
            assert [s.index for s in again.snapshots.snapshots] in ([25, 40], [40])
            assert 40 <= again.log.last_index <= 41


@pytest.mark.parametrize("term", [1, 2])
def test_h8_an_install_is_flushed_whole_or_not_at_all(term: int) -> None:
    for step in range(60):
        for seed in range(5):
            disk, storage, journal = replica()
            snap(storage, 25)
            snapshot = snapshot_of(100, term)
            stage_all(storage, snapshot)
            storage.snapshots.check_staged(snapshot)
            journal.append(entry(41))
            journal.store_term(term + 1, 0)
            journal.install(snapshot)
            journal.append(entry(101, term + 1))
            _until(disk, step, lambda journal=journal: flush(journal))
            disk.crash(random.Random(seed))
            again = journal_on(open_group(disk))
            if again.snapshots == (snapshot,):
                assert (again.first_index, again.term_at(100)) == (101, term)
                assert again.term == term + 1
            else:
                assert [s.index for s in again.snapshots] == [25]
                assert (again.first_index, again.last_index >= 40) == (1, True)


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_full_disk_holds_an_install_up_and_no_more(operation: str, skip: int) -> None:
    disk, storage, journal = replica()
    snapshot = snapshot_of(100, 2)
    stage_all(storage, snapshot)
    storage.snapshots.check_staged(snapshot)
    journal.store_term(3, 0)
    journal.install(snapshot)
    journal.append(entry(101, 3))
    position = journal.position
    disk.fail(operation, errno.ENOSPC, skip=skip, times=2)  # type: ignore[arg-type]
    full = 0
    while journal.synced_position < position:
        begun = journal.begin()
        assert begun is not None
        begun.run()
        error = journal.finish(begun)
        assert error is None or isinstance(error, DiskFull)
        assert journal.disk_full is (error is not None)
        full += error is not None
        assert full <= 2
    disk.crash(random.Random(1))
    again = journal_on(open_group(disk))
    assert (again.snapshots, again.first_index, again.last_index) == ((snapshot,), 101, 101)


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "fsync_dir"])
def test_h7_a_failed_flush_stays_failed(operation: str) -> None:
    """What was not synced is never synced later: neither by this process nor by one that is restarted on the same cache."""
    disk, storage, journal = replica()
    journal.append(entry(41))
    journal.store_term(2, 0)
    disk.fail(operation)  # type: ignore[arg-type]
    for _ in range(2):
        begun = Flush(storage.log, storage.terms, storage.snapshots, journal._changes, 0, 0, False)
        begun.run()
        assert isinstance(begun.error, StorageFailed)
    disk.kill()
    found = open_group(disk)
    promised = (found.log.last_index, found.terms.load())
    disk.crash(random.Random(1))
    again = open_group(disk)
    assert (again.log.last_index, again.terms.load()) == promised


def _until(disk: SimulatedDisk, step: int, work: Callable[[], None]) -> None:
    disk.lose_power_after(step)
    try:
        work()
    except PowerLost:
        pass
