"""Snapshot files: whole under their name or not there, never believed when damaged, transfers that go on where they stopped."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from crc32c import crc32c

from stele.datanode.log import SnapshotFiles
from stele.datanode.log.snapshot_format import MEMBERS_MAX, SnapshotHeader, decode_header, snapshot_name
from stele.lab.mutants.snapshots import AcceptsACutSnapshot, NamesBeforeSyncing
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from stele.services.files import FileSystem, OsFileSystem
from stele.services.raft.storage import Members, Snapshot, SnapshotStorage
from tests.support.both_ways import holds_and_variant_fails
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.groups import cut, flip, snapshot_of, state_of
from tests.unit.log.logs import FOLDER

A, B, C = snapshot_of(10), snapshot_of(20, 2), snapshot_of(30, 2, size=0)
PART = FOLDER / "incoming.part"


def path_of(snapshot: Snapshot) -> Path:
    return FOLDER / snapshot_name(snapshot.index)


def bytes_of(snapshot: Snapshot) -> bytes:
    return state_of(snapshot.index, snapshot.term, snapshot.size)


def files(disk: FileSystem, reserve: int = 0) -> SnapshotFiles:
    return SnapshotFiles(FOLDER, disk, reserve)


def written(*snapshots: Snapshot) -> SimulatedDisk:
    disk = SimulatedDisk()
    storage = files(disk)
    for snapshot in snapshots:
        storage.write(snapshot, bytes_of(snapshot))
    return disk


def stage(storage: SnapshotStorage, snapshot: Snapshot, until: int | None = None, chunk_bytes: int = 100) -> None:
    state = bytes_of(snapshot)[:until]
    while (at := storage.staged(snapshot)) < len(state):
        storage.stage(snapshot, at, state[at : at + chunk_bytes])


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
                found = files_type(FOLDER, disk)
                assert found.damaged == (), f"seed {seed}, step {step}"
                assert found.snapshots in ((A, B), (A,)[: 2 - done]), f"seed {seed}, step {step}"
                for snapshot in found.snapshots:
                    assert found.read(snapshot.index) == bytes_of(snapshot)

    await holds_and_variant_fails(scenario, SnapshotFiles, NamesBeforeSyncing, (AssertionError, LogDamaged))


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
            assert storage.snapshots == (B,)
            assert storage.damaged == (10,)
        disk = written(A)
        disk.damage(path_of(A), lambda content: content.append(0))
        assert files_type(FOLDER, disk).damaged == (10,)

    await holds_and_variant_fails(scenario, SnapshotFiles, AcceptsACutSnapshot)


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


def test_a_header_has_bounded_members() -> None:
    most = Snapshot(1, 1, Members(tuple(range(1, MEMBERS_MAX + 1))), 0, 0, 0, 0)
    assert decode_header(SnapshotHeader(most, True).to_bytes(), FOLDER) == SnapshotHeader(most, True)
    over = Snapshot(1, 1, Members(tuple(range(1, MEMBERS_MAX + 2))), 0, 0, 0, 0)
    with pytest.raises(ValueError, match="at most"):
        SnapshotHeader(over, True).to_bytes()


# --- a transfer -----------------------------------------------------------------------------------------------------


def test_a_transfer_goes_on_where_it_stopped_after_a_restart() -> None:
    disk = written(A)
    storage = files(disk)
    assert storage.staged(B) == 0
    stage(storage, B, 300)
    assert storage.staged(B) == 300
    disk.kill()
    again = files(disk)
    assert again.staged(B) == 300
    stage(again, B)
    assert again.snapshots == (A,)
    assert again.check_staged(B) == bytes_of(B)
    again.install_staged(B)
    assert again.snapshots == (B,)
    disk.crash(random.Random(1))
    installed = files(disk)
    assert (installed.snapshots, installed.headers[0].installed) == ((B,), True)
    assert installed.read(20) == bytes_of(B)
    assert disk.listdir(FOLDER) == [snapshot_name(20)]


def test_an_empty_state_can_be_transferred() -> None:
    storage = files(SimulatedDisk())
    assert storage.check_staged(C) == b""
    storage.install_staged(C)
    assert storage.snapshots == (C,)


def test_a_transfer_of_another_snapshot_begins_anew() -> None:
    disk = SimulatedDisk()
    storage = files(disk)
    stage(storage, B, 300)
    other = snapshot_of(20, 2, size=650)
    assert storage.staged(other) == 0
    assert not disk.listdir(FOLDER)
    stage(storage, other, 200)
    disk.kill()
    again = files(disk)
    assert again.staged(B) == 0
    assert not disk.listdir(FOLDER)


@pytest.mark.parametrize("left", ["garbage", "too long", "header only", "cut header"])
def test_a_staging_file_that_cannot_be_resumed_is_removed(left: str) -> None:
    disk = SimulatedDisk()
    stage(files(disk), B, 300)
    header = SnapshotHeader(B, True).bytes
    match left:
        case "garbage":
            flip(disk, PART, 20)
        case "too long":
            disk.damage(PART, lambda content: content.extend(bytes(1000)))
        case "header only":
            cut(disk, PART, header)
        case _:
            cut(disk, PART, header - 1)
    storage = files(disk)
    assert storage.staged(B) == 0
    assert disk.listdir(FOLDER) == ([PART.name] if left == "header only" else [])
    stage(storage, B)
    assert storage.check_staged(B) == bytes_of(B)


@pytest.mark.parametrize("offset", [0, 299, 301, 700])
def test_a_chunk_at_another_offset_is_refused(offset: int) -> None:
    storage = files(SimulatedDisk())
    stage(storage, B, 300)
    with pytest.raises(ValueError, match="do not follow"):
        storage.stage(B, offset, b"x")
    assert storage.staged(B) == 300


def test_more_than_the_snapshots_size_is_refused() -> None:
    storage = files(SimulatedDisk())
    stage(storage, B, 600)
    with pytest.raises(ValueError, match="do not follow"):
        storage.stage(B, 600, bytes(101))
    assert storage.staged(B) == 600


def test_a_transfer_that_does_not_check_is_removed_and_begins_anew() -> None:
    disk = written(A)
    storage = files(disk)
    stage(storage, B)
    flip(disk, PART, 400)
    for call in (storage.check_staged, storage.install_staged):
        with pytest.raises(LogDamaged):
            call(B)
        assert storage.staged(B) == 0
        assert storage.snapshots == (A,)
        assert PART.name not in disk.listdir(FOLDER)
        stage(storage, B)
        flip(disk, PART, 500)
    storage.staged(A)
    stage(storage, B, 500)
    with pytest.raises(LogDamaged):
        storage.check_staged(B)


def test_installing_checks_by_itself_whatever_was_not_checked() -> None:
    storage = files(SimulatedDisk())
    with pytest.raises(LogDamaged):
        storage.install_staged(B)
    stage(storage, B)
    storage.install_staged(B)
    assert storage.snapshots == (B,)


def test_a_power_loss_during_a_transfer_costs_the_transfer_at_most() -> None:
    resumed = 0
    for seed in range(300):
        rng = random.Random(seed)
        disk = written(A)
        storage = files(disk)
        disk.lose_power_after(rng.randint(0, 14))
        named = False
        try:
            stage(storage, B)
            storage.check_staged(B)
            named = True
            storage.install_staged(B)
        except PowerLost:
            pass
        disk.crash(rng)
        again = files(disk)
        assert again.damaged == ()
        if B in again.snapshots:
            assert named
            assert again.read(20) == bytes_of(B)
            continue
        assert again.snapshots == (A,)
        resumed += again.staged(B) > 0
        for _ in range(2):
            stage(again, B)
            try:
                assert again.check_staged(B) == bytes_of(B)
                break
            except LogDamaged:
                assert again.staged(B) == 0
        again.install_staged(B)
        assert files(disk).snapshots == (B,)
    assert resumed > 30


# --- failing disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_snapshot_leaves_nothing_and_stops_nothing(operation: str, number: int) -> None:
    disk = written(A)
    storage = files(disk)
    disk.fail(operation, number)  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        storage.write(B, bytes_of(B))
    assert files(disk).snapshots == storage.snapshots == (A,)
    assert [name for name in disk.listdir(FOLDER) if name.endswith(".new")] == []
    storage.write(B, bytes_of(B))
    assert storage.snapshots == (A, B)


def test_a_removal_that_finds_no_room_removes_nothing_and_can_be_repeated() -> None:
    disk = written(A, B, C)
    storage = files(disk)
    disk.fail("unlink", errno.ENOSPC, skip=1)
    with pytest.raises(DiskFull):
        storage.drop_before(30)
    assert storage.snapshots == files(disk).snapshots == (B, C)
    storage.drop_before(30)
    assert storage.snapshots == files(disk).snapshots == (C,)


def test_the_reserve_is_left_free_by_snapshots_too() -> None:
    disk = SimulatedDisk(capacity_bytes=10_000)
    storage = files(disk, reserve=9_500)
    for call in (lambda: storage.write(A, bytes_of(A)), lambda: storage.stage(A, 0, bytes_of(A))):
        with pytest.raises(DiskFull) as full:
            call()
        assert full.value.facts["reserve_bytes"] == "9500"
    assert disk.used_bytes() == 0
    disk.capacity_bytes = 100_000
    storage.write(A, bytes_of(A))


@pytest.mark.parametrize("have", [0, 300])
def test_no_room_for_a_chunk_keeps_what_was_staged_before(have: int) -> None:
    disk = SimulatedDisk()
    storage = files(disk)
    stage(storage, B, have)
    disk.capacity_bytes = disk.used_bytes() + 100
    with pytest.raises(DiskFull):
        storage.stage(B, have, bytes_of(B)[have : have + 200])
    assert storage.staged(B) == have
    assert files(disk).staged(B) == have
    disk.capacity_bytes += 10_000
    stage(storage, B)
    storage.install_staged(B)
    assert storage.read(20) == bytes_of(B)


def test_an_install_that_cannot_remove_the_older_ones_for_want_of_room_is_done() -> None:
    disk = written(A)
    storage = files(disk)
    stage(storage, B)
    disk.fail("unlink", errno.ENOSPC, times=9)
    storage.install_staged(B)
    assert storage.snapshots == (B,)
    with pytest.raises(KeyError):
        storage.read(10)
    disk.crash(random.Random(1))
    assert files(disk).snapshots == (A, B), "opening the group removes what ends before the log begins"


FAILURES = [
    *(("write", operation) for operation in ("create", "pwrite", "fdatasync", "rename", "fsync_dir")),
    *(("stage", operation) for operation in ("create", "pwrite")),
    ("check", "fdatasync"),
    *(("install", operation) for operation in ("rename", "fsync_dir", "unlink")),
    *(("drop", operation) for operation in ("unlink", "fsync_dir")),
]


@pytest.mark.parametrize(("call", "operation"), FAILURES)
def test_h7_any_other_failure_is_final(call: str, operation: str) -> None:
    disk = written(A, C)
    storage = files(disk)
    if call in ("check", "install"):
        stage(storage, B)
    if call == "install":
        storage.check_staged(B)
    disk.fail(operation)  # type: ignore[arg-type]
    calls = {
        "write": lambda: storage.write(B, bytes_of(B)),
        "stage": lambda: storage.stage(B, 0, b"x"),
        "check": lambda: storage.check_staged(B),
        "install": lambda: storage.install_staged(B),
        "drop": lambda: storage.drop_before(30),
    }
    with pytest.raises(StorageFailed) as failed:
        calls[call]()
    assert failed.value.facts["errno"] == str(errno.EIO)
    for again in (*calls.values(), lambda: storage.staged(B)):
        with pytest.raises(StorageFailed):
            again()
    disk.crash(random.Random(2))
    found = files(disk)
    assert found.damaged == ()
    assert set(found.snapshots) <= {A, B, C}
    for snapshot in found.snapshots:
        assert found.read(snapshot.index) == bytes_of(snapshot)


@pytest.mark.parametrize("operation", ["open", "pread"])
def test_a_read_error_is_reported_and_stops_nothing(operation: str) -> None:
    disk = written(A)
    storage = files(disk)
    for call in (storage.read, storage.open):
        disk.fail(operation)  # type: ignore[arg-type]
        with pytest.raises(StorageFailed):
            call(10)
    storage.write(B, bytes_of(B))
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(StorageFailed):
        files(disk)
    assert files(disk).snapshots == (A, B)
