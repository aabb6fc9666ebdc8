"""What the leading nameserver has to do next so that the cluster becomes what its records say.  Pure.

Guarantee: the answer depends on the records and the datanodes' reports alone, never on who began the work.  A create or delete that a
leader left half-done is therefore finished by the next one, and doing any effect twice does no harm.  ``reports`` have their strays set
apart (strays.py): only a topic's own replicas count for it, or are deleted with it.

An effect that destroys is proposed only on a store's complete report; :class:`DropOrphan` moreover is only a suspicion, which the
shell confirms by an own read behind a fenced write, because a catalog may show a topic before its partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.reports import RUNNING, LeaderReport, Reports, StrayKind, retention_of
from stele.services.topics import FOR_EVER, Retention


@dataclass(frozen=True, slots=True)
class CreateReplica:
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


@dataclass(frozen=True, slots=True)
class DropOrphan:
    """The store holds a group that has no record; to be confirmed before it is deleted."""

    store_id: int
    group: int
    topic_id: int


@dataclass(frozen=True, slots=True)
class RecordPartitions:
    """The topic's create was interrupted before all its partitions were recorded."""

    topic: str
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MarkReady:
    topic: str


@dataclass(frozen=True, slots=True)
class RemoveRecords:
    """No store that could be asked holds anything of the topic any more.  A store that cannot be asked drops its orphans later."""

    topic: str


ReconcileEffect = (
    CreateReplica | ConfigureReplica | DeleteReplica | DropOrphan | RecordPartitions | MarkReady | RemoveRecords
)


def plan(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[ReconcileEffect]:
    """Everything that is due, in a fixed order."""
    effects: list[ReconcileEffect] = []
    for name in sorted(catalog.topics):
        topic = catalog.topics[name]
        partitions = catalog.partitions_of.get(name, ())
        if topic.state == TopicState.DELETING:
            effects += _deleting(topic, partitions, reports)
        else:
            effects += _creates(topic, partitions, catalog, reports)
            effects += _configures(topic, partitions, reports)
            if topic.state == TopicState.CREATING:
                effects += _creating(topic, partitions, leaders)
    effects += _orphans(catalog, reports)
    return effects


def _creates(
    topic: TopicEntry, partitions: tuple[PartitionEntry, ...], catalog: Catalog, reports: Reports
) -> list[ReconcileEffect]:
    """Replicas that a store should hold and certainly does not.  One that is still loading is left alone (R4.6)."""
    effects: list[ReconcileEffect] = []
    for partition in partitions:
        for store_id in partition.replicas:
            member = catalog.live_stores.get(store_id)
            report = reports.get(store_id)
            if member is None or member.state != MemberState.READY or report is None:
                continue
            if report.status.state == MemberState.READY and report.lacks(partition.group):
                effects.append(
                    CreateReplica(
                        store_id,
                        partition.group,
                        topic.topic_id,
                        partition.topic,
                        partition.index,
                        partition.replicas,
                        topic.retention,
                    )
                )
    return effects


def _configures(topic: TopicEntry, partitions: tuple[PartitionEntry, ...], reports: Reports) -> list[ReconcileEffect]:
    """One that is not running is told when it is again: it decides nothing meanwhile."""
    return [
        ConfigureReplica(store_id, partition.group, topic.topic_id, topic.retention)
        for partition in partitions
        for store_id in partition.replicas
        if (report := reports.get(store_id)) is not None
        and report.holds(partition.group)
        and (replica := report.replicas[partition.group]).state in RUNNING
        and (retention_of(replica), replica.topic_id) != (topic.retention, topic.topic_id)
    ]


def _creating(
    topic: TopicEntry, partitions: tuple[PartitionEntry, ...], leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    recorded = {p.index for p in partitions}
    missing = tuple(i for i in range(topic.partitions) if i not in recorded)
    if missing:
        return [RecordPartitions(topic.name, missing)]
    led = all((known := leaders.get(p.group)) is not None and known.confirmed for p in partitions)
    return [MarkReady(topic.name)] if led else []


def _deleting(topic: TopicEntry, partitions: tuple[PartitionEntry, ...], reports: Reports) -> list[ReconcileEffect]:
    held: list[ReconcileEffect] = [
        DeleteReplica(store_id, partition.group, topic.topic_id)
        for partition in partitions
        for store_id, report in sorted(reports.items())
        if report.holds(partition.group)
    ]
    return held or [RemoveRecords(topic.name)]


def _orphans(catalog: Catalog, reports: Reports) -> list[ReconcileEffect]:
    """Groups without a record.  A group id that was never given out is not ours to judge and stays."""
    return [
        DropOrphan(store_id, group, stray.replica.topic_id)
        for store_id, report in sorted(reports.items())
        if report.connected and report.complete
        for group, stray in sorted(report.strays.items())
        if stray.kind is StrayKind.ORPHAN and group < catalog.groups_next
    ]
