"""ZooKeeper's tree of nodes, and what a request would make of it.  Pure.

Guarantee: the answers are the real server's (checked against one in tests/integration/coordination/test_simulated_zookeeper.py): the same
errors in the same order of precedence, versions, owners and counts of children; a transaction that fails changes nothing; a server that
applies the same transactions in the same order comes to the same tree and the same watch events.

Not there: access control, quotas, containers, nodes with a time to live, and the check of a path's characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kazoo.exceptions import (
    BadArgumentsError,
    BadVersionError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RuntimeInconsistency,
    UnimplementedError,
)
from kazoo.protocol.serialization import CheckVersion, Create, Delete, SetData, Transaction

EPHEMERAL, SEQUENTIAL = 1, 2  # flags of a creation
ROLLED_BACK = 0  # of an operation before the one that failed


class Refused(Exception):
    """What the server answers in place of a result; ``code`` is ZooKeeper's."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(error.__name__)
        self.code: int = error.code  # type: ignore[attr-defined]


# --- what a transaction does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    path: str
    value: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Written:
    path: str
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Deleted:
    path: str


@dataclass(frozen=True, slots=True)
class Checked:
    path: str


@dataclass(frozen=True, slots=True)
class Opened:
    session: int
    timeout_ms: int
    password: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    session: int


Change = Created | Written | Deleted | Checked | Opened | Closed


@dataclass(frozen=True, slots=True)
class Txn:
    """What every server applies, in the order of ``zxid``.  A refused request is one too, without changes."""

    zxid: int
    time_ms: int
    changes: tuple[Change, ...] = ()
    error: int = 0  # of a request that was refused
    errors: tuple[int, ...] | None = None  # of each operation of a transaction that was refused


class Happened(Enum):
    """Kinds of watch event; the values are those on the wire."""

    CREATED = 1
    DELETED = 2
    CHANGED = 3
    CHILD = 4


@dataclass(frozen=True, slots=True)
class Event:
    kind: Happened
    path: str


# --- the tree ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Znode:
    value: bytes
    czxid: int
    mzxid: int
    pzxid: int
    created_ms: int
    modified_ms: int
    version: int = 0
    creations: int = 0  # of children, ever: the number of the next sequential one
    owner: int = 0
    children: dict[str, None] = field(default_factory=dict)  # in order of creation: no hash decides

    def stat(self) -> tuple[int, ...]:
        """In the order of the wire."""
        return (
            self.czxid,
            self.mzxid,
            self.created_ms,
            self.modified_ms,
            self.version,
            self.creations * 2 - len(self.children),
            0,
            self.owner,
            len(self.value),
            len(self.children),
            self.pzxid,
        )


@dataclass(frozen=True, slots=True)
class Granted:
    """A session as the tree knows it: it outlives a restart of the servers."""

    timeout_ms: int
    password: bytes


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


class Tree:
    def __init__(self) -> None:
        self.zxid = 0
        self.nodes: dict[str, Znode] = {"/": Znode(b"", 0, 0, 0, 0, 0)}
        self.sessions: dict[int, Granted] = {}
        self.ephemerals: dict[int, dict[str, None]] = {}
        self.written: list[tuple[int, ...]] = []  # stats of what the last transaction wrote, each as it was then

    def apply(self, txn: Txn) -> list[Event]:
        """The watch events, in the order in which the server finds them."""
        assert txn.zxid > self.zxid
        self.zxid = txn.zxid
        self.written = []
        events: list[Event] = []
        for change in txn.changes:
            self._apply(change, txn, events)
        return events

    def _apply(self, change: Change, txn: Txn, events: list[Event]) -> None:
        match change:
            case Created(path, value, owner):
                self.nodes[path] = Znode(value, txn.zxid, txn.zxid, txn.zxid, txn.time_ms, txn.time_ms, owner=owner)
                parent = self.nodes[parent_of(path)]
                parent.children[path.rpartition("/")[2]] = None
                parent.creations += 1
                parent.pzxid = txn.zxid
                if owner:
                    self.ephemerals.setdefault(owner, {})[path] = None
                events += [Event(Happened.CREATED, path), Event(Happened.CHILD, parent_of(path))]
            case Written(path, value, version):
                node = self.nodes[path]
                node.value, node.version, node.mzxid, node.modified_ms = value, version, txn.zxid, txn.time_ms
                self.written.append(node.stat())
                events.append(Event(Happened.CHANGED, path))
            case Deleted(path):
                self._delete(path, txn, events)
            case Opened(session, timeout_ms, password):
                self.sessions[session] = Granted(timeout_ms, password)
            case Closed(session):
                for path in self.ephemerals.pop(session, {}):
                    self._delete(path, txn, events)
                self.sessions.pop(session, None)
            case Checked():
                pass

    def _delete(self, path: str, txn: Txn, events: list[Event]) -> None:
        node = self.nodes.pop(path)
        parent = self.nodes[parent_of(path)]
        del parent.children[path.rpartition("/")[2]]
        parent.pzxid = txn.zxid
        if node.owner in self.ephemerals:
            self.ephemerals[node.owner].pop(path, None)
        events += [Event(Happened.DELETED, path), Event(Happened.CHILD, parent_of(path))]


# --- what a request comes to ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Record:
    """What a node would be after the operations so far."""

    version: int
    creations: int
    children: int
    owner: int


class Pending:
    """The tree with the effects of a transaction's first operations, none of which has happened yet."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changed: dict[str, _Record | None] = {}

    def find(self, path: str) -> _Record:
        if path in self._changed:
            record = self._changed[path]
        elif (node := self._tree.nodes.get(path)) is not None:
            record = _Record(node.version, node.creations, len(node.children), node.owner)
        else:
            record = None
        if record is None:
            raise Refused(NoNodeError)
        return record

    def has(self, path: str) -> bool:
        try:
            self.find(path)
        except Refused:
            return False
        return True

    def put(self, path: str, record: _Record | None) -> None:
        self._changed[path] = record


def prepare(request: Any, pending: Pending, session: int) -> Change:
    """What ``request`` does; its effect is noted in ``pending``.  Raises Refused."""
    if isinstance(request, Create):
        return _create(request, pending, session)
    if isinstance(request, Delete):
        return _delete(request, pending)
    if isinstance(request, SetData):
        record = pending.find(request.path)
        _check_version(record, request.version)
        record.version += 1
        pending.put(request.path, record)
        return Written(request.path, request.data, record.version)
    if isinstance(request, CheckVersion):
        _check_version(pending.find(request.path), request.version)
        return Checked(request.path)
    raise Refused(UnimplementedError)


def _create(request: Create, pending: Pending, session: int) -> Created:
    path = request.path
    parent = pending.find(parent_of(path))
    if request.flags & SEQUENTIAL:
        path = f"{path}{parent.creations:010d}"
    if pending.has(path):
        raise Refused(NodeExistsError)
    if parent.owner:
        raise Refused(NoChildrenForEphemeralsError)
    parent.creations += 1
    parent.children += 1
    pending.put(parent_of(path), parent)
    owner = session if request.flags & EPHEMERAL else 0
    pending.put(path, _Record(0, 0, 0, owner))
    return Created(path, request.data or b"", owner)


def _delete(request: Delete, pending: Pending) -> Deleted:
    if request.path == "/":
        raise Refused(BadArgumentsError)
    parent = pending.find(parent_of(request.path))
    record = pending.find(request.path)
    _check_version(record, request.version)
    if record.children:
        raise Refused(NotEmptyError)
    parent.children -= 1
    pending.put(parent_of(request.path), parent)
    pending.put(request.path, None)
    return Deleted(request.path)


def _check_version(record: _Record, expected: int) -> None:
    if expected not in (-1, record.version):
        raise Refused(BadVersionError)


def prepare_all(requests: Sequence[Any], tree: Tree, session: int) -> tuple[tuple[Change, ...], tuple[int, ...] | None]:
    """The changes of a whole transaction; or none, and a code for each operation."""
    pending = Pending(tree)
    changes: list[Change] = []
    for at, request in enumerate(requests):
        try:
            changes.append(prepare(request, pending, session))
        except Refused as refused:
            after = [RuntimeInconsistency.code] * (len(requests) - at - 1)  # type: ignore[attr-defined]
            return (), (*[ROLLED_BACK] * at, refused.code, *after)
    return tuple(changes), None


def is_write(request: Any) -> bool:
    return isinstance(request, Create | Delete | SetData | Transaction)
