"""The records of the coordination tree, and their JSON form.

Guarantee: a value is readable with ``zkCli``, says its ``format``, and what is written by one version is either read by another or
refused with ``RecordUnreadable``: fields that a reader does not know are ignored, and kept where it writes the record anew with
``dataclasses.replace``; fields that a writer did not know take their defaults; a higher format is refused.

A field that whoever does not know it would lose, or act against, says since which record format of the cluster it may be written
(``since``); ``needs`` says which one a record takes.  Whatever else is added may be lost without harm.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from stele.services.coordination.znode import Stat
from stele.services.errors import RecordUnreadable
from stele.services.topics import Retention

RECORD_FORMAT = 2  # the highest that this version writes, once the whole cluster has come to it


class ZnodeRecord(Protocol):
    """A frozen dataclass of JSON's types, tuples and other such dataclasses; ``FORMAT`` where it is not 1."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=ZnodeRecord)
V = TypeVar("V", covariant=True)


def since(record_format: int, default: Any) -> Any:
    """A field that may be written once the cluster is at ``record_format``; until then it is left at ``default``."""
    return field(default=default, metadata={"record_format": record_format})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Base of records that are read, changed and written anew."""

    unknown_: tuple[tuple[str, Any], ...] = field(
        default=(), compare=False, repr=False
    )  # fields of a later version, as they were read


@dataclass(frozen=True, slots=True)
class Versioned(Generic[V]):
    """A record as it was read; a write that carries ``version`` changes that one and no later one."""

    record: V
    version: int
    stat: Stat


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord(Rewritten):
    """``cluster``: which cluster this tree is; a process with another id refuses to start.  Its ``format`` is that of the whole cluster: a
    process that does not know it refuses to start, too."""

    FORMAT: ClassVar[int] = RECORD_FORMAT
    id: str
    created_ms: int
    format: int = 1  # the highest that records may be written in; it only rises, by `stele cluster finalize-upgrade`
    finalizing: int = 0  # to which it is about to rise: nobody who knows less joins any more; 0: none

    @property
    def joined_by(self) -> int:
        """The lowest format that a process has to know to join."""
        return max(self.format, self.finalizing)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord(Rewritten):
    """``epoch``: counts leaderships; its node's version is checked in every transaction of the leader."""

    epoch: int
    importing: str = ""  # which copy of the records is being imported: nobody leads until all of it is there
    imported: bool = False  # it is there, and no id is given out before the stores have said how far they had come


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
    record_format: int = 1  # the highest that it knows


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecord(Rewritten):
    """``stores/<id>``: a store that has registered once; state is up, offline or tombstone."""

    name: str  # of the datanode that runs it
    state: str
    uuid: str  # in its data directory: another directory is another store
    registered_ms: int
    cordoned: bool = False  # an operator's word: it gets no replicas, and keeps those that it has
    rack: str = ""  # as its datanode said at its last registration


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceRecord:
    """``operations/rebalance``: an operator's word that replicas are to be evened out; it goes once they are."""

    asked_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuriedRecord:
    """``stores/buried``: ids of removed stores as intervals, both ends included (R2.2)."""

    intervals: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecord(Rewritten):
    """``namespaces/<ns>``: how its partitions are spread over brokers, and what its topics get that ask for nothing else."""

    bundles: int  # how many ranges of the hash there are at first
    replication: int
    retention_bytes: int = 0  # of topics that ask for nothing else; 0: no bound
    retention_ms: int = 0
    splits: tuple[int, ...] = since(2, ())  # points of the hash where one of these was cut in two

    @property
    def retention(self) -> Retention:
        return Retention(self.retention_bytes, self.retention_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord(Rewritten):
    """``topics/<ns>/<topic>``; state is creating, ready or deleting."""

    id: int
    partitions: int
    replication: int
    state: str
    created_ms: int
    retention_bytes: int = 0  # 0: no bound
    retention_ms: int = 0
    racks: str = since(2, "prefer")  # or require: its replicas are on racks apart, or it gets none
    growing_to: int = since(
        2, 0
    )  # partitions that it is to have; those from ``partitions`` on are not shown yet; 0: none

    @property
    def retention(self) -> Retention:
        return Retention(self.retention_bytes, self.retention_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedTopicsRecord:
    """``deleted/topics``: ids of topics that were deleted, as intervals, both ends included.  Only what stands here was deleted: a replica
    of a topic of which nothing is recorded at all is an orphan, and kept."""

    intervals: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord(Rewritten):
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
    cause: str = ""  # of the move: operator, decommission, repair, balance
    moves_since_ms: int = 0  # for people to see
    leaving: tuple[int, ...] = ()  # stores that left the group for good: what they hold of it is to be deleted
    topic_id: int = 0  # another topic may have the name later; 0: written before this was recorded
    caused_by: str = ""  # id of the event for which replicas move; none is known: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRecord:
    """``bundles/<ns>/<range>``: the broker that owns a bundle, and since which epoch (R5.10)."""

    broker: str
    epoch: int
    cause: str = ""  # why it was given: unassigned, gone, reregistered, draining, drained, even, overtaken, operator, unloaded, split
    caused_by: str = ""  # id of the event for which; none is known: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRecord:
    """``brokers/<name>``: an operator's word about the broker of that name, whichever process it is; absent: there is none."""

    drained: bool  # it gets no bundles, and what it has goes to others


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRecord:
    """``stores/alloc``, ``groups/alloc``, ``topics/alloc``: the next id; never reset (R2.2)."""

    next: int


def encode(record: ZnodeRecord) -> bytes:
    body = {"format": _format(type(record))} | {name: getattr(record, name) for name in _names(type(record))}
    body |= dict(getattr(record, _UNKNOWN, ()))
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
        if isinstance(record, Rewritten):
            found = msgspec.json.decode(text)
            if not found.keys() <= _known(record_type):
                unknown = tuple((k, v) for k, v in found.items() if k not in _known(record_type))
                record = dataclasses.replace(record, unknown_=unknown)
        return record
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordUnreadable(f"{path or 'value'} is no {record_type.__name__}: {error}", path=path) from None


def written_format(value: bytes) -> int:
    """The format that a record says it has; 0 where it is no record."""
    try:
        return msgspec.json.decode(value, type=_Form).format
    except (msgspec.MsgspecError, RecursionError):
        return 0


def needs(record: ZnodeRecord) -> tuple[int, str]:
    """The lowest record format of the cluster in which ``record`` may be written, and the field for which; 1 and none: any."""
    return max(
        ((f, name) for f, name, default in _later(type(record)) if getattr(record, name) != default), default=(1, "")
    )


_UNKNOWN = "unknown_"


class _Form(msgspec.Struct):
    format: int = 1


@cache
def _decoder(record_type: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(record_type)


@cache
def _names(record_type: type[ZnodeRecord]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(record_type) if f.name != _UNKNOWN)


@cache
def _known(record_type: type[ZnodeRecord]) -> frozenset[str]:
    return frozenset({"format", *_names(record_type)})


@cache
def _later(record_type: type[ZnodeRecord]) -> tuple[tuple[int, str, Any], ...]:
    found = ((f.metadata.get("record_format", 1), f.name, f.default) for f in dataclasses.fields(record_type))
    return tuple(one for one in found if one[0] > 1)


def _format(record_type: type[Any]) -> int:
    return int(getattr(record_type, "FORMAT", 1))
