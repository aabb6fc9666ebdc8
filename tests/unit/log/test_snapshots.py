"""Snapshot files that a replica writes: whole under their name or not there, and never believed when damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from crc32c import crc32c

from stele.datanode.log import SnapshotFiles
from stele.datanode.log.snapshot_format import (
    MEMBERS_MAX,
    UNDATED_MS,
    SnapshotHeader,
    decode_header,
    snapshot_name,
)
from stele.services.errors import LogDamaged
from stele.services.files import OsFileSystem
from stele.services.raft.storage import Members, Snapshot, SnapshotStorage
from stele.services.topics import RETENTION_MS_MAX
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.groups import cut, flip, snapshot_of
from tests.unit.log.logs import FOLDER
from tests.unit.log.snapshot_files import A, B, C, bytes_of, files, path_of, written

# --- written by the replica itself ----------------------------------------------------------------------------------


def test_it_is_a_snapshot_storage() -> None:
    storage: SnapshotStorage = files(SimulatedDisk())
    assert storage.snapshots == ()


def test_what_is_written_is_read_before_and_after_opening_again() -> None:
    disk = SimulatedDisk()
    storage = files(disk)
    for snapshot in (B, A, C):
        storage.write(snapshot, bytes_of(snapshot))
    for opened in (storage, files(disk)):
        assert opened.snapshots == (A, B, C)
        for snapshot in (A, B, C):
            assert opened.read(snapshot.index) == bytes_of(snapshot)
            source = opened.open(snapshot.index)
            assert source.snapshot == snapshot
            assert source.read(0, 1 << 40) == bytes_of(snapshot)
            assert source.read(5, 7) == bytes_of(snapshot)[5:12]
            assert source.read(snapshot.size, 10) == source.read(snapshot.size + 5, 10) == b""
            source.close()


def test_one_that_is_not_there_is_a_key_error() -> None:
    storage = files(written(A))
    for call in (storage.read, storage.open):
        with pytest.raises(KeyError):
            call(11)


def test_the_same_index_again_replaces_the_file() -> None:
    storage = files(written(A, B))
    again = snapshot_of(10, size=20)
    storage.write(again, bytes_of(again))
    assert storage.snapshots == (again, B)
    assert storage.read(10) == bytes_of(again)


def test_a_state_that_is_not_the_snapshots_is_refused() -> None:
    storage = files(SimulatedDisk())
    for wrong in (b"", bytes_of(A) + b"x", bytes(A.size)):
        with pytest.raises(ValueError, match="do not fit"):
            storage.write(A, wrong)
    assert storage.snapshots == ()


def test_dropping_removes_the_older_ones_durably() -> None:
    disk = written(A, B, C)
    storage = files(disk)
    storage.drop_before(10)
    assert storage.snapshots == (A, B, C)
    storage.drop_before(25)
    assert storage.snapshots == (C,)
    with pytest.raises(KeyError):
        storage.read(20)
    disk.crash(random.Random(1))
    assert disk.listdir(FOLDER) == [snapshot_name(30)]


def test_an_open_snapshot_stays_readable_although_it_is_dropped(tmp_path: Path) -> None:
    for fs, folder in ((SimulatedDisk(), FOLDER), (OsFileSystem(), tmp_path)):
        storage = SnapshotFiles(folder, fs)
        storage.write(A, bytes_of(A))
        source = storage.open(10)
        storage.drop_before(99)
        assert source.read(0, 1 << 20) == bytes_of(A)
        source.close()


def test_what_an_interrupted_write_left_is_removed_and_foreign_files_are_not() -> None:
    disk = written(A)
    disk.create(FOLDER / (snapshot_name(20) + ".new")).pwrite([b"half"], 0)
    disk.create(FOLDER / "notes.snap")
    assert files(disk).snapshots == (A,)
    assert disk.listdir(FOLDER) == ["notes.snap", snapshot_name(10)]


async def test_h8_a_snapshot_is_whole_or_absent_after_a_power_loss_at_any_step() -> None:
    async def scenario(files_type: type[SnapshotFiles]) -> None:
        for seed in range(60):
            for step in range(6):
                rng = random.Random(seed)
                disk = written(A)
                storage = files_type(FOLDER, disk)
                disk.lose_power_after(step)
                done = False
                try:
                    storage.write(B, bytes_of(B))
                    done = True
                except PowerLost:
                    pass
                disk.crash(rng)
                with promise("what has a snapshot's name is a whole snapshot"):
                    found = files_type(FOLDER, disk)
                    assert found.damaged == (), f"seed {seed}, step {step}"
                    assert found.snapshots in ((A, B), (A,)[: 2 - done]), f"seed {seed}, step {step}"
                    for snapshot in found.snapshots:
                        assert found.read(snapshot.index) == bytes_of(snapshot)

    await holds_and_mutant_fails(scenario, SnapshotFiles, "snapshots.NamesBeforeSyncing")


def test_h8_a_name_found_in_the_cache_is_durable_once_it_is_counted() -> None:
    """The process was killed between the rename and the sync of the folder."""
    disk = written(A)
    storage = files(disk)
    disk.lose_power_after(3)
    with pytest.raises(PowerLost):
        storage.write(B, bytes_of(B))
    disk.kill()
    assert files(disk).snapshots == (A, B)
    for seed in range(20):
        disk.crash(random.Random(seed))
        assert files(disk).snapshots == (A, B)


# --- damage ---------------------------------------------------------------------------------------------------------


async def test_h10_a_cut_off_file_is_not_a_snapshot() -> None:
    async def scenario(files_type: type[SnapshotFiles]) -> None:
        size = len(written(A).content(path_of(A)))
        for length in range(0, size, 7):
            disk = written(A, B)
            cut(disk, path_of(A), length)
            storage = files_type(FOLDER, disk)
            with promise("a snapshot that is cut short is refused"):
                assert storage.snapshots == (B,)
                assert storage.damaged == (10,)
        disk = written(A)
        disk.damage(path_of(A), lambda content: content.append(0))
        assert files_type(FOLDER, disk).damaged == (10,)

    await holds_and_mutant_fails(scenario, SnapshotFiles, "snapshots.AcceptsACutSnapshot")


def test_a_changed_byte_anywhere_is_found() -> None:
    header = SnapshotHeader(A, False).bytes
    for at in range(len(written(A).content(path_of(A)))):
        disk = written(A, B)
        flip(disk, path_of(A), at, 1 << at % 8)
        storage = files(disk)
        assert storage.damaged == ((10,) if at < header else ())
        if at >= header:
            for call in (storage.read, storage.open, storage.check):
                with pytest.raises(LogDamaged) as error:
                    call(10)
                assert error.value.facts["path"] == str(path_of(A))
        assert storage.read(20) == bytes_of(B)


def test_a_file_under_another_snapshots_name_is_damaged() -> None:
    disk = written(A)
    disk.rename(path_of(A), path_of(B))
    assert files(disk).damaged == (20,)


def test_a_damaged_file_stays_until_it_is_set_aside() -> None:
    disk = written(A, B)
    cut(disk, path_of(B), 100)
    content = disk.content(path_of(B))
    storage = files(disk)
    assert disk.content(path_of(B)) == content
    storage.set_aside(20)
    assert storage.damaged == ()
    disk.crash(random.Random(1))
    again = files(disk)
    assert (again.snapshots, again.damaged) == ((A,), ())
    assert disk.content(FOLDER / (snapshot_name(20) + ".damaged")) == content


def test_a_header_of_another_version_is_refused() -> None:
    head = bytearray(SnapshotHeader(A, False).to_bytes())
    head[5] = 9
    head[-4:] = crc32c(bytes(head[:-4])).to_bytes(4, "big")
    with pytest.raises(LogDamaged, match="version 9"):
        decode_header(bytes(head), path_of(A))


def test_p36_a_snapshot_that_was_dated_by_a_wall_clock_is_read_and_never_counts_as_old() -> None:
    head = bytearray(SnapshotHeader(A, False).to_bytes())
    head[5] = 1
    head[-4:] = crc32c(bytes(head[:-4])).to_bytes(4, "big")
    found = decode_header(bytes(head), path_of(A)).snapshot
    assert found == A
    assert found.taken_ms == UNDATED_MS > RETENTION_MS_MAX * 1_000


def test_a_header_has_bounded_members() -> None:
    most = Snapshot(1, 1, Members(tuple(range(1, MEMBERS_MAX + 1))), 0, 0, 0, 0)
    assert decode_header(SnapshotHeader(most, True).to_bytes(), FOLDER) == SnapshotHeader(most, True)
    over = Snapshot(1, 1, Members(tuple(range(1, MEMBERS_MAX + 2))), 0, 0, 0, 0)
    with pytest.raises(ValueError, match="at most"):
        SnapshotHeader(over, True).to_bytes()
