"""The records of the coordination tree, and their JSON form.

Guarantee: a value is readable with ``zkCli``, says its ``format``, and what is written by one version is either read by another or
refused with ``RecordUnreadable``: fields that a reader does not know are ignored, fields that a writer did not know take their
defaults, a higher format is refused.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from stele.services.coordination.znode import Stat
from stele.services.errors import RecordUnreadable
from stele.services.topics import Retention


class ZnodeRecord(Protocol):
    """A frozen dataclass of JSON's types, tuples and other such dataclasses; ``FORMAT`` where it is not 1."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=ZnodeRecord)
V = TypeVar("V", covariant=True)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[V]):
    """A record as it was read; a write that carries ``version`` changes that one and no later one."""

    record: V
    version: int
    stat: Stat


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """``cluster``: which cluster this tree is; a process with another id refuses to start."""

    id: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """``epoch``: counts leaderships; its node's version is checked in every transaction of the leader."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderRecord:
    """``leader``: the nameserver that leads, for as long as its session lives."""

    name: str
    endpoint: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """One run of one process, so that a later one can tell its own past from another's present (R1.9, R5.4, R5.5)."""

    instance: str  # drawn at process start
    machine: str = ""  # where ``pid`` means something: boot and pid namespace; "" where that is not known
    pid: int = 0
    pid_started: int = 0  # start of the process in clock ticks since boot: a reused pid is another process
    identity: str = ""  # what only one process can hold at a time (the uuid in a locked data directory); "" none


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecord:
    """``names/<name>``: where the process of that logical name is; outlives it."""

    endpoint: str
    session: int  # of the process that wrote it
    session_timeout_ms: int = 0  # how long the session may outlive its process
    owner: Incarnation = Incarnation(instance="")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """``members/<kind>/<name>``: a live process."""

    endpoint: str  # host:port that processes of the cluster dial
    advertised: str = ""  # host:port for clients outside the cluster's network
    raft_endpoint: str = ""  # datanodes: where other datanodes dial it
    store_id: int = 0  # datanodes: of its store
    state: str = "ready"  # loading (datanodes), ready or draining
    loaded: int = 0  # datanodes: groups loaded, of ``total``, while the state is loading (R4.4, R4.6)
    total: int = 0
    version: str = ""
    started_ms: int = 0
    admin_endpoint: str = ""  # of its health and metrics
    session_timeout_ms: int = 0
    owner: Incarnation = Incarnation(instance="")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecord:
    """``stores/<id>``: a store that has registered once; state is up, offline or tombstone."""

    name: str  # of the datanode that runs it
    state: str
    uuid: str  # in its data directory: another directory is another store
    registered_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuriedRecord:
    """``stores/buried``: ids of removed stores as intervals, both ends included (R2.2)."""

    intervals: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecord:
    """``namespaces/<ns>``: how its partitions are spread over brokers, and what its topics get that ask for nothing else."""

    bundles: int  # how many ranges of the hash; fixed
    replication: int
    retention_bytes: int = 0  # of topics that ask for nothing else; 0: no bound
    retention_ms: int = 0

    @property
    def retention(self) -> Retention:
        return Retention(self.retention_bytes, self.retention_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord:
    """``topics/<ns>/<topic>``; state is creating, ready or deleting."""

    id: int
    partitions: int
    replication: int
    state: str
    created_ms: int
    retention_bytes: int = 0  # 0: no bound
    retention_ms: int = 0

    @property
    def retention(self) -> Retention:
        return Retention(self.retention_bytes, self.retention_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord:
    """``partitions/<group>``: which stores hold the replicas of a partition; ``version`` counts changes of membership."""

    topic: str
    index: int
    replicas: tuple[int, ...]  # ids of stores
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRecord:
    """``bundles/<ns>/<range>``: the broker that owns a bundle, and since which epoch (R5.10)."""

    broker: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRecord:
    """``stores/alloc``, ``groups/alloc``, ``topics/alloc``: the next id; never reset (R2.2)."""

    next: int


def encode(record: ZnodeRecord) -> bytes:
    body = {"format": _format(type(record)), **dataclasses.asdict(record)}
    return json.dumps(body, separators=(", ", ": "), ensure_ascii=False).encode()


def decode(value: bytes, record_type: type[R], path: str = "") -> R:
    """RecordUnreadable where the value is not such a record, or is of a later format."""
    try:
        body = json.loads(value)
        if not isinstance(body, dict):
            raise TypeError("not an object")
        written = body.get("format", 1)
        if not isinstance(written, int) or written > _format(record_type):
            raise TypeError(f"format {written} is not known to this version")
        return typing.cast(R, _build(record_type, body))
    except (ValueError, TypeError) as error:
        raise RecordUnreadable(f"{path or 'value'} is no {record_type.__name__}: {error}", path=path) from None


def _format(record_type: type[Any]) -> int:
    return int(getattr(record_type, "FORMAT", 1))


@cache
def _fields(record_type: typing.Hashable) -> dict[str, Any]:
    return typing.get_type_hints(record_type)


def _build(record_type: type[Any], body: dict[str, Any]) -> Any:
    hints = _fields(typing.cast(typing.Hashable, record_type))
    known = {f.name for f in dataclasses.fields(record_type)}
    return record_type(**{name: _convert(value, hints[name], name) for name, value in body.items() if name in known})


def _convert(value: Any, hint: Any, name: str) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        return None if value is None else _convert(value, arms[0], name)
    if typing.get_origin(hint) in (tuple, list) and isinstance(value, list):
        args = typing.get_args(hint)
        inner = [args[0]] * len(value) if len(args) < 2 or args[1] is Ellipsis else list(args)
        items = [_convert(item, arm, name) for item, arm in zip(value, inner, strict=True)]
        return tuple(items) if typing.get_origin(hint) is tuple else items
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type[Any], hint), value)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        return value
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is float and isinstance(value, int):
        return float(value)
    if hint is Any:
        return value
    raise TypeError(f"{name} is {value!r}")
