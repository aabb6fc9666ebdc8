"""Events are derived alike everywhere, kept within bounds and followed without gaps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    Leader,
    Member,
    MemberKind,
    MemberState,
    PartitionEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.events import ClusterEvent, EventBuffer, LeaderEvents, derive
from stele.nameserver.reports import LeaderReport
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
    assert derive(empty, joined)[2].facts == {"kind": "broker", "endpoint": "h:1"}
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
    assert derive(before, after)[0].facts == {"retention_bytes": "0", "retention_ms": "86400000"}
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
    after = Catalog(bundles={"demo/a": BundleEntry("demo/a", "br2", 2)})
    (moved,) = derive(before, after)
    assert (moved.kind, moved.subject) == ("bundle_moved", "demo/a")
    assert moved.facts == {"from": "br1", "to": "br2", "epoch": "2"}


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
    buffer.record(numbered(1, 8), now_ms=1)
    assert [e.id async for e in buffer.read()] == [4, 5, 6, 7, 8]
    assert [e.id async for e in buffer.read(since_ms=70)] == [7, 8]


async def test_a_follower_sees_everything_in_order_and_is_told_what_it_missed() -> None:
    buffer = EventBuffer(events_max=5)
    buffer.record(numbered(1, 2), now_ms=1)
    reader = buffer.read(follow=True)
    assert (await anext(reader)).id == 1
    assert (await anext(reader)).id == 2
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    buffer.record(numbered(3, 3), now_ms=1)
    assert (await asyncio.wait_for(waiting, 5)).id == 3
    buffer.record(numbered(4, 11), now_ms=1)
    missed = await asyncio.wait_for(anext(reader), 5)
    assert (missed.kind, missed.facts) == ("events_missed", {"count": "3"})
    assert [(await asyncio.wait_for(anext(reader), 5)).id for _ in range(5)] == [7, 8, 9, 10, 11]
    last = asyncio.ensure_future(anext(reader, None))
    await asyncio.sleep(0)
    buffer.close()
    assert await asyncio.wait_for(last, 5) is None
