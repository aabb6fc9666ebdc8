"""The data directory: one opener, whole files, nothing damaged deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stele.datanode.directory import DataDirectory, GroupSpec
from stele.datanode.log import SnapshotFiles, TermFile
from stele.datanode.log.snapshot_format import snapshot_name
from stele.services.errors import ClusterMismatch, DirectoryBusy, LogDamaged
from stele.services.files import OsFileSystem
from stele.services.high_water import HighWater
from stele.services.raft.storage import Members, Snapshot
from stele.services.topics import Retention

SPEC = GroupSpec(7, "a/b", 3, (1, 2, 3))


def test_one_opener_at_a_time(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path / "d")
    with pytest.raises(DirectoryBusy):
        DataDirectory(tmp_path / "d")
    first.close()
    DataDirectory(tmp_path / "d").close()


def test_identity_is_kept(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    mine = directory.identity.uuid
    directory.check_cluster("any")
    directory.record_registration(4, "c1")
    directory.record_seen(HighWater(epoch=9, topics=7))
    directory.record_seen(HighWater(epoch=3, groups=5))
    directory.close()
    again = DataDirectory(tmp_path)
    assert (again.identity.uuid, again.identity.store_id) == (mine, 4)
    assert again.identity.seen == HighWater(epoch=9, topics=7, groups=5, stores=5)
    again.check_cluster("c1")
    with pytest.raises(ClusterMismatch) as refused:
        again.check_cluster("c2")
    assert refused.value.facts == {"expected": "c2", "got": "c1"}


def test_groups_come_back(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(SPEC)
    assert directory.groups() == [7]
    assert directory.read_group(7) == SPEC


def test_a_groups_retention_is_kept_and_changed(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(replace(SPEC, retention=Retention(size_bytes=1 << 20)))
    assert directory.read_group(7).retention == Retention(1 << 20, 0)
    directory.configure_group(replace(SPEC, retention=Retention(age_ms=60_000)))
    assert directory.read_group(7).retention == Retention(0, 60_000)


def test_a_group_of_before_there_was_retention_keeps_its_messages_for_ever(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(SPEC)
    path = directory.group_path(7) / "group.json"
    body = json.loads(path.read_bytes())
    del body["retention_bytes"], body["retention_ms"]
    path.write_text(json.dumps(body))
    assert directory.read_group(7).retention == Retention()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 99}', json.dumps({"group": 8, "members": [1]}).encode()]
)
def test_a_damaged_group_file_is_damage(tmp_path: Path, content: bytes) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(SPEC)
    (directory.group_path(7) / "group.json").write_bytes(content)
    with pytest.raises(LogDamaged):
        directory.read_group(7)


def test_a_log_without_a_group_file_is_damage_not_an_unfinished_create(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(SPEC)
    (directory.group_path(7) / "group.json").unlink()
    assert directory.read_group(7) is None
    (directory.group_path(7) / "term").write_bytes(b"x")
    with pytest.raises(LogDamaged):
        directory.read_group(7)


def test_groups_without_a_store_file_are_damage(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create_group(SPEC)
    directory.close()
    (tmp_path / "store.json").unlink()
    with pytest.raises(LogDamaged):
        DataDirectory(tmp_path)
    (tmp_path / "store.json").write_bytes(b"{")
    with pytest.raises(LogDamaged):
        DataDirectory(tmp_path)


def test_r4_5_quarantine_keeps_every_byte(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    for number in (1, 2):
        directory.create_group(SPEC)
        (directory.group_path(7) / "log").write_bytes(bytes([number]) * 100)
        aside = directory.quarantine(7, f"problem {number}", SPEC)
        assert (aside.path / "log").read_bytes() == bytes([number]) * 100
        assert directory.groups() == []
    [reported] = directory.quarantined()
    assert (reported.group, reported.problem, reported.topic, reported.partition) == (7, "problem 2", "a/b", 3)
    assert directory.release_quarantined(7, "deleted")
    assert not directory.release_quarantined(7, "deleted")
    assert directory.quarantined() == []
    assert sum((p / "log").exists() for p in directory.quarantine_path.iterdir()) == 2


def _write_snapshot(folder: Path, index: int, members: Members) -> Path:
    SnapshotFiles(folder, OsFileSystem()).write(Snapshot(index, 3, members, 0, 0, 0, 0), b"")
    return folder / snapshot_name(index)


def test_r4_5_a_replica_that_is_rebuilt_knows_the_members_of_its_newest_snapshot(tmp_path: Path) -> None:
    """It began alone; by now it has peers to get its log back from."""
    directory = DataDirectory(tmp_path)
    directory.record_registration(1, "c1")
    alone = GroupSpec(7, "a/b", 3, (1,))
    directory.create_group(alone)
    folder = directory.group_path(7)
    TermFile(folder).store(4, 2)
    aside = directory.quarantine(7, "damaged", alone)
    assert directory.rebuild(aside) is None, "nobody has its log"
    _write_snapshot(aside.path, 10, Members((1, 2)))
    _write_snapshot(aside.path, 20, Members((1, 2, 5), (9,)))
    damaged = _write_snapshot(aside.path, 30, Members((1, 3)))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = sorted(p.name for p in aside.path.iterdir())
    spec = directory.rebuild(aside)
    assert spec is not None
    assert spec.members == (1, 2, 5)
    assert directory.read_group(7) == spec
    spent = aside.path.with_name(f"{aside.path.name}.rebuilt")
    assert sorted(p.name for p in spent.iterdir()) == before
    assert directory.quarantined() == []
    assert sorted(p.name for p in directory.group_path(7).iterdir()) == ["group.json", "recovering", "term"]


def test_r4_5_a_snapshot_in_which_a_replica_does_not_vote_says_nothing_of_its_peers(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.record_registration(1, "c1")
    directory.create_group(SPEC)
    TermFile(directory.group_path(7)).store(4, 2)
    aside = directory.quarantine(7, "damaged", SPEC)
    _write_snapshot(aside.path, 20, Members((2, 3), (1,)))
    spec = directory.rebuild(aside)
    assert spec is not None
    assert spec.members == SPEC.members
