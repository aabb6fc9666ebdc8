"""What happened in the cluster, as one nameserver saw it.

Guarantee: every nameserver derives the same events from the same records and reports, so that a client may ask any of them; facts tell
two occurrences apart (an epoch, a term, an incarnation); ids grow within one life of a nameserver, times are ZooKeeper's own where
ZooKeeper recorded the fact; the buffer holds the newest ``EVENTS_MAX`` and a follower that falls behind it is told how many it missed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from stele.nameserver.catalog import Catalog, Member, MemberKind, MemberState, TopicState
from stele.nameserver.reports import LeaderReport
from stele.services.clock import SYSTEM, Clock
from stele.services.pb import nameserver_pb2

EVENTS_MAX = 10_000

_SINGULAR = {MemberKind.NAMESERVERS: "nameserver", MemberKind.DATANODES: "datanode", MemberKind.BROKERS: "broker"}


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """``time_ms`` 0: now, by the clock of whoever records it."""

    kind: str
    subject: str
    facts: Mapping[str, str] = field(default_factory=dict)
    time_ms: int = 0
    id: int = 0
    recorded_s: float = 0.0  # on the clock of its buffer, which never goes back


def derive(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    """What happened between two catalogs, in the order in which it makes sense to read."""
    events: list[ClusterEvent] = []
    for kind in MemberKind:
        events += _members(kind, before.members(kind), after.members(kind))
    if after.leader is not None and (before.leader is None or before.leader.epoch != after.leader.epoch):
        facts = {"epoch": str(after.leader.epoch), "endpoint": after.leader.endpoint}
        events.append(ClusterEvent("nameserver_elected", after.leader.name, facts, after.leader.since_ms))
    events += _topics(before, after)
    events += _bundles(before, after)
    return events


def _members(kind: MemberKind, before: Mapping[str, Member], after: Mapping[str, Member]) -> list[ClusterEvent]:
    events: list[ClusterEvent] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is not None and (new is None or new.joined_zxid != old.joined_zxid):
            events.append(ClusterEvent("member_gone", name, _member_facts(kind, old)))
            old = None
        if new is None:
            continue
        if old is None:
            events.append(ClusterEvent("member_joined", name, _member_facts(kind, new), new.joined_ms))
        if kind is MemberKind.DATANODES and (old is None or old.state != new.state):
            events.append(
                ClusterEvent(
                    f"store_{new.state}",
                    name,
                    {"store_id": str(new.store_id), "incarnation": str(new.joined_zxid)},
                    0 if old else new.joined_ms,
                )
            )
        elif new.state == MemberState.DRAINING and (old is None or old.state != new.state):
            events.append(ClusterEvent("member_draining", name, _member_facts(kind, new)))
    return events


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
        events.append(ClusterEvent("topic_deleted", old[topic_id].name, {"id": str(topic_id)}))
    for topic_id in sorted(new):
        topic, known = new[topic_id], old.get(topic_id)
        if topic.state == TopicState.READY and (known is None or known.state != TopicState.READY):
            facts = {
                "id": str(topic_id),
                "partitions": str(topic.partitions),
                "replication": str(topic.replication),
            }
            events.append(ClusterEvent("topic_created", topic.name, facts, 0 if known else topic.created_ms))
        if known is not None and known.retention != topic.retention:
            kept = {
                "retention_bytes": str(topic.retention.size_bytes),
                "retention_ms": str(topic.retention.age_ms),
                "version": str(topic.node_version),
            }
            events.append(ClusterEvent("topic_altered", topic.name, kept))
    return events


def _bundles(before: Catalog, after: Catalog) -> list[ClusterEvent]:
    events: list[ClusterEvent] = []
    for name in sorted(after.bundles):
        bundle, known = after.bundles[name], before.bundles.get(name)
        if known is None or known.epoch != bundle.epoch:
            former = known.broker if known is not None else ""
            facts = {"from": former, "to": bundle.broker, "epoch": str(bundle.epoch)}
            events.append(ClusterEvent("bundle_moved", name, facts, bundle.assigned_ms))
    return events


class LeaderEvents:
    """Elections of partition leaders, each told once, by term.

    What was so when this nameserver began to look is no news: the first leader that it hears of is told only for groups that came
    later."""

    def __init__(self, begun_with: Iterable[int]) -> None:
        self._silent = set(begun_with)
        self._terms: dict[int, int] = {}

    def derive(self, catalog: Catalog, leaders: Mapping[int, LeaderReport]) -> list[ClusterEvent]:
        events: list[ClusterEvent] = []
        names = {m.store_id: m.name for m in catalog.datanodes.values()}
        for group in sorted(leaders):
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
            events.append(ClusterEvent("partition_leader_elected", f"{partition.topic}-{partition.index}", facts))
        for group in self._terms.keys() - catalog.partitions.keys():
            del self._terms[group]
        return events


class EventBuffer:
    """The newest events, to be read from any point on, and followed."""

    def __init__(self, events_max: int = EVENTS_MAX, clock: Clock = SYSTEM) -> None:
        self.teller = (
            uuid.uuid4().hex
        )  # ids and times are this buffer's own: another life of its nameserver has another one
        self._clock = clock
        self._events: deque[ClusterEvent] = deque(maxlen=events_max)
        self._next_id = 1
        self._first_news_id = 1
        self._grown = asyncio.Event()
        self._closed = False

    def record(self, events: Iterable[ClusterEvent]) -> list[ClusterEvent]:
        """Adds ``events`` and returns them as recorded."""
        recorded: list[ClusterEvent] = []
        now_s, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        for event in events:
            kept = replace(
                event, facts=dict(event.facts), time_ms=event.time_ms or now_ms, id=self._next_id, recorded_s=now_s
            )
            self._next_id += 1
            self._events.append(kept)
            recorded.append(kept)
        if recorded:
            self._wake()
        return recorded

    def record_found(self, events: Iterable[ClusterEvent]) -> None:
        """The same for what was so already when this nameserver began: when it happened, only its time says."""
        self.record(events)
        self._first_news_id = self._next_id

    def age_ms(self, event: ClusterEvent) -> int:
        return round((self._clock.monotonic() - event.recorded_s) * 1000)

    def close(self) -> None:
        """Ends every follower."""
        self._closed = True
        self._wake()

    async def read(self, request: nameserver_pb2.EventsRequest) -> AsyncGenerator[ClusterEvent, None]:
        """Oldest first; with ``follow`` the events to come as well, whatever their times say.  What the buffer had to forget before a
        follower read it is told as one ``events_missed`` event."""
        goes_on = bool(request.teller) and request.teller == self.teller
        last_id, wanted_to_id = (request.after_id, 0) if goes_on else (0, self._next_id - 1)
        asked_s = self._clock.monotonic()
        while True:
            grown, newest = self._grown, self._next_id - 1
            missed = self._oldest_id - last_id - 1
            if last_id and missed > 0:
                yield ClusterEvent(
                    "events_missed", "", {"count": str(missed)}, self._events[0].time_ms, self._oldest_id - 1, asked_s
                )
            for event in list(islice(self._events, max(0, last_id + 1 - self._oldest_id), None)):
                if event.id > wanted_to_id or self._is_wanted(event, request, asked_s):
                    yield event
            last_id = max(last_id, newest)
            if not request.follow or self._closed:
                return
            if self._next_id - 1 == newest:
                await grown.wait()

    def _is_wanted(self, event: ClusterEvent, request: nameserver_pb2.EventsRequest, asked_s: float) -> bool:
        """Of what was there before it was asked for.  ``since_ms`` is compared with whatever clock gave the event its time, so it decides
        only about what its reader has never waited for."""
        if not request.teller or event.id < self._first_news_id:
            return event.time_ms >= request.since_ms
        return event.recorded_s >= asked_s - request.within_ms / 1000

    @property
    def _oldest_id(self) -> int:
        return self._next_id - len(self._events)

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
