"""Producing and consuming through a real cluster in which nothing fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import pytest

import stele
import stele.sync
from stele.batching import BATCH_BYTES_LIMIT, partition_of_key
from stele.errors import ClientClosed
from stele.services.errors import (
    BatchCorrupt,
    ConsumerBusy,
    InvalidArgument,
    MessageTooLarge,
    NotEnoughStores,
    Overloaded,
    PartitionNotFound,
    SubscriptionNotFound,
    TopicExists,
    TopicNotFound,
)
from stele.services.pb import datanode_pb2, datanode_pb2_grpc
from stele.services.rpc.channels import Channels
from tests.support.batches import undecodable_from
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)
_numbers = itertools.count(1)
RECEIVE_S = 20.0


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as client:
        yield client


async def new_topic(client: stele.Client, partitions: int = 1) -> str:
    topic = f"it/t{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=partitions, replication=3)
    return topic


async def fill(client: stele.Client, topic: str, count: int, partition: int | None = None) -> list[stele.SendResult]:
    async with client.producer(topic) as producer:
        promises = [await producer.enqueue(b"%d" % i, partition=partition) for i in range(count)]
        return list(await asyncio.gather(*promises))


async def receive(consumer: stele.Consumer, count: int) -> list[stele.Message]:
    messages = []
    for _ in range(count):
        message = await consumer.receive(RECEIVE_S)
        assert message is not None, f"{len(messages)} of {count} came"
        messages.append(message)
    return messages


async def test_what_is_sent_is_received_whole_and_in_order(client: stele.Client) -> None:
    topic = await new_topic(client)
    before_ms = time.time_ns() // 1_000_000
    async with client.producer(topic, linger_ms=0) as producer:
        first = await producer.send(b"one", key=b"k", headers={"h": b"1", "empty": b""})
        results = [first, await producer.send(b""), await producer.send(b"\x00\xff")]
    assert results == [stele.SendResult(0, 0), stele.SendResult(0, 1), stele.SendResult(0, 2)]
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        messages = await receive(consumer, 3)
        assert [m.value for m in messages] == [b"one", b"", b"\x00\xff"]
        assert (messages[0].key, messages[0].headers, messages[1].key) == (b"k", {"h": b"1", "empty": b""}, None)
        assert (messages[0].topic, messages[0].partition, messages[0].redelivery_count) == (topic, 0, 0)
        assert before_ms <= messages[0].timestamp_ms <= time.time_ns() // 1_000_000
        assert await consumer.receive(timeout_s=0.1) is None


async def test_offsets_of_a_partition_have_no_gap_and_every_partition_is_used(client: stele.Client) -> None:
    topic = await new_topic(client, partitions=3)
    async with client.producer(topic, batch_bytes_max=1000) as producer:
        results = await asyncio.gather(*[await producer.enqueue(b"%d" % i) for i in range(3000)])
    by_partition: dict[int, list[int]] = {}
    for r in results:
        by_partition.setdefault(r.partition, []).append(r.offset)
    assert set(by_partition) == {0, 1, 2}
    assert all(offsets == list(range(len(offsets))) for offsets in by_partition.values())


async def test_a_key_stays_in_its_partition_and_a_chosen_partition_is_used(client: stele.Client) -> None:
    topic = await new_topic(client, partitions=3)
    async with client.producer(topic) as producer:
        for key in (b"a", b"b", b"c", b"a"):
            assert (await producer.send(b"x", key=key)).partition == partition_of_key(key, 3)
        assert (await producer.send(b"x", key=b"a", partition=2)).partition == 2
        with pytest.raises(PartitionNotFound, match="0 to 2"):
            await producer.send(b"x", partition=3)


async def test_the_largest_message_arrives_and_a_larger_one_never_leaves(client: stele.Client) -> None:
    topic = await new_topic(client)
    async with client.producer(topic) as producer:
        with pytest.raises(MessageTooLarge) as refused:
            await producer.send(b"x" * BATCH_BYTES_LIMIT)
        largest = b"y" * int(refused.value.facts["bytes_max"])
        await producer.send(largest)
    async with client.consumer(topic, "s") as consumer:
        (message,) = await receive(consumer, 1)
        assert message.value == largest


async def test_an_acknowledgement_is_durable_when_it_returns(cluster: ClusterUnderTest, client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 10)
    async with cluster.connect() as other, other.consumer(topic, "s") as consumer:
        for message in await receive(consumer, 4):
            await consumer.ack(message)
    async with client.consumer(topic, "s") as consumer:
        assert [m.offset for m in await receive(consumer, 6)] == list(range(4, 10))
    (info,) = await client.admin.list_subscriptions(topic)
    assert (info.ack_floor, info.backlog) == (4, 6)


async def test_cumulative_acknowledgement(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 10)
    async with client.consumer(topic, "s", type="failover") as consumer:
        messages = await receive(consumer, 10)
        await consumer.ack_cumulative(messages[6])
    async with client.consumer(topic, "s", type="failover") as consumer:
        assert [m.offset for m in await receive(consumer, 3)] == [7, 8, 9]
    async with client.consumer(topic, "shared") as consumer:
        (message,) = await receive(consumer, 1)
        with pytest.raises(InvalidArgument, match="shared"):
            await consumer.ack_cumulative(message)


async def test_a_message_handed_back_comes_again(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 2)
    async with client.consumer(topic, "s") as consumer:
        first, second = await receive(consumer, 2)
        await consumer.ack(second)
        consumer.nack(first, delay_s=0.2)
        (again,) = await receive(consumer, 1)
        assert (again.offset, again.redelivery_count) == (first.offset, 1)
        await consumer.ack(again)
        assert await consumer.receive(timeout_s=0.3) is None


async def test_a_message_not_acknowledged_in_time_comes_again(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 1)
    async with client.consumer(topic, "s", ack_timeout_s=0.3) as consumer:
        first, again = await receive(consumer, 2)
        assert (first.offset, again.offset, again.redelivery_count) == (0, 0, 1)


async def test_shared_consumers_divide_the_messages(client: stele.Client) -> None:
    topic = await new_topic(client, partitions=2)
    async with (
        client.consumer(topic, "s", credit=20) as a,
        client.consumer(topic, "s", credit=20) as b,
    ):
        await fill(client, topic, 400)
        got: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}

        async def drain(name: str, consumer: stele.Consumer) -> None:
            while (m := await consumer.receive(1.0)) is not None:
                got[name].append((m.partition, m.offset))
                consumer.ack_nowait(m)

        await asyncio.gather(drain("a", a), drain("b", b))
    assert got["a"]
    assert got["b"]
    assert len(set(got["a"] + got["b"])) == len(got["a"] + got["b"]) == 400


async def test_an_exclusive_subscription_has_one_consumer(client: stele.Client) -> None:
    topic = await new_topic(client)
    async with client.consumer(topic, "s", type="exclusive", name="first"):
        with pytest.raises(ConsumerBusy, match="first"):
            await client.consumer(topic, "s", type="exclusive").open()
    async with client.consumer(topic, "s", type="exclusive"):
        pass


async def test_a_failover_consumer_takes_over(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 4)
    async with client.consumer(topic, "s", type="failover") as second_choice:
        active = client.consumer(topic, "s", type="failover")
        async with active:
            assert (second_choice.active_partitions, active.active_partitions) == ([0], [])
            second_choice, active = active, second_choice
            (message,) = await receive(active, 1)
            await active.ack(message)
            await active.close()
            assert [m.offset for m in await receive(second_choice, 3)] == [1, 2, 3]
            assert second_choice.active_partitions == [0]


async def test_where_a_new_subscription_begins(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 5)
    async with (
        client.consumer(topic, "early") as early,
        client.consumer(topic, "third", start=3) as third,
        client.consumer(topic, "late", start="latest") as late,
    ):
        await fill(client, topic, 1)
        assert [(await receive(c, 1))[0].offset for c in (early, third, late)] == [0, 3, 5]


async def test_seeking(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 5)
    noon_ms = time.time_ns() // 1_000_000 + 1
    await eventually(lambda: time.time_ns() // 1_000_000 > noon_ms)
    await fill(client, topic, 5)
    async with client.consumer(topic, "s") as consumer:
        for message in await receive(consumer, 10):
            await consumer.ack(message)
        await consumer.seek("earliest")
        assert [m.offset for m in await receive(consumer, 10)] == list(range(10))
        await consumer.seek(7, partition=0)
        assert [m.offset for m in await receive(consumer, 3)] == [7, 8, 9]
        await consumer.seek(timestamp_ms=noon_ms)
        since_noon = [(await receive(consumer, 1))[0].offset]
        while since_noon[-1] != 9:
            since_noon.append((await receive(consumer, 1))[0].offset)
        assert since_noon[-5:] == [5, 6, 7, 8, 9], "the place may be early, never late"
        await consumer.seek("latest")
        assert await consumer.receive(0.3) is None
        assert await client.admin.seek_subscription(topic, "s", "earliest") == {0: 0}
        assert [m.offset for m in await receive(consumer, 2)] == [0, 1], "moved by somebody else"
        with pytest.raises(InvalidArgument):
            await consumer.seek("middle")
        with pytest.raises(InvalidArgument):
            await consumer.seek(1, partition=9)


async def test_iteration_ends_when_the_consumer_is_closed(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 3)
    consumer = client.consumer(topic, "s")
    seen = []
    async for message in consumer:
        seen.append(message.offset)
        await consumer.ack(message)
        if len(seen) == 3:
            await consumer.close()
    assert seen == [0, 1, 2]
    with pytest.raises(ClientClosed):
        await consumer.receive()


async def test_a_cancelled_task_does_not_go_on_receiving(client: stele.Client) -> None:
    topic = await new_topic(client)
    async with client.consumer(topic, "s") as consumer:

        async def receiving() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # as Ctrl-C does: while the task runs
            await consumer.receive(timeout_s=0)
            pytest.fail("the cancellation was lost")

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(receiving())


async def test_memory_is_bounded(client: stele.Client) -> None:
    topic = await new_topic(client)
    producer = client.producer(topic, buffer_bytes_max=10_000, linger_ms=50)
    with pytest.raises(Overloaded, match="10000 bytes"):
        list(map(producer.send_nowait, [b"x" * 1000] * 100))
    results = await asyncio.gather(*(producer.send(b"y" * 1000) for _ in range(100)))
    assert len({r.offset for r in results}) == 100
    await producer.close()
    with pytest.raises(ClientClosed):
        producer.send_nowait(b"z")


async def test_flush_waits_for_everything_and_abort_fails_it(client: stele.Client) -> None:
    topic = await new_topic(client)
    async with client.producer(topic, linger_ms=5000) as producer:
        promises = [producer.send_nowait(b"%d" % i) for i in range(10)]
        await producer.flush()
        assert [p.result().offset for p in promises] == list(range(10))
    aborted = client.producer(topic, linger_ms=5000)
    promise = aborted.send_nowait(b"never")
    await aborted.abort()
    with pytest.raises(ClientClosed):
        promise.result()


async def test_topics_that_do_not_exist(client: stele.Client) -> None:
    async with client.producer("it/absent") as producer:
        with pytest.raises(TopicNotFound, match="it/absent"):
            await producer.send(b"x")
    with pytest.raises(TopicNotFound):
        await client.consumer("it/absent", "s").open()
    with pytest.raises(TopicNotFound):
        await client.admin.delete_topic("it/absent")
    with pytest.raises(InvalidArgument, match="namespace/topic"):
        client.producer("no-namespace")
    with pytest.raises(InvalidArgument, match="subscription"):
        client.consumer("it/t", "bad name")


async def test_a_deleted_topic_ends_its_producers_and_its_name_begins_anew(client: stele.Client) -> None:
    topic = await new_topic(client)
    producer = client.producer(topic, linger_ms=0)
    await producer.send(b"old")
    await client.admin.delete_topic(topic)
    with pytest.raises(stele.SteleError):
        await producer.send(b"too late")
    await producer.abort()
    await client.admin.create_topic(topic, partitions=2, replication=3)
    async with client.producer(topic) as again:
        assert (await again.send(b"new", partition=1)).offset == 0


async def test_administration(client: stele.Client) -> None:
    topic = await new_topic(client, partitions=2)
    with pytest.raises(TopicExists):
        await client.admin.create_topic(topic, partitions=2, replication=3)
    same = await client.admin.create_topic(topic, partitions=2, replication=3, if_absent=True)
    assert (same.partitions, same.replication, same.state) == (2, 3, "ready")
    with pytest.raises(NotEnoughStores):
        await client.admin.create_topic("it/wide", replication=4)
    with pytest.raises(InvalidArgument):
        await client.admin.create_topic("it/none", partitions=0)
    assert topic in [t.topic for t in await client.admin.list_topics("it")]
    assert "it" in [n.namespace for n in await client.admin.list_namespaces()]
    partitions = await client.admin.list_partitions(topic)
    assert [len(p.replicas) for p in partitions] == [3, 3]
    assert {s.name for s in await client.admin.list_stores()} == {"dn1", "dn2", "dn3"}
    assert {b.name for b in await client.admin.list_brokers() if b.live} == {"br1", "br2"}
    assert [n.name for n in await client.admin.list_nameservers() if n.leader] == ["ns1"]
    assert (await client.admin.cluster()).leader == "ns1"
    assert {r.broker for r in (await client.admin.lookup(topic)).partitions} <= {"br1", "br2"}


async def test_subscriptions_can_be_made_listed_and_removed(client: stele.Client) -> None:
    topic = await new_topic(client, partitions=2)
    assert await client.admin.create_subscription(topic, "s", "latest")
    assert not await client.admin.create_subscription(topic, "s")
    assert [(s.subscription, s.partition) for s in await client.admin.list_subscriptions(topic)] == [("s", 0), ("s", 1)]
    await client.admin.delete_subscription(topic, "s")
    assert await client.admin.list_subscriptions(topic) == []
    with pytest.raises(SubscriptionNotFound):
        await client.admin.delete_subscription(topic, "s")


async def test_events_are_told_and_followed(client: stele.Client) -> None:
    topic = await new_topic(client)
    assert ("topic_created", topic) in [(e.kind, e.subject) async for e in client.admin.events()]
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        async for event in client.admin.events(follow=True):
            seen.append((event.kind, event.subject))

    following = asyncio.create_task(follow())
    other = await new_topic(client)
    await eventually(lambda: ("topic_created", other) in seen, within_s=20)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


def test_everything_has_a_synchronous_form(cluster: ClusterUnderTest) -> None:
    topic = f"it/t{next(_numbers)}"
    with stele.sync.connect(cluster.bootstrap) as client:
        client.admin.create_topic(topic, partitions=1, replication=3)
        with client.producer(topic) as producer:
            assert producer.send(b"0").offset == 0
            promises = [producer.send_nowait(b"1"), producer.enqueue(b"2")]
            producer.flush()
            assert [p.result(10).offset for p in promises] == [1, 2]
            with pytest.raises(MessageTooLarge):
                producer.send(b"x" * (1 << 20))
        with client.consumer(topic, "s", type="exclusive") as consumer:
            values = []
            for message in consumer:
                values.append(message.value)
                consumer.ack_nowait(message) if len(values) == 1 else consumer.ack(message)
                if len(values) == 3:
                    break
            assert values == [b"0", b"1", b"2"]
            assert consumer.receive(timeout_s=0.1) is None
            consumer.seek("earliest")
            message = consumer.receive(RECEIVE_S)
            assert message is not None
            consumer.nack(message)
            consumer.flush()
        assert [s.subscription for s in client.admin.list_subscriptions(topic)] == ["s"]
        assert any(e.subject == topic for e in client.admin.events())
    with pytest.raises(ClientClosed):
        client.admin.list_topics()
    with pytest.raises(InvalidArgument):
        stele.sync.connect("nohost")


async def test_p17_records_that_cannot_be_decoded_are_named_or_passed_over(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 3)
    await store_raw(client, topic, undecodable_from(2, 5))
    await fill(client, topic, 3)
    careful = client.consumer(topic, "careful", type="exclusive")
    assert [m.offset for m in await receive(careful, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(BatchCorrupt) as named:
        await careful.receive(RECEIVE_S)
    assert (named.value.facts["first"], named.value.facts["last"]) == ("5", "7")
    await careful.close()
    for kind in ("exclusive", "shared"):
        async with client.consumer(topic, f"bold-{kind}", type=kind, on_damage="skip") as bold:
            messages = await receive(bold, 8)
            assert sorted(m.offset for m in messages) == [0, 1, 2, 3, 4, 8, 9, 10]
            assert bold.skipped == 3
            for message in messages:
                await bold.ack(message)

    async def nothing_is_owed() -> bool:
        found = {s.subscription: s.backlog for s in await client.admin.list_subscriptions(topic)}
        return found["bold-exclusive"] == found["bold-shared"] == 0

    await eventually(nothing_is_owed)


async def store_raw(client: stele.Client, topic: str, batch: bytes) -> None:
    """As a version would have stored it that did not look: past the broker, which does."""
    [partition] = await client.admin.list_partitions(topic)
    stores = {store.store_id: store.member for store in await client.admin.list_stores()}
    leader = stores[partition.leader_store_id]
    assert leader is not None
    request = datanode_pb2.AppendRequest(
        request_id=1, group=partition.group, owner_epoch=partition.owner_epoch, batches=[batch]
    )
    channels = Channels()
    try:
        appends = datanode_pb2_grpc.DatanodeStub(channels.get(leader.endpoint)).Append()  # type: ignore[no-untyped-call]
        await appends.write(request)
        answer = await asyncio.wait_for(appends.read(), RECEIVE_S)
        assert not answer.error.reason, answer
        assert [result.error.reason for result in answer.results] == [""]
        appends.cancel()
    finally:
        await channels.close()
