"""Snapshots on disks that are full or fail: no room stops nothing, every other failure is final."""

from __future__ import annotations

import errno
import random

import pytest

from stele.services.errors import DiskFull, StorageFailed
from tests.support.disks import SimulatedDisk
from tests.unit.log.logs import FOLDER
from tests.unit.log.snapshot_files import A, B, C, bytes_of, files, stage, written


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
