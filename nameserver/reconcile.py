"""What the leading nameserver has to do next so that the cluster becomes what its records say.  Pure.

Guarantee: the answer depends on the records and the datanodes' reports alone, never on who began the work.  A create or delete that a
leader left half-done is therefore finished by the next one, and doing any effect twice does no harm.  ``reports`` have their strays set
apart (strays.py): only a topic's own replicas count for it, or are deleted with it.

What destroys rests on a record that says so, and never on one that is missing: a replica is deleted while its topic's record says
*deleting*, once the topic's id is recorded as deleted, or while its partition's record says that its store left the group.  A replica of
which nothing is recorded is an orphan, and kept.

A move is a wish in the partition's record (``target``), and each step follows from it and from what the group's leader says of its members:
those that join become learners, then voters; only when every wanted store is a voter do the others go, one at a time, the leader after
it has handed over.  So a group never has fewer voters than before, and has one change under way at most.

A replica that a store has lost may have acknowledged and voted what it cannot know any more.  So one that begins as a voter is created
only while its partition is, before anybody is told of that, and only where none was ever reported; elsewhere the store leaves the group,
by the word of those that are left (each majority of theirs meets every earlier one in a store that forgot nothing), and comes back as a
learner.  So does one that its store has set aside and cannot start by itself, for want of its vote for example.  Where too few are left
for that, the partition waits for one of the lost to return: it is not available, and nothing of it is undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, StoreState, TopicEntry, TopicState
from stele.nameserver.effects import (
    ChangeMember,
    ConfigureReplica,
    CreateReplica,
    DeleteLeft,
    DeleteReplica,
    MarkReady,
    MemberRole,
    ReconcileEffect,
    RecordArrived,
    RecordExtra,
    RecordGone,
    RecordLeft,
    RecordMaterialised,
    RecordPartitions,
    RemoveRecords,
    ShowPartitions,
    TellHighWater,
    TellRemoved,
    TransferLeadership,
)
from stele.nameserver.reports import RUNNING, LeaderReport, ReplicaState, Reports, StrayKind, retention_of
from stele.services.high_water import HighWater
from stele.services.pb.datanode_pb2 import ReplicaStatus


def plan(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[ReconcileEffect]:
    """Everything that is due, in a fixed order."""
    effects: list[ReconcileEffect] = []
    extras = _extras(catalog, reports)
    for name in sorted(catalog.topics):
        topic = catalog.topics[name]
        partitions = catalog.partitions_of.get(name, ())
        if topic.state == TopicState.DELETING:
            effects += _deleting(topic, partitions, reports)
        else:
            unrecorded = _materialised(topic, partitions, reports)
            effects += unrecorded
            effects += _creates(topic, partitions, catalog, reports)
            effects += _rejoins(topic, partitions, catalog, reports, leaders, extras)
            effects += _hand_overs(topic, partitions, catalog, reports, leaders)
            effects += _left(topic, partitions, catalog, reports)
            effects += _configures(topic, partitions, reports)
            if topic.is_forming and not unrecorded:
                effects += _forming(topic, partitions, leaders)
    effects += _remains(catalog, reports)
    return effects


def tells(catalog: Catalog, reports: Reports) -> list[TellHighWater | TellRemoved]:
    """Who is to be told how far the metadata has come, so that any store that is left knows it of an older copy; and who that it is
    removed (R2.6)."""
    told = catalog.high_water
    removed = [TellRemoved(store_id) for store_id in sorted(catalog.live_stores) if catalog.is_removed(store_id)]
    return removed + [
        TellHighWater(store_id, told)
        for store_id, report in sorted(reports.items())
        if report.connected and told.beyond(HighWater.of(report.status.seen))
    ]


def _creates(
    topic: TopicEntry, partitions: tuple[PartitionEntry, ...], catalog: Catalog, reports: Reports
) -> list[ReconcileEffect]:
    """The first voters of new groups."""
    return [
        _create(topic, partition, store_id, partition.replicas)
        for partition in partitions
        for store_id in partition.replicas
        if is_new(topic, partition, store_id) and is_absent(catalog, reports, partition, store_id)
    ]


def _create(topic: TopicEntry, partition: PartitionEntry, store_id: int, replicas: tuple[int, ...]) -> CreateReplica:
    return CreateReplica(
        store_id, partition.group, topic.topic_id, partition.topic, partition.index, replicas, topic.retention
    )


def is_new(topic: TopicEntry, partition: PartitionEntry, store_id: int) -> bool:
    """Whether nothing can have been promised by the store for the partition: only then is what it lacks not lost."""
    return topic.is_forming and not topic.is_shown(partition) and store_id not in partition.materialised


def is_absent(catalog: Catalog, reports: Reports, partition: PartitionEntry, store_id: int) -> bool:
    """Whether the store serves and says that it holds no replica of the partition.  One that still loads says nothing (R4.6)."""
    member, report = catalog.live_stores.get(store_id), reports.get(store_id)
    if member is None or member.state != MemberState.READY or report is None:
        return False
    return report.status.state == MemberState.READY and report.lacks(partition.group)


def _materialised(topic: TopicEntry, partitions: tuple[PartitionEntry, ...], reports: Reports) -> list[ReconcileEffect]:
    held = []
    for partition in partitions:
        unrecorded = set(partition.replicas) - set(partition.materialised)
        reported = tuple(s for s in sorted(unrecorded) if s in reports and reports[s].holds(partition.group))
        if reported:
            held.append((partition.group, reported))
    return [RecordMaterialised(topic.name, topic.topic_id, tuple(held))] if held else []


def _rejoins(
    topic: TopicEntry,
    partitions: tuple[PartitionEntry, ...],
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    extras: Mapping[int, list[int]],
) -> list[ReconcileEffect]:
    """The next step for each partition that a store has lost, or that counts a store not yet.  Each follows from what the leader says of
    its members once they are committed: a store is created anew only when no quorum can count it any more."""
    effects: list[ReconcileEffect] = []
    for partition in partitions:
        leader = leaders.get(partition.group)
        if leader is None or not leader.confirmed or not reports[leader.store_id].holds(partition.group):
            continue
        if reports[leader.store_id].replicas[partition.group].members_settled:
            steps = _steps(topic, partition, catalog, reports, leader.store_id, extras.get(partition.group, ()))
            effects += islice(steps, 1)
    return effects


def _extras(catalog: Catalog, reports: Reports) -> dict[int, list[int]]:
    """The stores that hold a replica of a group whose record does not name them, by group."""
    found: dict[int, list[int]] = {}
    for store_id, report in sorted(reports.items()):
        if report.connected:
            for group in report.replicas.keys() & catalog.partitions.keys():
                partition = catalog.partitions[group]
                if store_id not in (*partition.replicas, *partition.leaving):
                    found.setdefault(group, []).append(store_id)
    return found


def _steps(
    topic: TopicEntry,
    partition: PartitionEntry,
    catalog: Catalog,
    reports: Reports,
    leader: int,
    extras: Iterable[int],
) -> Iterator[ReconcileEffect]:
    """What is due, of which a group takes one at a time."""
    said = reports[leader].replicas[partition.group]
    for store_id in partition.going:
        if is_absent(catalog, reports, partition, store_id) and _role(said, store_id) is not MemberRole.NONE:
            yield ChangeMember(leader, partition.group, topic.topic_id, store_id, MemberRole.NONE)
    for store_id in partition.wanted:
        role = _role(said, store_id)
        wanted = role
        absent = is_absent(catalog, reports, partition, store_id)
        if absent or _is_set_aside(reports, partition, store_id):
            if role is MemberRole.NONE:
                yield _create(topic, partition, store_id, ())
            elif not is_new(topic, partition, store_id):
                wanted = MemberRole.NONE
        elif (report := reports.get(store_id)) is not None and report.holds(partition.group):
            wanted = _next_role(role, report.replicas[partition.group])
        if wanted is not role:
            yield ChangeMember(leader, partition.group, topic.topic_id, store_id, wanted, lost=absent)
    if not topic.is_shown(partition) or not _all_count(said, partition):
        return
    # Also members that no record names, as after a step that came late: they would count for ever.
    for store_id in sorted({*partition.replicas, *said.voters, *said.learners} - {*partition.wanted, leader}):
        if _role(said, store_id) is not MemberRole.NONE:
            yield ChangeMember(leader, partition.group, topic.topic_id, store_id, MemberRole.NONE)
        else:
            yield RecordLeft(partition.group, store_id)
    if partition.target and not partition.going:
        yield RecordArrived(partition.group)
    for store_id in extras:
        if _role(said, store_id) is MemberRole.NONE:
            yield RecordExtra(partition.group, store_id)


def _is_set_aside(reports: Reports, partition: PartitionEntry, store_id: int) -> bool:
    """Whether the store serves, and holds nothing of the partition but what it could not start again."""
    report = reports.get(store_id)
    if report is None or not report.holds(partition.group) or report.status.state != MemberState.READY:
        return False
    return report.replicas[partition.group].state == ReplicaState.QUARANTINED


def _all_count(said: ReplicaStatus, partition: PartitionEntry) -> bool:
    return all(_role(said, store_id) is MemberRole.VOTER for store_id in partition.wanted)


def _hand_overs(
    topic: TopicEntry,
    partitions: tuple[PartitionEntry, ...],
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
) -> list[ReconcileEffect]:
    """Leaders on stores that are being removed, and those whose replica goes next, give their place to another one: to that of the store
    with the fewest."""
    led: dict[int, int] = {}
    effects: list[ReconcileEffect] = []
    for partition in partitions:
        leader = leaders.get(partition.group)
        if leader is None or not leader.confirmed or not reports[leader.store_id].holds(partition.group):
            continue
        said = reports[leader.store_id].replicas[partition.group]
        store = catalog.stores.get(leader.store_id)
        removing = store is not None and store.state == StoreState.OFFLINE
        if not removing and (leader.store_id in partition.wanted or not _all_count(said, partition)):
            continue
        led = led or led_by(leaders)  # of the whole cluster: counted where it is needed alone
        if able := successors(partition, leader.store_id, catalog, reports, led):
            led[able[0]] = led.get(able[0], 0) + 1
            effects.append(TransferLeadership(leader.store_id, partition.group, topic.topic_id, able[0]))
    return effects


def led_by(leaders: Mapping[int, LeaderReport]) -> dict[int, int]:
    """How many partitions each store leads."""
    return Counter(leader.store_id for leader in leaders.values())


def successors(
    partition: PartitionEntry, leader: int, catalog: Catalog, reports: Reports, led: Mapping[int, int]
) -> list[int]:
    """The stores that can lead the partition in place of ``leader``: up, ready and with room, with a voter that follows.  The one that
    leads the fewest first; ``led`` says how many each leads."""
    said = reports[leader].replicas[partition.group]
    able = [
        s
        for s in partition.wanted
        if s != leader
        and s in catalog.serving_stores
        and _role(said, s) is MemberRole.VOTER
        and (report := reports.get(s)) is not None
        and report.holds(partition.group)
        and not report.status.disk_full  # it would give back what it is given
        and report.replicas[partition.group].state == ReplicaState.FOLLOWER
    ]
    return sorted(able, key=lambda s: (led.get(s, 0), (s + partition.group) % len(able), s))


def _left(
    topic: TopicEntry, partitions: tuple[PartitionEntry, ...], catalog: Catalog, reports: Reports
) -> list[ReconcileEffect]:
    """What stores that left a group still hold of it goes; one that cannot be asked is asked once it can be."""
    effects: list[ReconcileEffect] = []
    for partition in partitions:
        for store_id in partition.leaving:
            report = reports.get(store_id)
            if report is not None and report.holds(partition.group):
                effects.append(DeleteLeft(store_id, partition.group, topic.topic_id))
            elif catalog.is_removed(store_id) or is_absent(catalog, reports, partition, store_id):
                effects.append(RecordGone(partition.group, store_id))
    return effects


def _role(said: ReplicaStatus, store_id: int) -> MemberRole:
    return (
        MemberRole.VOTER
        if store_id in said.voters
        else MemberRole.LEARNER
        if store_id in said.learners
        else MemberRole.NONE
    )


def _next_role(role: MemberRole, replica: ReplicaStatus) -> MemberRole:
    """On the way to a voter of one that is there.  Its folder may be one of before it left, put back: what it holds of the log is right
    or replaced, and its term and votes are more than it would know without, so it is as welcome as an empty one."""
    if replica.state not in RUNNING:
        return role
    if role is MemberRole.NONE:
        return MemberRole.LEARNER
    return role if replica.state == ReplicaState.RECOVERING else MemberRole.VOTER


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


def _forming(
    topic: TopicEntry, partitions: tuple[PartitionEntry, ...], leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """Nobody uses any of the new partitions before each of them can be used."""
    recorded = {p.index for p in partitions}
    missing = tuple(i for i in range(max(topic.partitions, topic.growing_to)) if i not in recorded)
    if missing:
        return [RecordPartitions(topic.name, topic.topic_id, missing)]
    new = [p for p in partitions if not topic.is_shown(p)]
    if not all((known := leaders.get(p.group)) is not None and known.confirmed for p in new):
        return []
    if topic.state == TopicState.CREATING:
        return [MarkReady(topic.name, topic.topic_id)]
    return [ShowPartitions(topic.name, topic.topic_id, topic.growing_to)]


def _deleting(topic: TopicEntry, partitions: tuple[PartitionEntry, ...], reports: Reports) -> list[ReconcileEffect]:
    """Who cannot say what it holds is not waited for: it says so once it can, and is told then, as one that is away."""
    held: list[ReconcileEffect] = [
        DeleteReplica(store_id, partition.group, topic.topic_id)
        for partition in partitions
        for store_id, report in sorted(reports.items())
        if report.holds(partition.group) and report.replicas[partition.group].topic
    ]
    return held or [RemoveRecords(topic.name, topic.topic_id)]


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
