"""Routing and events, as brokers and people watch them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb import nameserver_pb2_grpc
from tests.integration.nameserver.cluster import Cluster
from tests.support.eventually import eventually


@asynccontextmanager
async def watching(cluster: Cluster, name: str) -> AsyncIterator[list[pb.Routing]]:
    seen: list[pb.Routing] = []
    stub = nameserver_pb2_grpc.NameserverStub(cluster.channels.get(cluster.nameservers[name].endpoint))
    stream = stub.WatchRouting(pb.WatchRoutingRequest())

    async def read() -> None:
        async for routing in stream:
            seen.append(routing)

    task = asyncio.create_task(read())
    try:
        yield seen
    finally:
        stream.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_routing_comes_whole_after_each_change_and_with_a_heartbeat(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3, brokers=2)
    async with watching(cluster, "ns1") as one, watching(cluster, "ns2") as two:
        await eventually(lambda: one and two)
        await cluster.create("demo/t", partitions=2)

        def whole(seen: list[pb.Routing]) -> bool:
            last = seen[-1]
            routes = [r for t in last.topics for r in t.partitions if t.topic.state == "ready"]
            return (
                len(routes) == 2
                and all(r.broker and r.broker_address.endpoint and r.leader_store_id for r in routes)
                and len(last.datanodes) == 3
                and len(last.brokers) == 2
                and len([b for b in last.bundles if b.broker]) == 16
            )

        await eventually(lambda: whole(one) and whole(two))
        for seen, name in ((one, "ns1"), (two, "ns2")):
            assert all(r.answered_by == name for r in seen)
            revisions = [r.revision for r in seen]
            assert revisions == sorted(set(revisions))
        quiet = one[-1].revision
        await eventually(lambda: len(one) > 1 and one[-1].revision == one[-2].revision >= quiet, within_s=10)


async def test_routing_follows_a_broker_that_dies_and_a_leader_that_changes(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3, brokers=2)
    await cluster.create("demo/t", partitions=1)
    async with watching(cluster, "ns1") as seen:
        await eventually(lambda: seen and seen[-1].topics and seen[-1].topics[0].partitions[0].broker)
        route = seen[-1].topics[0].partitions[0]
        assert route.leader_store_id == 1
        await cluster.brokers[route.broker].crash()
        await cluster.datanodes["dn1"].crash()

        def moved() -> bool:
            now = seen[-1].topics[0].partitions[0]
            return (
                now.broker not in ("", route.broker)
                and now.owner_epoch > route.owner_epoch
                and now.leader_store_id == 2
            )

        await eventually(moved, describe=cluster.describe)


def told(events: list[Any]) -> set[tuple[str, str]]:
    return {(e.kind, e.subject) for e in events}


async def read_events(cluster: Cluster, name: str, since_ms: int = 0) -> list[pb.Event]:
    stub = nameserver_pb2_grpc.NameserverStub(cluster.channels.get(cluster.nameservers[name].endpoint))
    return [e async for e in stub.Events(pb.EventsRequest(since_ms=since_ms))]


async def test_every_nameserver_tells_the_same_story(cluster: Cluster) -> None:
    await cluster.start(nameservers=3, datanodes=3, brokers=2)
    await cluster.create("demo/t", partitions=1)

    async def all_tell(*facts: tuple[str, str]) -> bool:
        stories = [told(await read_events(cluster, n)) for n in cluster.nameservers]
        return all(set(facts) <= s for s in stories)

    # What is over sooner not everybody need hear of: who led a topic, that a store was loading.
    await eventually(lambda: all_tell(("partition_leader_elected", "demo/t-0"), ("topic_created", "demo/t")))
    await cluster.delete("demo/t")
    await cluster.datanode("dn4", state="loading")
    await eventually(lambda: all_tell(("store_loading", "dn4")))
    await cluster.datanodes["dn4"].enter("ready")
    await cluster.brokers["br2"].stop()
    wanted = {
        ("member_joined", "dn1"),
        ("member_joined", "br2"),
        ("member_gone", "br2"),
        ("store_loading", "dn4"),
        ("store_ready", "dn4"),
        ("topic_created", "demo/t"),
        ("topic_deleted", "demo/t"),
        ("partition_leader_elected", "demo/t-0"),
    }

    async def same() -> bool:
        stories = [told(await read_events(cluster, n)) for n in cluster.nameservers]
        return all(wanted <= s for s in stories) and all(("nameserver_elected") in {k for k, _ in s} for s in stories)

    async def moved() -> bool:
        stories = [await read_events(cluster, n) for n in cluster.nameservers]
        moves = [[e for e in s if e.kind == "bundle_moved" and e.facts["from"] == "br2"] for s in stories]
        return all(len(m) == 8 and {e.facts["to"] for e in m} == {"br1"} for m in moves)

    await eventually(same)
    await eventually(moved)
    for name in cluster.nameservers:
        events = await read_events(cluster, name)
        assert [e.number for e in events] == sorted({e.number for e in events})
        assert len({e.id for e in events}) == len(events)
        assert all(e.time_ms > 0 for e in events)


async def test_events_are_followed_as_they_happen(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    stub = nameserver_pb2_grpc.NameserverStub(cluster.channels.get(cluster.nameservers["ns1"].endpoint))
    stream = stub.Events(pb.EventsRequest(follow=True))
    seen: list[pb.Event] = []

    async def read() -> None:
        async for event in stream:
            seen.append(event)

    task = asyncio.create_task(read())
    await eventually(lambda: ("nameserver_elected", "ns1") in told(seen))
    await cluster.broker("br1")
    await eventually(lambda: ("member_joined", "br1") in told(seen))
    late = max(e.time_ms for e in seen)
    assert all(e.time_ms >= late for e in await read_events(cluster, "ns1", since_ms=late))
    await cluster.nameservers["ns1"].drain()
    await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 10)


async def test_a_restarted_nameserver_tells_what_is_so_with_its_true_times(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3, brokers=1)
    await cluster.create("demo/t", partitions=1)
    first = {(e.kind, e.subject): e.time_ms for e in await read_events(cluster, "ns1")}
    await cluster.nameserver("ns2")
    second = {(e.kind, e.subject): e.time_ms for e in await read_events(cluster, "ns2")}
    for fact in (("member_joined", "dn1"), ("member_joined", "br1"), ("nameserver_elected", "ns1")):
        assert second[fact] == first[fact]
    assert ("topic_created", "demo/t") in second
    assert ("partition_leader_elected", "demo/t-0") not in second


async def test_listings_show_how_far_logs_are_although_nothing_is_decided_by_it(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3, brokers=1)
    await cluster.create("demo/t", partitions=1)
    for end in (5, 6):
        for datanode in cluster.datanodes.values():
            datanode.high_watermark = end
            datanode.moved.set()
        for nameserver in cluster.nameservers.values():
            stub = nameserver_pb2_grpc.NameserverStub(cluster.channels.get(nameserver.endpoint))

            async def is_shown(stub=stub, end=end) -> bool:
                [partition] = (await stub.ListPartitions(pb.ListPartitionsRequest(topic="demo/t"))).partitions
                return [r.status.high_watermark for r in partition.reports] == [end] * 3

            await eventually(is_shown)
