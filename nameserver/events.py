"""What happened in the cluster, derived from what is recorded and reported.  Pure.

Guarantee: every nameserver derives the same events, under the same ids (services/events.py), from the same records and reports and from
what stores tell, so that a client may ask any of them; only what a leading nameserver sees of brokers it tells alone, and what follows
from that: the same event may have less of a cause elsewhere.  Times are
ZooKeeper's own where ZooKeeper recorded the fact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from stele.nameserver.catalog import (
    Catalog,
    DrainedBroker,
    Leader,
    Member,
    MemberKind,
    MemberState,
    StoreState,
    TopicEntry,
    TopicState,
)
from stele.nameserver.reports import LeaderReport
from stele.services.events import EventKind, bundle_moved_id, event_id, leader_elected_id

_SINGULAR = {MemberKind.NAMESERVERS: "nameserver", MemberKind.DATANODES: "datanode", MemberKind.BROKERS: "broker"}
UNRECORDED = "unrecorded"  # what older versions wrote says no cause
_STORE_CAUSES: Mapping[str, str] = {
    MemberState.LOADING: "started",
    MemberState.READY: "loaded",
    MemberState.DRAINING: "stopping",
}
_REMOVALS: Mapping[tuple[str, str], EventKind] = {
    (StoreState.UP, StoreState.OFFLINE): EventKind.DECOMMISSION_BEGAN,
    (StoreState.OFFLINE, StoreState.UP): EventKind.DECOMMISSION_CANCELLED,
    (StoreState.OFFLINE, StoreState.TOMBSTONE): EventKind.STORE_REMOVED,
}
_REBALANCE = (EventKind.REBALANCE_BEGAN, EventKind.REBALANCE_ENDED)


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """``id`` names the occurrence; ``caused_by`` is the id of the event that it follows from, "" where none is known."""

    kind: str
    subject: str
    facts: Mapping[str, str] = field(default_factory=dict)
    time_ms: int = 0  # 0: when it is recorded, by the clock of whoever does
    id: str = ""
    cause: str = ""
    caused_by: str = ""
    number: int = 0
    recorded_s: float = 0.0  # on the clock of its buffer, which never goes back; 0: when it is recorded


def derive(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """What happened between two catalogs, in the order in which it makes sense to read."""
    events: list[ClusterEvent] = []
    for kind in MemberKind:
        events += _members(kind, before.members(kind), after.members(kind))
    if after.leader is not None and (before.leader is None or before.leader.epoch != after.leader.epoch):
        events.append(_nameserver_elected(before, after, after.leader))
    events += _topics(before, after)
    events += _stores(before, after)
    events += _rebalances(before, after)
    events += _moves(before, after)
    events += _drains(before, after)
    events += _bundles(before, after)
    return events


def _nameserver_elected(before: Catalog, after: Catalog, leader: Leader) -> ClusterEvent:
    """Why, is seen where its predecessor's registration went at the same look or had not gone yet."""
    facts = {"epoch": str(leader.epoch), "endpoint": leader.endpoint}
    cause, caused_by, former = "vacant", "", before.leader
    if former is not None and (gone := before.nameservers.get(former.name)) is not None:
        now = after.nameservers.get(former.name)
        if now is None or now.joined_zxid != gone.joined_zxid:
            cause, caused_by = "leader_gone", event_id(EventKind.MEMBER_GONE, gone.name, gone.joined_zxid)
    return ClusterEvent(
        EventKind.NAMESERVER_ELECTED,
        leader.name,
        facts,
        leader.since_ms,
        event_id(EventKind.NAMESERVER_ELECTED, leader.name, leader.epoch),
        cause,
        caused_by,
    )


def _members(kind: MemberKind, before: Mapping[str, Member], after: Mapping[str, Member]) -> list[ClusterEvent]:
    events: list[ClusterEvent] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is not None and (new is None or new.joined_zxid != old.joined_zxid):
            events.append(_member_gone(kind, old, new))
            old = None
        if new is None:
            continue
        if old is None:
            joined = event_id("member_joined", name, new.joined_zxid)
            cause = "registered_again" if name in before else "started"
            facts = _member_facts(kind, new)
            events.append(ClusterEvent(EventKind.MEMBER_JOINED, name, facts, new.joined_ms, joined, cause))
        if kind is MemberKind.DATANODES and (old is None or old.state != new.state):
            events.append(
                ClusterEvent(
                    f"store_{new.state}",
                    name,
                    {"store_id": str(new.store_id), "incarnation": str(new.joined_zxid)},
                    0 if old else new.joined_ms,
                    event_id(f"store_{new.state}", name, new.joined_zxid),
                    _STORE_CAUSES.get(new.state, ""),
                    event_id(EventKind.MEMBER_JOINED, name, new.joined_zxid),
                )
            )
        elif new.state == MemberState.DRAINING and (old is None or old.state != new.state):
            draining = event_id(EventKind.MEMBER_DRAINING, name, new.joined_zxid)
            events.append(
                ClusterEvent(EventKind.MEMBER_DRAINING, name, _member_facts(kind, new), id=draining, cause="stopping")
            )
    return events


def _member_gone(kind: MemberKind, old: Member, new: Member | None) -> ClusterEvent:
    """Who is told to end says so first; of whoever has not, the session ended.  How its process was seen to be gone before that, those
    who saw it say (causes.py)."""
    caused_by = ""
    if old.state == MemberState.DRAINING:
        draining = EventKind.STORE_DRAINING if kind is MemberKind.DATANODES else EventKind.MEMBER_DRAINING
        cause, caused_by = "stopping", event_id(draining, old.name, old.joined_zxid)
    else:
        cause = "registered_again" if new is not None else "session_ended"
    id = event_id(EventKind.MEMBER_GONE, old.name, old.joined_zxid)
    return ClusterEvent(
        EventKind.MEMBER_GONE, old.name, _member_facts(kind, old), id=id, cause=cause, caused_by=caused_by
    )


def _member_facts(kind: MemberKind, member: Member) -> dict[str, str]:
    facts = {"kind": _SINGULAR[kind], "endpoint": member.endpoint, "incarnation": str(member.joined_zxid)}
    if member.store_id:
        facts["store_id"] = str(member.store_id)
    return facts


def _topics(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """A topic counts as created once it is ready, as deleted once its records are gone; by id, since a name may be used again."""
    events: list[ClusterEvent] = []
    old = {t.topic_id: t for t in before.topics.values()}
    new = {t.topic_id: t for t in after.topics.values()}
    for topic_id in sorted(old.keys() - new.keys()):
        name = old[topic_id].name
        deleted = event_id(EventKind.TOPIC_DELETED, name, topic_id)
        events.append(ClusterEvent(EventKind.TOPIC_DELETED, name, {"id": str(topic_id)}, id=deleted, cause="operator"))
    for topic_id in sorted(new):
        topic, known = new[topic_id], old.get(topic_id)
        if topic.state == TopicState.READY and (known is None or known.state != TopicState.READY):
            facts = {
                "id": str(topic_id),
                "partitions": str(topic.partitions),
                "replication": str(topic.replication),
            }
            created = event_id(EventKind.TOPIC_CREATED, topic.name, topic_id)
            time_ms = 0 if known else topic.created_ms
            events.append(ClusterEvent(EventKind.TOPIC_CREATED, topic.name, facts, time_ms, created, "operator"))
        if known is not None and _shape(known) != _shape(topic):
            changed = [what for what, a, b in zip(_SHAPE, _shape(known), _shape(topic), strict=True) if a != b]
            shape = {
                "changed": ",".join(changed),
                "partitions": str(topic.partitions),
                "replication": str(topic.replication),
                "retention_bytes": str(topic.retention.size_bytes),
                "retention_ms": str(topic.retention.age_ms),
                "version": str(topic.node_version),
            }
            altered = event_id(EventKind.TOPIC_ALTERED, topic.name, f"{topic_id}.{topic.node_version}")
            events.append(ClusterEvent(EventKind.TOPIC_ALTERED, topic.name, shape, id=altered, cause="operator"))
    return events


def _stores(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """What becomes of stores that operators remove."""
    if before.stores is after.stores:
        return []
    events: list[ClusterEvent] = []
    for store_id, now in sorted(after.stores.items()):
        was = before.stores.get(store_id)
        kind = _REMOVALS.get((was.state, now.state)) if was is not None else None
        if kind is not None:
            cause = "emptied" if kind is EventKind.STORE_REMOVED else "operator"
            id, facts = event_id(kind, now.name, now.node_version), {"store_id": str(store_id)}
            events.append(ClusterEvent(kind, now.name, facts, id=id, cause=cause))
    return events


def _rebalances(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    was, now = before.rebalance, after.rebalance
    if was == now:
        return []
    events: list[ClusterEvent] = []
    if was is not None:
        began, ended = (event_id(k, "replicas", was.asked_ms) for k in _REBALANCE)
        events.append(ClusterEvent(EventKind.REBALANCE_ENDED, "replicas", id=ended, cause="ended", caused_by=began))
    if now is not None:
        began = event_id(EventKind.REBALANCE_BEGAN, "replicas", now.asked_ms)
        events.append(ClusterEvent(EventKind.REBALANCE_BEGAN, "replicas", {}, now.asked_ms, began, "operator"))
    return events


def _moves(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """Of replicas, from the record that says where they are to be to the one that says that they are there."""
    if before.partitions is after.partitions:
        return []
    events: list[ClusterEvent] = []
    for group, now in after.partitions.items():
        was = before.partitions.get(group)
        if was is now or bool(was is not None and was.target) == bool(now.target):
            continue
        moving = now if now.target else was
        assert moving is not None
        began = event_id(EventKind.MOVE_BEGAN, group, moving.moves_since_ms)
        subject = f"{now.topic}-{now.index}"
        facts = {"group": str(group), "operation": f"move-{group}", "replicas": ",".join(map(str, now.replicas))}
        if now.target:
            facts["target"] = ",".join(map(str, now.target))
            if was is not None:
                facts["before"] = ",".join(map(str, was.replicas))
            events.append(
                ClusterEvent(EventKind.MOVE_BEGAN, subject, facts, now.moves_since_ms, began, now.cause, now.caused_by)
            )
        else:
            ended = event_id(EventKind.REPLICA_MOVED, group, moving.moves_since_ms)
            events.append(ClusterEvent(EventKind.REPLICA_MOVED, subject, facts, 0, ended, moving.cause, began))
    return sorted(events, key=lambda e: int(e.facts["group"]))


def _drains(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """By the operator's word, which a second one of the same kind is told apart from by its transaction."""
    old, new = set(before.drained.values()), set(after.drained.values())
    undrained = [_drain(EventKind.BROKER_UNDRAINED, d) for d in old - new]
    drained = [_drain(EventKind.BROKER_DRAINED, d) for d in new - old]
    return sorted([*undrained, *drained], key=lambda e: (e.subject, int(e.facts["record"]), e.kind))


def _drain(kind: str, word: DrainedBroker) -> ClusterEvent:
    id = event_id(kind, word.name, word.zxid)
    return ClusterEvent(kind, word.name, {"record": str(word.zxid)}, id=id, cause="operator")


_SHAPE = ("partitions", "replication", "retention")


def _shape(topic: TopicEntry) -> tuple[object, ...]:
    return topic.partitions, topic.replication, topic.retention


def _bundles(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    events: list[ClusterEvent] = []
    for name in sorted(after.bundles):
        bundle, known = after.bundles[name], before.bundles.get(name)
        if known is None or known.epoch != bundle.epoch:
            former = known.broker if known is not None else ""
            facts = {"from": former, "to": bundle.broker, "epoch": str(bundle.epoch)}
            moved = bundle_moved_id(name, bundle.epoch)
            events.append(
                ClusterEvent(
                    EventKind.BUNDLE_MOVED,
                    name,
                    facts,
                    bundle.assigned_ms,
                    moved,
                    bundle.cause or UNRECORDED,
                    bundle.caused_by,
                )
            )
    return events


class LeaderEvents:
    """Elections of partition leaders, each told once, by term; where the store that was elected has told of it already (``told``), by that.

    What was so when this nameserver began to look is no news: the first leader that it hears of is told only for groups that came
    later."""

    def __init__(self, begun_with: Iterable[int]) -> None:
        self._silent = set(begun_with)
        self._terms: dict[int, int] = {}

    def told(self, group: int, term: int) -> bool:
        """A store has told of an election; False: of one that is known."""
        if term <= self._terms.get(group, 0):
            return False
        self._terms[group] = term
        self._silent.discard(group)
        return True

    def derive(
        self, catalog: Catalog, leaders: Mapping[int, LeaderReport], groups: Collection[int] | None = None
    ) -> list[ClusterEvent]:
        """``groups``: those of which something may have changed; None: all."""
        events: list[ClusterEvent] = []
        names = {m.store_id: m.name for m in catalog.datanodes.values()}
        for group in sorted(leaders if groups is None else leaders.keys() & groups):
            known = leaders[group]
            partition = catalog.partitions.get(group)
            if not known.confirmed or partition is None or known.term <= self._terms.get(group, 0):
                continue
            self._terms[group] = known.term
            if group in self._silent:
                self._silent.discard(group)
                continue
            facts = {
                "group": str(group),
                "leader": names.get(known.store_id, ""),
                "store_id": str(known.store_id),
                "term": str(known.term),
            }
            id, subject = leader_elected_id(group, known.term), f"{partition.topic}-{partition.index}"
            # Why, the store that was elected tells, if it still remembers; under the same id.
            events.append(ClusterEvent(EventKind.LEADER_ELECTED, subject, facts, id=id, cause="reported"))
        for group in list(self._terms) if groups is None else groups:
            if group not in catalog.partitions:
                self._terms.pop(group, None)
        return events
