"""The data directory of a store: who it belongs to and which groups it holds.

    lock  store.json  groups/<id>/{group.json, log, term}  quarantine/<id>-<n>/  trash/

Guarantee: one process at a time has the directory open (DirectoryBusy for the second); a JSON file in it is the old one
or the new one, whole, after any crash; a group's folder is never deleted because it is damaged, it is moved into
``quarantine`` (R4.5).

Everything here blocks; it is called on threads.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stele.datanode.log import TermFile, newest_members
from stele.datanode.storage import RECOVERING_NAME
from stele.services.directory_lock import LOCK_NAME, DirectoryLock
from stele.services.errors import ClusterMismatch, DiskFull, LogDamaged, StorageFailed
from stele.services.files import ASIDE_SUFFIX, OS_FILES
from stele.services.json_files import write_json
from stele.services.topics import FOR_EVER, Retention

FORMAT = 1
_GROUP = re.compile(r"[1-9][0-9]{0,19}")
_QUARANTINED = re.compile(r"([1-9][0-9]{0,19})-[0-9]+")


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """``store.json``: which store of which cluster this is."""

    uuid: str
    store_id: int = 0  # 0: not registered yet
    cluster_id: str = ""  # "": belongs to no cluster yet
    leader_epoch: int = 0  # highest epoch of a leading nameserver that this store obeyed
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """``group.json``: what a replica is a replica of, its first members, and how long its messages are kept.

    ``topic_id`` tells topics of one name apart; 0 in what was written before it was known."""

    group: int
    topic: str
    partition: int
    members: tuple[int, ...]
    retention: Retention = FOR_EVER
    topic_id: int = 0

    def to_body(self) -> dict[str, Any]:
        """As it is written; a body without retention is one of before there was any."""
        bounds = {"retention_bytes": self.retention.size_bytes, "retention_ms": self.retention.age_ms}
        named = {"group": self.group, "topic": self.topic, "topic_id": self.topic_id, "partition": self.partition}
        return {**named, "members": self.members, **bounds, "format": FORMAT}

    @classmethod
    def of_body(cls, path: Path, body: dict[str, Any]) -> GroupSpec:
        """LogDamaged for what ``to_body`` does not make."""
        try:
            retention = Retention(body.get("retention_bytes", 0), body.get("retention_ms", 0))
            members = tuple(body["members"])
            return cls(body["group"], body["topic"], body["partition"], members, retention, body.get("topic_id", 0))
        except (KeyError, TypeError) as e:
            raise LogDamaged(f"{path} cannot be read: {e!r}", path=path, offset=0) from None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A replica that was moved aside, and why."""

    group: int
    path: Path
    problem: str
    topic: str = ""
    partition: int = 0
    topic_id: int = 0


class DataDirectory:
    """Open from construction on; ``close`` lets another process have it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.groups_path = path / "groups"
        self.quarantine_path = path / "quarantine"
        self.trash_path = path / "trash"
        with _typed(path):
            for folder in (path, self.groups_path, self.quarantine_path, self.trash_path):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(path)
            try:
                self.identity = self._load_identity()
            except BaseException:
                self._lock.release()
                raise

    def close(self) -> None:
        self._lock.release()

    # --- identity ---------------------------------------------------------------------------------------------------

    def check_cluster(self, cluster_id: str) -> None:
        """Raises ClusterMismatch if the directory is another cluster's; nothing in it is touched then."""
        mine = self.identity.cluster_id
        if mine and mine != cluster_id:
            raise ClusterMismatch(
                f"{self.path} belongs to cluster {mine}, the ZooKeeper tree to cluster {cluster_id}",
                expected=cluster_id,
                got=mine,
            )

    def record_registration(self, store_id: int, cluster_id: str) -> None:
        """From here on the directory is that store's; durable when it returns."""
        self._store_identity(replace(self.identity, store_id=store_id, cluster_id=cluster_id))

    def record_leader_epoch(self, leader_epoch: int) -> None:
        """A nameserver of a higher epoch leads; durable when it returns, so that a restart does not obey a deposed
        one."""
        self._store_identity(replace(self.identity, leader_epoch=leader_epoch))

    def _load_identity(self) -> StoreIdentity:
        path = self.path / "store.json"
        if path.exists():
            return _identity(path, _read_json(path))
        if any(self.groups_path.iterdir()):
            raise LogDamaged(f"{path} is missing although {self.groups_path} holds groups", path=path, offset=0)
        identity = StoreIdentity(uuid=str(uuid.uuid4()))
        self.identity = identity
        self._store_identity(identity)
        return identity

    def _store_identity(self, identity: StoreIdentity) -> None:
        _write_json(self.path / "store.json", asdict(identity))
        self.identity = identity

    # --- groups -----------------------------------------------------------------------------------------------------

    def group_path(self, group: int) -> Path:
        return self.groups_path / str(group)

    def groups(self) -> list[int]:
        """Ids of the groups that have a folder."""
        return sorted(int(p.name) for p in self.groups_path.iterdir() if _GROUP.fullmatch(p.name))

    def create_group(self, spec: GroupSpec) -> None:
        """The group's folder, durable with its ``group.json``."""
        path = self.group_path(spec.group)
        with _typed(path):
            path.mkdir(exist_ok=True)
            OS_FILES.fsync_dir(self.groups_path)
        _write_json(path / "group.json", spec.to_body())

    def configure_group(self, spec: GroupSpec) -> None:
        """The group's ``group.json`` anew, durable."""
        _write_json(self.group_path(spec.group) / "group.json", spec.to_body())

    def read_group(self, group: int) -> GroupSpec | None:
        """None: the folder is what a create left that was interrupted; nothing was ever promised from it.  Raises
        LogDamaged."""
        path = self.group_path(group) / "group.json"
        if not path.exists():
            if any(name.name not in (f"group.json{ASIDE_SUFFIX}", LOCK_NAME) for name in path.parent.iterdir()):
                raise LogDamaged(f"{path} is missing", path=path, offset=0)
            return None
        body = _read_json(path)
        spec = GroupSpec.of_body(path, body)
        if spec.group != group or not spec.members:
            raise LogDamaged(f"{path} is that of group {spec.group}", path=path, offset=0)
        return spec

    def quarantine(self, group: int, problem: str, spec: GroupSpec | None) -> Quarantined:
        """Moves the group's folder aside, with a note why (R4.5)."""
        with _typed(self.quarantine_path):
            number = 1
            while (target := self.quarantine_path / f"{group}-{number}").exists():
                number += 1
            os.rename(self.group_path(group), target)
            OS_FILES.fsync_dir(self.quarantine_path)
            OS_FILES.fsync_dir(self.groups_path)
        found = Quarantined(group, target, problem)
        if spec is not None:
            found = replace(found, topic=spec.topic, partition=spec.partition, topic_id=spec.topic_id)
        named = {"topic": found.topic, "topic_id": found.topic_id, "partition": found.partition}
        _write_json(target / "problem.json", {"problem": problem, **named})
        return found

    def rebuild(self, aside: Quarantined) -> GroupSpec | None:
        """A new folder for a group whose old one was set aside, marked *recovering*: with its term and vote, without its log, which
        its peers hold (R4.5).  None if that cannot be done safely: what it was or how it voted is not readable, or it has no peers."""
        body = _read_json(aside.path / "group.json") if (aside.path / "group.json").exists() else {}
        if not body:
            return None
        spec = GroupSpec.of_body(aside.path, body)
        known = newest_members(aside.path, OS_FILES)
        if known is not None and self.identity.store_id in known.voters:  # its first members may be long gone
            spec = replace(spec, members=known.voters)
        term, voted_for = TermFile(aside.path).load()
        if len(spec.members) < 2 or (term, voted_for) == (0, 0):
            return None
        path = self.group_path(spec.group)
        new = path.with_name(path.name + ASIDE_SUFFIX)
        with _typed(path):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            TermFile(new).store(term, voted_for)
            (new / RECOVERING_NAME).touch()
            _write_json(new / "group.json", spec.to_body())
            os.rename(new, path)
            OS_FILES.fsync_dir(self.groups_path)
        return spec

    def quarantined(self) -> list[Quarantined]:
        """What was moved aside and is still of interest, the newest per group."""
        found: dict[int, Quarantined] = {}
        for path in sorted(self.quarantine_path.iterdir(), key=lambda p: (len(p.name), p.name)):
            match = _QUARANTINED.fullmatch(path.name)
            if match is None:
                continue
            try:
                note = _read_json(path / "problem.json")
            except (LogDamaged, OSError):
                note = {}
            group = int(match[1])
            problem = str(note.get("problem", "damaged"))
            topic, partition = str(note.get("topic", "")), int(note.get("partition", 0))
            found[group] = Quarantined(group, path, problem, topic, partition, int(note.get("topic_id", 0)))
        return list(found.values())

    def release_quarantined(self, group: int) -> None:
        """The group is no more: what is left of it stays on disk under another name and is not reported any longer."""
        for path in self.quarantine_path.iterdir():
            match = _QUARANTINED.fullmatch(path.name)
            if match is not None and int(match[1]) == group:
                os.rename(path, path.with_name(f"{path.name}.deleted"))

    # --- what is to be deleted --------------------------------------------------------------------------------------

    def discard(self, group: int) -> None:
        """Moves the group's folder into the trash, so that a half-deleted one is never taken for a group (R3.4)."""
        os.rename(self.group_path(group), self.trash_path / f"{group}-{uuid.uuid4().hex}")

    def empty_trash(self) -> int:
        """Deletes what earlier runs left in the trash; how many folders that were."""
        left = list(self.trash_path.iterdir())
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return len(left)

    def free_bytes(self) -> int:
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize


class _typed:
    """Around work on files: what the system says leaves as an error of the tree."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{self._path}: {error.strerror}", path=self._path) from error
        raise StorageFailed(f"{self._path}: {error.strerror or error}", path=self._path) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict):
            raise ValueError("not an object")
    except ValueError as e:
        raise LogDamaged(f"{path} cannot be read: {e}", path=path, offset=0) from None
    if body.get("format", FORMAT) != FORMAT:
        raise LogDamaged(f"{path} has format {body['format']}; accepted: {FORMAT}", path=path, offset=0)
    return body


def _identity(path: Path, body: dict[str, Any]) -> StoreIdentity:
    try:
        return StoreIdentity(**body)
    except TypeError as e:
        raise LogDamaged(f"{path} cannot be read: {e}", path=path, offset=0) from None


def _write_json(path: Path, body: dict[str, Any]) -> None:
    with _typed(path):
        write_json(path, body)
