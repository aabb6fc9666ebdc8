"""The data directory of a store: who it belongs to and which groups it holds.

    lock  store.json  deleted.json  observed.json  groups/<id>/{group.json, log, term}  quarantine/<id>-<n>/  trash/

Guarantee: one process at a time has the directory open (DirectoryBusy for the second); a JSON file in it is the old one
or the new one, whole, after any crash; a group's folder is never deleted because it is damaged, it is moved into
``quarantine`` (R4.5).  What cannot be read is an error, never taken for what is not there.  Once another folder stands in the place of the
directory or of its ``groups``, as after a volume was mounted over it, nothing is read there or changed.

Everything here blocks; it is called on threads.  Errors: StorageFailed and DiskFull for what the system refuses, LogDamaged for what
is read and makes no sense.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from stele.datanode.log import TermFile, newest_members
from stele.datanode.log.segment_list import SEALED_IN_USE_MAX
from stele.datanode.log.segments import base_of
from stele.datanode.storage import RECOVERING_NAME
from stele.services.directory_lock import LOCK_NAME, DirectoryLock
from stele.services.errors import ClusterMismatch, DiskFull, InvalidArgument, LogDamaged, StorageFailed
from stele.services.files import ASIDE_SUFFIX, OS_FILES, inode_of, move_folder
from stele.services.high_water import HighWater
from stele.services.intervals import IntervalSet
from stele.services.json_files import write_json
from stele.services.topics import FOR_EVER, Retention

log = structlog.get_logger()

FORMAT = 1
DELETED_RANGES_MAX = 4_096
_GROUP = re.compile(r"[1-9][0-9]{0,19}")
_QUARANTINED = re.compile(r"([1-9][0-9]{0,19})-([0-9]+)")
_BEFORE_ANY_PROMISE = frozenset({"group.json", LOCK_NAME, RECOVERING_NAME})
_SET_ASIDE = re.compile(rf"{_QUARANTINED.pattern}(\..*)?")  # of interest or not any more


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """``store.json``: which store of which cluster this is."""

    uuid: str
    store_id: int = 0  # 0: not registered yet
    cluster_id: str = ""  # "": belongs to no cluster yet
    leader_epoch: int = 0  # highest epoch of a leading nameserver that this store obeyed
    topics_next: int = 0  # highest that a leading nameserver told it, as the two below
    groups_next: int = 0
    stores_next: int = 0
    format: int = FORMAT

    @property
    def seen(self) -> HighWater:
        return HighWater(self.leader_epoch, self.topics_next, self.groups_next, self.stores_next)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """``group.json``: what a replica is a replica of, its group's first members, and how long its messages are kept.

    ``members``: none where the replica joined a group that there was.

    ``topic_id`` tells topics of one name apart; 0 in what was written before it was known."""

    group: int
    topic: str
    partition: int
    members: tuple[int, ...]
    retention: Retention = FOR_EVER
    topic_id: int = 0

    @classmethod
    def unread(cls, group: int) -> GroupSpec:
        """Of a replica whose ``group.json`` could not be read."""
        return cls(group, "", 0, ())

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
        self.observed_path = path / "observed.json"  # datanode/observed_time.py
        self._deleted_unwritten = False
        with _typed(path):
            for folder in (path, self.groups_path, self.quarantine_path, self.trash_path):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(path)
            try:
                self._opened = {folder: inode_of(folder) for folder in (path, self.groups_path)}
                self.identity = self._load_identity()
                self.deleted = self._load_deleted()
            except BaseException:
                self._lock.release()
                raise

    def close(self) -> None:
        self._lock.release()

    def check_in_place(self) -> None:
        """StorageFailed: the directory was replaced, or it cannot be told."""
        if problem := self.replaced():
            raise StorageFailed(problem, path=self.path)

    def replaced(self) -> str:
        """Nothing while the paths of the directory and of its groups lead to what was opened; else which does not, and what to do.
        StorageFailed: it cannot be told."""
        for folder, opened in self._opened.items():
            with _typed(folder):
                try:
                    found = inode_of(folder)
                except (FileNotFoundError, NotADirectoryError):
                    found = None
            if found != opened:
                return (
                    f"{folder} is not the folder any more that this store was started on: put that back (unmount what was mounted "
                    "over it), or stop the datanode"
                )
        return ""

    def place_of(self, group: int) -> tuple[int, int]:
        """Which folder is the group's.  StorageFailed."""
        with _typed(path := self.group_path(group)):
            return inode_of(path)

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
        stores_next = max(self.identity.stores_next, store_id + 1)
        self._store_identity(replace(self.identity, store_id=store_id, cluster_id=cluster_id, stores_next=stores_next))

    def record_seen(self, told: HighWater) -> None:
        """What is higher than what was seen before is kept; durable when it returns, so that after a restart neither a deposed
        nameserver is obeyed nor an older copy of ZooKeeper's records believed."""
        seen = self.identity.seen.joined(told)
        changed = replace(
            self.identity,
            leader_epoch=seen.epoch,
            topics_next=seen.topics,
            groups_next=seen.groups,
            stores_next=seen.stores,
        )
        if changed != self.identity:
            self._store_identity(changed)

    def _load_identity(self) -> StoreIdentity:
        path = self.path / "store.json"
        body = _read_json(path)
        if body is not None:
            return _identity(path, body)
        if any(self.groups_path.iterdir()):
            raise LogDamaged(f"{path} is missing although {self.groups_path} holds groups", path=path, offset=0)
        identity = StoreIdentity(uuid=str(uuid.uuid4()))
        self.identity = identity
        self._store_identity(identity)
        return identity

    def _store_identity(self, identity: StoreIdentity) -> None:
        self.check_in_place()
        _write_json(self.path / "store.json", asdict(identity))
        self.identity = identity

    # --- groups -----------------------------------------------------------------------------------------------------

    def group_path(self, group: int) -> Path:
        return self.groups_path / str(group)

    def groups(self) -> list[int]:
        """Ids of the groups that have a folder.  A folder of groups that cannot be listed is no empty one: StorageFailed."""
        with _typed(self.groups_path):
            return sorted(int(name) for name in os.listdir(self.groups_path) if _GROUP.fullmatch(name))

    def descriptors_needed(self, groups: Iterable[int]) -> int:
        """How many files the replicas may hold open at a time: each its lock, the segment it writes and a few that are read."""
        return sum(2 + min(max(0, self._segments(group) - 1), SEALED_IN_USE_MAX) for group in groups)

    def _segments(self, group: int) -> int:
        try:
            return sum(base_of(name) is not None for name in os.listdir(self.group_path(group)))
        except OSError:  # what is wrong with it is found when it is opened
            return 0

    def create_group(self, spec: GroupSpec) -> bool:
        """The group's folder, durable with its ``group.json``.  False if there is a folder already: nothing in it is touched, since a
        replica that runs in it may have promised something.  An error leaves nothing of what this call made.

        A replica without first members joins a group that exists, and begins as *recovering*: whatever the store had promised
        before, it promises nothing until it is whole."""
        self.check_in_place()
        path = self.group_path(spec.group)
        with _typed(path):
            try:
                path.mkdir()
            except FileExistsError:
                return False
        try:
            with _typed(path):
                OS_FILES.fsync_dir(self.groups_path)
                if not spec.members:
                    (path / RECOVERING_NAME).touch()
            _write_json(path / "group.json", spec.to_body())  # which syncs the folder
        except BaseException:
            self.unmake(spec.group)
            raise
        return True

    def unmake(self, group: int) -> None:
        """Removes a folder that ``create_group`` has just made and in which no replica has run."""
        path = self.group_path(group)
        grave = self.trash_path / f"{group}-{uuid.uuid4().hex}"
        with _typed(path):
            move_folder(path, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def configure_group(self, spec: GroupSpec) -> None:
        """The group's ``group.json`` anew, durable."""
        self.check_in_place()
        _write_json(self.group_path(spec.group) / "group.json", spec.to_body())

    def read_group(self, group: int) -> GroupSpec | None:
        """None: it is certainly not there, and the folder holds nothing of a replica."""
        self.check_in_place()
        path = self.group_path(group) / "group.json"
        body = _read_json(path)
        if body is None:
            if self.is_begun(group):
                raise LogDamaged(f"{path} is missing", path=path, offset=0)
            return None
        spec = GroupSpec.of_body(path, body)
        if spec.group != group:
            raise LogDamaged(f"{path} is that of group {spec.group}", path=path, offset=0)
        return spec

    def is_begun(self, group: int) -> bool:
        """Whether a replica has run in the folder: it then has a log, and a term once it has promised anything.  False: the folder is
        what an interrupted create left, and nothing was ever promised from it."""
        path = self.group_path(group)
        with _typed(path):
            names = os.listdir(path)
        return any(name not in _BEFORE_ANY_PROMISE and not name.endswith(ASIDE_SUFFIX) for name in names)

    def quarantine(self, group: int, problem: str, spec: GroupSpec | None) -> Quarantined:
        """Moves the group's folder aside (R4.5), with a note why where there is room for one."""
        self.check_in_place()
        with _typed(self.quarantine_path):
            used = [
                int(m[2])
                for n in os.listdir(self.quarantine_path)
                if (m := _SET_ASIDE.fullmatch(n)) and int(m[1]) == group
            ]
            target = self.quarantine_path / f"{group}-{max(used, default=0) + 1}"
            move_folder(self.group_path(group), target)
        found = Quarantined(group, target, problem)
        if spec is not None:
            found = replace(found, topic=spec.topic, partition=spec.partition, topic_id=spec.topic_id)
        named = {"topic": found.topic, "topic_id": found.topic_id, "partition": found.partition}
        try:
            _write_json(target / "problem.json", {"problem": problem, **named})
        except (DiskFull, StorageFailed) as e:
            log.warning("quarantine_without_note", group=group, path=str(target), error=e.message)
        return found

    def rebuild(self, aside: Quarantined) -> GroupSpec | None:
        """A new folder for a group whose old one was set aside, marked *recovering*: with its term and vote, without its log, which
        its peers hold (R4.5).  None if that cannot be done safely: what it was or how it voted is not readable, or it has no peers.

        What was set aside is spent then: the new replica votes on, and one that is made of the old term file once more would forget
        what it voted since."""
        self.check_in_place()
        body = _read_json(aside.path / "group.json")
        if not body:
            return None
        spec = GroupSpec.of_body(aside.path, body)
        known = newest_members(aside.path, OS_FILES)
        if known is not None and self.identity.store_id in known.voters:  # its first members may be long gone
            spec = replace(spec, members=known.voters)
        term, voted_for = TermFile(aside.path).load()
        if len(spec.members) == 1 or (term, voted_for) == (0, 0):
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
        self.release_quarantined(spec.group, "rebuilt")
        return spec

    def quarantined(self) -> list[Quarantined]:
        """What was moved aside and is still of interest, the newest per group."""
        found: dict[int, Quarantined] = {}
        with _typed(self.quarantine_path):
            paths = sorted(self.quarantine_path.iterdir(), key=lambda p: (len(p.name), p.name))
        for path in paths:
            match = _QUARANTINED.fullmatch(path.name)
            if match is None:
                continue
            try:
                note = _read_json(path / "problem.json") or {}
            except (LogDamaged, StorageFailed):
                note = {}
            group = int(match[1])
            problem = str(note.get("problem", "damaged"))
            found[group] = Quarantined(
                group, path, problem, str(note.get("topic", "")), _number(note, "partition"), _number(note, "topic_id")
            )
        return list(found.values())

    def release_quarantined(self, group: int, reason: str) -> bool:
        """What was set aside of the group stays on disk as ``<name>.<reason>``, and is neither reported nor repaired any more.  False
        if there was nothing."""
        self.check_in_place()
        released = False
        with _typed(self.quarantine_path):
            for path in self.quarantine_path.iterdir():
                match = _QUARANTINED.fullmatch(path.name)
                if match is not None and int(match[1]) == group:
                    os.rename(path, path.with_name(f"{path.name}.{reason}"))
                    released = True
            if released:
                OS_FILES.fsync_dir(self.quarantine_path)
        return released

    # --- what is to be deleted --------------------------------------------------------------------------------------

    def discard(self, group: int) -> None:
        """Moves the group's folder into the trash (trash.py), so that a half-deleted one is never taken for a group (R3.4).
        Durable when it returns."""
        self.check_in_place()
        with _typed(self.group_path(group)):
            move_folder(self.group_path(group), self.trash_path / f"{group}-{uuid.uuid4().hex}")

    def record_deleted(self, group: int) -> None:
        """The group never begins here again; durable when it returns."""
        self.check_in_place()
        if group not in self.deleted or self._deleted_unwritten:
            self.deleted = self.deleted.add(group)
            if len(ranges := self.deleted.intervals) > DELETED_RANGES_MAX:
                # A group between the two lowest, were one of that age still to begin here, would be refused.
                self.deleted = IntervalSet.of([(ranges[0][0], ranges[1][1]), *ranges[2:]])
            self._deleted_unwritten = True  # whatever an error leaves in the file
            _write_json(self.path / "deleted.json", {"groups": self.deleted.pairs(), "format": FORMAT})
            self._deleted_unwritten = False

    def _load_deleted(self) -> IntervalSet:
        path = self.path / "deleted.json"
        body = _read_json(path)
        try:
            return IntervalSet.of((body or {}).get("groups", ()))
        except (TypeError, ValueError, IndexError, InvalidArgument) as e:
            raise LogDamaged(f"{path} cannot be read: {e}", path=path, offset=0) from None

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
        raise StorageFailed(f"{self._path}: {error.strerror or error}", path=self._path, errno=error.errno) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """None: there is certainly no such file."""
    try:
        with _typed(path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        body = json.loads(content)
        if not isinstance(body, dict):
            raise ValueError("not an object")
    except ValueError as e:
        raise LogDamaged(f"{path} cannot be read: {e}", path=path, offset=0) from None
    if body.get("format", FORMAT) != FORMAT:
        raise LogDamaged(f"{path} has format {body['format']}; accepted: {FORMAT}", path=path, offset=0)
    return body


def _number(note: dict[str, Any], name: str) -> int:
    value = note.get(name)
    return value if isinstance(value, int) else 0


def _identity(path: Path, body: dict[str, Any]) -> StoreIdentity:
    try:
        return StoreIdentity(**body)
    except TypeError as e:
        raise LogDamaged(f"{path} cannot be read: {e}", path=path, offset=0) from None


def _write_json(path: Path, body: dict[str, Any]) -> None:
    with _typed(path):
        write_json(path, body)
