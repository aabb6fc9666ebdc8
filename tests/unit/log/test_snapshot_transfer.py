"""A snapshot that comes from another replica: it goes on where it stopped, and is installed whole or not at all."""

from __future__ import annotations

import random

import pytest

from stele.datanode.log.snapshot_format import SnapshotHeader, snapshot_name
from stele.services.errors import LogDamaged
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.groups import cut, flip, snapshot_of
from tests.unit.log.logs import FOLDER
from tests.unit.log.snapshot_files import PART, A, B, C, bytes_of, files, stage, written


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
