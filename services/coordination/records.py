"""The records of the coordination tree, and their JSON form.

Guarantee: a value is readable with ``zkCli``, says its ``format``, and what is written by one version is either read by another or
refused with ``RecordUnreadable``: fields that a reader does not know are ignored, fields that a writer did not know take their
defaults, a higher format is refused.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

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
class DeletedTopicsRecord:
    """``deleted/topics``: ids of topics that were deleted, as intervals, both ends included.  Only what stands here was deleted: a replica
    of a topic of which nothing is recorded at all is an orphan, and kept."""

    intervals: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord:
    """``partitions/<group>``: which stores hold the replicas of a partition; ``version`` counts changes of membership.

    While replicas move, ``target`` is the wish: ``replicas`` holds all that may count meanwhile, those that join and those that go."""

    topic: str
    index: int
    replicas: tuple[int, ...]  # ids of stores
    version: int = 0
    materialised: tuple[
        int, ...
    ] = ()  # of these, which have ever reported theirs: what is lost there is never begun anew
    target: tuple[int, ...] = ()  # the stores that are to hold the replicas; none: those of ``replicas``
    cause: str = ""  # of the move: operator, decommission, repair
    leaving: tuple[int, ...] = ()  # stores that left the group for good: what they hold of it is to be deleted


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
    body = {"format": _format(type(record))} | {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return msgspec.json.format(msgspec.json.encode(body), indent=0)  # one line, with spaces: people read it


def decode(value: bytes, record_type: type[R], path: str = "") -> R:
    """RecordUnreadable where the value is not such a record, or is of a later format."""
    try:
        text = value.decode()  # whole: msgspec looks at no string that it skips
        # The form first: of a later format nothing else may be believed.
        written = msgspec.json.decode(text, type=_Form).format
        if written > _format(record_type):
            raise ValueError(f"format {written} is not known to this version")
        record: R = _decoder(record_type).decode(text)
        return record
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordUnreadable(f"{path or 'value'} is no {record_type.__name__}: {error}", path=path) from None


class _Form(msgspec.Struct):
    format: int = 1


@cache
def _decoder(record_type: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(record_type)


def _format(record_type: type[Any]) -> int:
    return int(getattr(record_type, "FORMAT", 1))
