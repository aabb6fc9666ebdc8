"""A store's data directory on a simulated volume: the product's own code on it, through crashes."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from stele.datanode.directory import DataDirectory, GroupSpec
from stele.datanode.storage import opener
from stele.services.errors import DirectoryBusy, SteleError
from stele.services.files import OS_FILES, replace_file
from stele.services.raft.registry import Registry
from tests.simulation.cluster.disk import Volume
from tests.unit.raft.lone import NoLinks


@pytest.fixture(params=["real", "simulated"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "real" else Volume().path


def test_a_data_directory_works_the_same(folder: Path) -> None:
    """Everything that DataDirectory does with names and files, on both."""
    directory = DataDirectory(folder / "data")
    with pytest.raises(DirectoryBusy):
        DataDirectory(folder / "data")
    directory.record_registration(3, "cluster")
    spec = GroupSpec(7, "a/b", 0, (1, 2, 3))
    directory.create_group(spec)
    assert directory.groups() == [7]
    assert directory.read_group(7) == spec
    aside = directory.quarantine(7, "damaged", spec)
    assert directory.groups() == []
    assert [(q.group, q.problem) for q in directory.quarantined()] == [(7, "damaged")]
    assert directory.rebuild(aside) is None  # it never voted
    directory.create_group(GroupSpec(8, "a/b", 1, (1, 2, 3)))
    directory.discard(8)
    assert directory.groups() == []
    directory.close()
    again = DataDirectory(folder / "data")
    assert again.identity.store_id == 3
    again.close()


def test_what_is_not_led_to_the_volume_fails() -> None:
    path = Volume().path
    with pytest.raises(AssertionError, match="operating system"):
        open(path / "x")  # noqa: SIM115


def test_a_lock_goes_with_its_process() -> None:
    volume = Volume()
    DataDirectory(volume.path)
    volume.kill()
    DataDirectory(volume.path).close()


def test_names_of_folders_are_durable_after_a_sync_of_their_folder() -> None:
    lost = kept = 0
    for seed in range(20):
        volume = Volume()
        (volume.path / "a").mkdir()
        (volume.path / "b").mkdir()
        OS_FILES.fsync_dir(volume.path)
        (volume.path / "a" / "x").mkdir()
        replace_file(volume.path / "a" / "x" / "file", b"content")
        OS_FILES.fsync_dir(volume.path / "a")
        volume.rename(volume.path / "a" / "x", volume.path / "b" / "x")
        if seed % 2:
            OS_FILES.fsync_dir(volume.path / "b")
        volume.crash(random.Random(seed))
        at_a, at_b = (volume.path / "a" / "x").exists(), (volume.path / "b" / "x").exists()
        assert at_a != at_b, "a move is in both folders or in neither"
        assert at_b or not seed % 2, "after the sync it is durable"
        lost, kept = lost + at_a, kept + at_b
        there = volume.path / ("a" if at_a else "b") / "x" / "file"
        assert there.read_bytes() == b"content"
    assert lost
    assert kept > 10


def test_a_folder_that_was_not_synced_may_be_gone() -> None:
    found: set[bool] = set()
    for seed in range(20):
        volume = Volume()
        (volume.path / "x").mkdir()
        volume.crash(random.Random(seed))
        found.add((volume.path / "x").exists())
    assert found == {True, False}


@pytest.mark.parametrize("deletes", ["the registry", "the directory"])
async def test_r3_4_what_was_deleted_stays_so_after_a_loss_of_power(deletes: str) -> None:
    for seed in range(10):
        volume = Volume()
        directory = DataDirectory(volume.path)
        directory.create_group(GroupSpec(7, "a/b", 0, (1, 2, 3)))
        if deletes == "the directory":
            directory.discard(7)
        else:
            registry = Registry(1, directory.groups_path, NoLinks(), opener(1 << 20, 0, volume), observed_ms=lambda: 0)
            assert await registry.delete(7)
            await registry.close()
        volume.crash(random.Random(seed))
        back = DataDirectory(volume.path)
        assert back.groups() == []
        assert [name.partition("-")[0] for name in volume.names(back.trash_path)] == ["7"]


def test_faults_of_the_volume() -> None:
    volume = Volume()
    directory = DataDirectory(volume.path)
    directory.create_group(GroupSpec(7, "a/b", 0, (1, 2, 3)))
    old = volume.backup()
    directory.create_group(GroupSpec(8, "a/b", 1, (1, 2, 3)))
    volume.read_only = True
    with pytest.raises(SteleError):
        directory.create_group(GroupSpec(9, "a/b", 2, (1, 2, 3)))
    volume.read_only = False
    volume.fail("open", errno.EMFILE, name="group.json")
    with pytest.raises((SteleError, OSError)):
        directory.read_group(7)
    assert directory.read_group(7) is not None
    volume.lose(volume.path / "groups" / "7")
    assert directory.groups() == [8]
    volume.kill()
    volume.bring_back(old)
    back = DataDirectory(volume.path)
    assert back.groups() == [7]
    back.close()
