"""What the leading nameserver has to do next so that the cluster becomes what its records say.  Pure.

Guarantee: the answer depends on the records and the datanodes' reports alone, never on who began the work.  A create or delete that a
leader left half-done is therefore finished by the next one, and doing any effect twice does no harm.  ``reports`` have their strays set
apart (strays.py): only a topic's own replicas count for it, or are deleted with it.

What destroys rests on a record that says so, and never on one that is missing: a replica is deleted while its topic's record says
*deleting*, or once the topic's id is recorded as deleted.  A replica of which nothing is recorded is an orphan, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.reports import RUNNING, LeaderReport, Reports, StrayKind, retention_of
from stele.services.high_water import HighWater
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
class RecordPartitions:
    """The topic's create was interrupted before all its partitions were recorded."""

    topic: str
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MarkReady:
    topic: str


@dataclass(frozen=True, slots=True)
class RemoveRecords:
    """No store that could be asked holds anything of the topic any more.  One that could not is told once it can be: the topic's id
    is recorded as deleted."""

    topic: str


@dataclass(frozen=True, slots=True)
class TellHighWater:
    """The store was told less than the metadata has come to."""

    store_id: int
    told: HighWater


ReconcileEffect = CreateReplica | ConfigureReplica | DeleteReplica | RecordPartitions | MarkReady | RemoveRecords


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
    effects += _remains(catalog, reports)
    return effects


def tells(catalog: Catalog, reports: Reports) -> list[TellHighWater]:
    """Who is to be told how far the metadata has come, so that any store that is left knows it of an older copy."""
    told = catalog.high_water
    return [
        TellHighWater(store_id, told)
        for store_id, report in sorted(reports.items())
        if report.connected and told.beyond(HighWater.of(report.status.seen))
    ]


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
    """Who cannot say what it holds is not waited for: it says so once it can, and is told then, as one that is away."""
    held: list[ReconcileEffect] = [
        DeleteReplica(store_id, partition.group, topic.topic_id)
        for partition in partitions
        for store_id, report in sorted(reports.items())
        if report.holds(partition.group) and report.replicas[partition.group].topic
    ]
    return held or [RemoveRecords(topic.name)]


def _remains(catalog: Catalog, reports: Reports) -> list[ReconcileEffect]:
    """What stores still hold of topics that were deleted while they could not be asked."""
    deleting = {topic.topic_id for topic in catalog.topics.values() if topic.state == TopicState.DELETING}
    return [
        DeleteReplica(store_id, group, topic_id)
        for store_id, report in sorted(reports.items())
        if report.connected
        for group, stray in sorted(report.strays.items())
        if stray.kind is StrayKind.ORPHAN
        and ((topic_id := stray.replica.topic_id) in catalog.deleted_topics or topic_id in deleting)
    ]
