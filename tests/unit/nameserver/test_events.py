"""Events are derived alike everywhere, kept within bounds and followed without gaps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from stele.event_feed import MARGIN_S, EventFeed
from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    DrainedBroker,
    Leader,
    Member,
    MemberKind,
    MemberState,
    PartitionEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.event_buffer import EventBuffer
from stele.nameserver.events import ClusterEvent, LeaderEvents, derive
from stele.nameserver.reports import LeaderReport
from stele.services.pb import nameserver_pb2 as pb
from stele.services.topics import Retention
from tests.unit.nameserver.world import datanode


def kinds(events: list[ClusterEvent]) -> list[tuple[str, str]]:
    return [(e.kind, e.subject) for e in events]


def test_members_join_and_go() -> None:
    empty = Catalog()
    broker = Member(MemberKind.BROKERS, "br1", "h:1", joined_zxid=5, joined_ms=1234)
    joined = Catalog(brokers={"br1": broker}, datanodes={"dn1": datanode(1, MemberState.LOADING)})
    assert kinds(derive(empty, joined)) == [
        ("member_joined", "dn1"),
        ("store_loading", "dn1"),
        ("member_joined", "br1"),
    ]
    assert derive(empty, joined)[2].time_ms == 1234
    assert derive(empty, joined)[2].facts == {"kind": "broker", "endpoint": "h:1", "incarnation": "5"}
    assert kinds(derive(joined, empty)) == [("member_gone", "dn1"), ("member_gone", "br1")]
    again = replace(joined, brokers={"br1": replace(broker, joined_zxid=9)})
    assert kinds(derive(joined, again)) == [("member_gone", "br1"), ("member_joined", "br1")]
    ready = replace(joined, datanodes={"dn1": datanode(1, MemberState.READY)})
    assert kinds(derive(joined, ready)) == [("store_ready", "dn1")]
    draining = replace(joined, brokers={"br1": replace(broker, state=MemberState.DRAINING)})
    assert kinds(derive(joined, draining)) == [("member_draining", "br1")]


def test_an_election_is_told_once_per_epoch() -> None:
    first = Catalog(leader=Leader("ns1", "h:1", 1, 77))
    assert kinds(derive(Catalog(), first)) == [("nameserver_elected", "ns1")]
    assert derive(first, replace(first, leader=None)) == []
    assert kinds(derive(replace(first, leader=None), Catalog(leader=Leader("ns2", "h:2", 2)))) == [
        ("nameserver_elected", "ns2")
    ]


def test_a_topic_that_keeps_its_messages_for_another_time_was_altered() -> None:
    topic = TopicEntry("demo/t", 1, 4, 3, TopicState.READY)
    before = Catalog(topics={"demo/t": topic})
    after = Catalog(topics={"demo/t": replace(topic, retention=Retention(age_ms=86_400_000))})
    assert kinds(derive(before, after)) == [("topic_altered", "demo/t")]
    assert derive(before, after)[0].facts == {
        "changed": "retention",
        "partitions": "4",
        "replication": "3",
        "retention_bytes": "0",
        "retention_ms": "86400000",
        "version": "0",
    }
    grown = Catalog(topics={"demo/t": replace(topic, partitions=6)})
    assert [(e.kind, e.facts["partitions"]) for e in derive(before, grown)] == [("topic_altered", "6")]
    assert not derive(before, Catalog(topics={"demo/t": replace(topic, growing_to=6)})), "nobody can see them yet"
    assert derive(Catalog(), after)[0].kind == "topic_created"


def test_topics_are_created_when_ready_and_deleted_when_gone_by_id() -> None:
    topic = TopicEntry("demo/t", 1, 4, 3, TopicState.CREATING)
    creating = Catalog(topics={"demo/t": topic})
    ready = Catalog(topics={"demo/t": replace(topic, state=TopicState.READY)})
    assert derive(Catalog(), creating) == []
    assert kinds(derive(creating, ready)) == [("topic_created", "demo/t")]
    deleting = Catalog(topics={"demo/t": replace(topic, state=TopicState.DELETING)})
    assert derive(ready, deleting) == []
    assert kinds(derive(deleting, Catalog())) == [("topic_deleted", "demo/t")]
    recreated = Catalog(topics={"demo/t": replace(topic, topic_id=2, state=TopicState.READY)})
    assert kinds(derive(ready, recreated)) == [("topic_deleted", "demo/t"), ("topic_created", "demo/t")]


def test_a_bundle_moves_with_its_epoch() -> None:
    before = Catalog(bundles={"demo/a": BundleEntry("demo/a", "br1", 1)})
    after = Catalog(bundles={"demo/a": BundleEntry("demo/a", "br2", 2, cause="drained")})
    (moved,) = derive(before, after)
    assert (moved.kind, moved.subject) == ("bundle_moved", "demo/a")
    assert moved.facts == {"from": "br1", "to": "br2", "epoch": "2"}
    assert (moved.id, moved.cause) == ("bundle_moved/demo/a@2", "drained")


def test_each_word_of_an_operator_about_a_broker_is_told_once() -> None:
    once, again = Catalog(drained={"br1": DrainedBroker("br1", 7)}), Catalog(drained={"br1": DrainedBroker("br1", 9)})
    assert [(e.kind, e.subject, dict(e.facts)) for e in derive(Catalog(), once)] == [
        ("broker_drained", "br1", {"record": "7"})
    ]
    assert derive(once, once) == []
    assert [(e.kind, e.facts["record"]) for e in derive(once, again)] == [
        ("broker_undrained", "7"),
        ("broker_drained", "9"),
    ], "what was undone and done again between two looks is both told"


def test_a_partitions_election_is_told_once_per_term() -> None:
    catalog = Catalog(partitions={7: PartitionEntry(7, "demo/t", 3, (1, 2))}, datanodes={"dn1": datanode(1)})
    news = LeaderEvents(begun_with=())
    (elected,) = news.derive(catalog, {7: LeaderReport(1, 2, True)})
    assert (elected.kind, elected.subject) == ("partition_leader_elected", "demo/t-3")
    assert elected.facts == {"group": "7", "leader": "dn1", "store_id": "1", "term": "2"}
    assert news.derive(catalog, {7: LeaderReport(1, 2, True)}) == []
    assert news.derive(catalog, {7: LeaderReport(1, 1, True)}) == []
    assert news.derive(catalog, {7: LeaderReport(2, 3, False)}) == []
    assert kinds(news.derive(catalog, {7: LeaderReport(2, 3, True)})) == [("partition_leader_elected", "demo/t-3")]


def test_what_was_so_at_the_start_is_no_news() -> None:
    catalog = Catalog(partitions={7: PartitionEntry(7, "demo/t", 3, (1, 2))})
    news = LeaderEvents(begun_with=[7])
    assert news.derive(catalog, {7: LeaderReport(1, 2, True)}) == []
    assert len(news.derive(catalog, {7: LeaderReport(2, 3, True)})) == 1


def numbered(first: int, last: int) -> list[ClusterEvent]:
    return [ClusterEvent("k", str(i), time_ms=i * 10) for i in range(first, last + 1)]


async def test_the_buffer_keeps_the_newest_and_filters_by_time() -> None:
    buffer = EventBuffer(events_max=5)
    buffer.record(numbered(1, 8))
    assert [e.number async for e in buffer.read(pb.EventsRequest())] == [4, 5, 6, 7, 8]
    assert [e.number async for e in buffer.read(pb.EventsRequest(since_ms=70))] == [7, 8]


async def test_a_follower_sees_everything_in_order_and_is_told_what_it_missed() -> None:
    buffer = EventBuffer(events_max=5)
    buffer.record(numbered(1, 2))
    reader = buffer.read(pb.EventsRequest(follow=True))
    assert (await anext(reader)).number == 1
    assert (await anext(reader)).number == 2
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    buffer.record(numbered(3, 3))
    assert (await asyncio.wait_for(waiting, 5)).number == 3
    buffer.record(numbered(4, 11))
    missed = await asyncio.wait_for(anext(reader), 5)
    assert (missed.kind, missed.facts) == ("events_missed", {"count": "3"})
    assert [(await asyncio.wait_for(anext(reader), 5)).number for _ in range(5)] == [7, 8, 9, 10, 11]
    last = asyncio.ensure_future(anext(reader, None))
    await asyncio.sleep(0)
    buffer.close()
    assert await asyncio.wait_for(last, 5) is None


class SetClock:
    """A nameserver's: ``wall`` is wrong by as much as it likes."""

    def __init__(self, wall: int) -> None:
        self.now_s, self.wall = 1000.0, wall

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return self.wall + int(self.now_s * 1000)


class Nameserver:
    """One life of it; ``pass_s`` is time that passes for everybody."""

    def __init__(self, wall: int, *found: str) -> None:
        self.clock = SetClock(wall)
        self.buffer = EventBuffer(clock=self.clock)
        self.buffer.record_found([ClusterEvent("found", name, id=f"found/{name}@1") for name in found])

    def happens(self, *names: str) -> None:
        self.buffer.record([ClusterEvent("k", name, id=f"k/{name}@1") for name in names])

    async def told(self, feed: EventFeed, now_s: float, count: int = 100) -> list[str]:
        """What a client takes that asks and breaks off once it has ``count`` answers, or nothing is there at the moment."""
        request = feed.request(now_s)
        request.follow = False
        taken: list[str] = []
        async for event in self.buffer.read(request):
            message = pb.Event(
                number=event.number,
                id=event.id,
                time_ms=event.time_ms,
                kind=event.kind,
                subject=event.subject,
                facts=event.facts,
                teller=self.buffer.teller,
                age_ms=self.buffer.age_ms(event),
            )
            if feed.takes(message, now_s):
                taken.append(event.subject)
            if (count := count - 1) == 0:
                break
        return taken


async def test_following_goes_on_with_a_nameserver_of_any_clock() -> None:
    ahead, behind = Nameserver(10**12), Nameserver(0)
    for one in (ahead, behind):
        one.happens("a", "b")
    feed = EventFeed(follow=True, since_ms=0)
    assert await ahead.told(feed, 5.0) == ["a", "b"]
    for one in (ahead, behind):
        one.clock.now_s += 3600
        one.happens("c")
    assert await behind.told(feed, 3605.0) == ["c"], "by no clock but the time that passed"
    for one in (ahead, behind):
        one.happens("d")
        one.clock.now_s += 1
    assert await ahead.told(feed, 3606.0) == ["d"]
    ahead.happens("e")
    assert await ahead.told(feed, 3606.0) == ["e"], "the same one goes on by number"


async def test_what_was_not_read_yet_is_told_by_the_next() -> None:
    one, other = Nameserver(10**12), Nameserver(0)
    for each in (one, other):
        each.happens("a", "b", "c")
        each.clock.now_s += 10 * MARGIN_S
    feed = EventFeed(follow=True, since_ms=0)
    assert await one.told(feed, 1000.0, count=1) == ["a"]
    assert await other.told(feed, 1000.0) == ["b", "c"]


async def test_a_nameserver_that_was_started_anew_tells_what_it_found() -> None:
    one = Nameserver(0, "a")
    one.happens("b")
    feed = EventFeed(follow=True, since_ms=0)
    assert await one.told(feed, 0.0) == ["a", "b"]
    anew = Nameserver(0, "a", "n")
    anew.clock.now_s += 1
    assert await anew.told(feed, 5.0) == ["n"]


async def test_what_happens_after_the_question_is_told_also_if_its_time_is_before_the_one_asked_for() -> None:
    slow = Nameserver(0)
    slow.happens("old")
    reader = slow.buffer.read(pb.EventsRequest(follow=True, since_ms=10**12))
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    slow.happens("new")
    assert (await asyncio.wait_for(waiting, 5)).subject == "new"
    await reader.aclose()


def test_the_same_again_is_told_where_it_happened_after_the_question() -> None:
    feed = EventFeed(follow=True, since_ms=0)
    feed.request(10.0)
    again = pb.Event(number=1, id="k/a@1", kind="k", subject="a", teller="t", age_ms=0)
    assert feed.takes(again, 11.0)
    assert feed.takes(again, 12.0)
    feed.request(20.0)
    assert not feed.takes(pb.Event(number=1, id="k/a@1", kind="k", subject="a", teller="u", age_ms=8_000), 20.5)
