"""What the leading nameserver may have to do next: orders to stores, and records to write.  Pure.

Guarantee: an effect is a plain value that says everything that it is about; doing it twice does no harm.  Which are due is
reconcile.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stele.services.high_water import HighWater
from stele.services.topics import FOR_EVER, Retention


@dataclass(frozen=True, slots=True)
class CreateReplica:
    """``replicas``: those that a new group begins with; none: it joins a group that exists, and is silent until its leader tells it."""

    store_id: int
    group: int
    topic_id: int
    topic: str
    partition: int
    replicas: tuple[int, ...]
    retention: Retention = FOR_EVER


@dataclass(frozen=True, slots=True)
class ConfigureReplica:
    """The replica was told another retention than the topic has now, or was never told its topic's id."""

    store_id: int
    group: int
    topic_id: int
    retention: Retention


@dataclass(frozen=True, slots=True)
class DeleteReplica:
    """The topic is being deleted."""

    store_id: int
    group: int
    topic_id: int


class MemberRole(StrEnum):
    NONE = "none"
    LEARNER = "learner"
    VOTER = "voter"


@dataclass(frozen=True, slots=True)
class ChangeMember:
    """``store_id`` leads the group and is to give ``member`` another role.  ``lost``: because that store says it has no replica, which the
    leader knows better that hears it: what a store said may be older than its replica."""

    store_id: int
    group: int
    topic_id: int
    member: int
    role: MemberRole
    lost: bool = False


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """``store_id`` leads the group and is to hand over to ``successor``."""

    store_id: int
    group: int
    topic_id: int
    successor: int
    cause: str = "move"  # operator, balance, move


@dataclass(frozen=True, slots=True)
class TellRemoved:
    """The store was removed for good, and its process runs."""

    store_id: int


@dataclass(frozen=True, slots=True)
class RecordLeft:
    """The group, committed, counts the store no more: what it holds may be deleted from now on.  With the last one the move has ended."""

    group: int
    store_id: int


@dataclass(frozen=True, slots=True)
class RecordArrived:
    """Every wanted store counts in the group, and the record names no other: the move has ended."""

    group: int


@dataclass(frozen=True, slots=True)
class RecordExtra:
    """The store holds a replica that the record does not name and that the group, committed, counts not: one that came late."""

    group: int
    store_id: int


@dataclass(frozen=True, slots=True)
class DeleteLeft:
    """The store left the group, and still holds a replica."""

    store_id: int
    group: int
    topic_id: int


@dataclass(frozen=True, slots=True)
class RecordGone:
    """What the store held of the group that it left is deleted, or the store is removed and nobody asks it any more."""

    group: int
    store_id: int


@dataclass(frozen=True, slots=True)
class RecordMaterialised:
    """Stores report replicas of a topic that were not seen before; by group."""

    topic: str
    topic_id: int
    held: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class RecordPartitions:
    """The topic is being created, or grows, and not all of its partitions are recorded."""

    topic: str
    topic_id: int
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MarkReady:
    topic: str
    topic_id: int


@dataclass(frozen=True, slots=True)
class ShowPartitions:
    """Each partition that the topic grows by has a leader: from now on it has ``partitions``, all of them at once."""

    topic: str
    topic_id: int
    partitions: int


@dataclass(frozen=True, slots=True)
class RemoveRecords:
    """No store that could be asked holds anything of the topic any more.  One that could not is told once it can be: the topic's id
    is recorded as deleted."""

    topic: str
    topic_id: int


@dataclass(frozen=True, slots=True)
class TellHighWater:
    """The store was told less than the metadata has come to."""

    store_id: int
    told: HighWater


ReconcileEffect = (
    CreateReplica
    | ConfigureReplica
    | DeleteReplica
    | ChangeMember
    | TransferLeadership
    | RecordMaterialised
    | RecordLeft
    | RecordArrived
    | RecordExtra
    | DeleteLeft
    | RecordGone
    | RecordPartitions
    | MarkReady
    | ShowPartitions
    | RemoveRecords
)
