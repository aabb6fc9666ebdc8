"""Names that mean something else than before: a subscription that somebody moved, a topic or a subscription made anew under its name.

Nothing of before reaches what is there now, and nothing of what is there now is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

import stele
from stele.batching import partition_of_key
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)
_numbers = itertools.count(1)
RECEIVE_S = 20.0
QUIET_S = 1.0


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as client:
        yield client


@pytest.fixture
async def other(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    """Somebody else, who knows nothing of what ``client`` knows."""
    async with cluster.connect() as other:
        yield other


def new_name() -> str:
    return f"it/i{next(_numbers)}"


async def new_topic(client: stele.Client, partitions: int = 1) -> str:
    topic = new_name()
    await client.admin.create_topic(topic, partitions=partitions, replication=3)
    return topic


async def recreate(admin: stele.Client, topic: str, partitions: int = 1) -> None:
    await admin.admin.delete_topic(topic)
    await admin.admin.create_topic(topic, partitions=partitions, replication=3)


async def fill(client: stele.Client, topic: str, count: int, what: str = "") -> None:
    async with client.producer(topic) as producer:
        await asyncio.gather(*[await producer.enqueue(b"%s%d" % (what.encode(), i)) for i in range(count)])


async def receive(consumer: stele.Consumer, count: int) -> list[stele.Message]:
    messages = []
    for _ in range(count):
        message = await consumer.receive(RECEIVE_S)
        assert message is not None, f"{len(messages)} of {count} came"
        messages.append(message)
    return messages


@contextlib.asynccontextmanager
async def away(consumer: stele.Consumer) -> AsyncIterator[None]:
    """As a process that is stopped: it learns of nothing that happens inside."""
    for p in consumer._partitions:
        await p.stop()
    yield
    for p in consumer._partitions:
        p.start()


# --- seek -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["exclusive", "shared"])
async def test_p7_after_anybodys_seek_everything_comes_again(
    client: stele.Client, other: stele.Client, type: str
) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 100)
    async with client.consumer(topic, "s", type=type) as consumer:
        held = await receive(consumer, 100)
        for message in held[:50]:
            await consumer.ack(message)
        await other.admin.seek_subscription(topic, "s", "earliest")
        again = [m.offset for m in await receive(consumer, 100)]
        assert (again if type == "exclusive" else sorted(again)) == list(range(100))
        assert await consumer.receive(QUIET_S) is None


async def test_p7_an_acknowledgement_on_its_way_does_not_undo_a_seek(client: stele.Client, other: stele.Client) -> None:
    for _ in range(10):
        topic = await new_topic(client)
        await fill(client, topic, 30)
        async with client.consumer(topic, "s", type="exclusive") as consumer:
            held = await receive(consumer, 30)
            seeking = asyncio.create_task(other.admin.seek_subscription(topic, "s", "earliest"))
            acking = asyncio.create_task(consumer.ack_cumulative(held[-1]))
            await seeking
            assert [m.offset for m in await receive(consumer, 30)] == list(range(30))
            await asyncio.gather(acking, return_exceptions=True)
        await client.admin.delete_topic(topic)


async def test_p7_what_was_delivered_before_a_seek_cannot_be_acknowledged(
    client: stele.Client, other: stele.Client
) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 20)
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        held = await receive(consumer, 20)
        await other.admin.seek_subscription(topic, "s", "earliest")
        with pytest.raises(stele.SteleError) as refused:
            await consumer.ack(held[3])
        assert (refused.value.reason, refused.value.definite, refused.value.retryable) == ("STALE_ACK", True, False)
        consumer.nack(held[4])  # it comes again anyway
        assert [m.offset for m in await receive(consumer, 20)] == list(range(20))
        with pytest.raises(stele.SteleError):
            await consumer.ack_cumulative(held[-1])
        (info,) = await client.admin.list_subscriptions(topic)
        assert (info.ack_floor, info.backlog) == (0, 20)


async def test_p7_its_own_seek_leaves_nothing_of_before(client: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 50)
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        held = await receive(consumer, 40)
        unconfirmed = consumer.ack_nowait(held[-1])
        await consumer.seek("earliest")
        with pytest.raises(stele.SteleError):
            await consumer.ack(held[0])
        assert [m.offset for m in await receive(consumer, 50)] == list(range(50))
        await asyncio.wait({unconfirmed}, timeout=RECEIVE_S)
        assert unconfirmed.done()


# --- topics made anew -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["exclusive", "shared"])
@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_p7_a_consumer_gets_everything_of_a_topic_made_anew(
    client: stele.Client, other: stele.Client, type: str, start: str
) -> None:
    topic = await new_topic(client)
    async with client.consumer(topic, "s", type=type, start=start) as consumer:
        await fill(other, topic, 10, "old")
        held = await receive(consumer, 10)
        async with away(consumer):
            await recreate(other, topic)
            await fill(other, topic, 12, "new")
        new = await receive(consumer, 12)
        assert sorted(m.value for m in new) == sorted(b"new%d" % i for i in range(12))
        for message in held:
            with pytest.raises(stele.SteleError) as refused:
                await consumer.ack(message)
            assert refused.value.reason == "STALE_ACK"
        (info,) = await other.admin.list_subscriptions(topic)
        assert (info.ack_floor, info.backlog) == (0, 12), "what acknowledges the old counts nothing of the new"
        for message in new:
            await consumer.ack(message)
        (info,) = await other.admin.list_subscriptions(topic)
        assert info.backlog == 0


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 5)])
async def test_p7_a_consumer_follows_a_topic_made_anew_with_other_partitions(
    client: stele.Client, other: stele.Client, before: int, after: int
) -> None:
    topic = await new_topic(client, before)
    async with client.consumer(topic, "s") as consumer:
        await fill(other, topic, 4, "old")
        await receive(consumer, 4)
        async with away(consumer):
            await recreate(other, topic, after)
            async with other.producer(topic) as producer:
                for i in range(40):
                    await producer.send(b"new%d" % i, partition=i % after)
        new = await receive(consumer, 40)
        assert sorted(m.value for m in new) == sorted(b"new%d" % i for i in range(40))
        assert {m.partition for m in new} == set(range(after))
        await consumer.seek("earliest", partition=after - 1)
        with pytest.raises(stele.InvalidArgument):
            await consumer.seek("earliest", partition=after)


async def test_p7_a_consumer_whose_subscription_is_removed_is_told(client: stele.Client, other: stele.Client) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 10)
    async with client.consumer(topic, "s", start="latest") as consumer:
        async with away(consumer):
            await other.admin.delete_subscription(topic, "s")
            await fill(client, topic, 12)
        with pytest.raises(stele.SubscriptionNotFound):
            await consumer.receive(RECEIVE_S)


async def test_p7_a_consumer_whose_subscription_is_made_anew_goes_on_with_that(
    client: stele.Client, other: stele.Client
) -> None:
    topic = await new_topic(client)
    await fill(client, topic, 10)
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        held = await receive(consumer, 10)
        async with away(consumer):
            unconfirmed = [consumer.ack_nowait(m) for m in held]
            await other.admin.delete_subscription(topic, "s")
            await other.admin.create_subscription(topic, "s", "earliest")
        assert [m.offset for m in await receive(consumer, 10)] == list(range(10))
        outcomes = await asyncio.gather(*unconfirmed, return_exceptions=True)
        assert all(isinstance(o, stele.SteleError) and o.definite for o in outcomes), outcomes


# --- producers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 8)])
async def test_p7b_a_producer_follows_a_topic_made_anew(
    client: stele.Client, other: stele.Client, before: int, after: int
) -> None:
    topic = await new_topic(client, before)
    async with client.producer(topic, linger_ms=1, send_timeout_s=20) as producer:
        for i in range(20):
            await producer.send(b"old", key=b"k%d" % i)
        await recreate(other, topic, after)
        # All at once and unprepared: none of these can have been stored in the former topic.
        sent = await asyncio.gather(*(producer.send(b"%d" % i, key=b"k%d" % (i % 20)) for i in range(400)))
        await producer.send(b"unkeyed")
        chosen = await producer.send(b"chosen", partition=after - 1)
        assert chosen.partition == after - 1
        with pytest.raises(stele.PartitionNotFound):
            await producer.send(b"chosen", partition=after)
    assert all(r.partition == partition_of_key(b"k%d" % (i % 20), after) for i, r in enumerate(sent))
    async with other.consumer(topic, "all") as consumer:
        got = await receive(consumer, 402)
        assert await consumer.receive(QUIET_S) is None, "stored twice"
    by_key: dict[bytes, list[int]] = {}
    for message in got:
        if message.key is not None:
            by_key.setdefault(message.key, []).append(int(message.value))
    assert all(values == sorted(values) for values in by_key.values()), "out of order"
    assert sorted(v for values in by_key.values() for v in values) == list(range(400)), "exactly once"


async def test_p7b_what_waits_in_a_producer_goes_to_the_new_topic(client: stele.Client, other: stele.Client) -> None:
    topic = await new_topic(client, 3)
    async with client.producer(topic, linger_ms=10_000) as producer:
        waiting = [producer.send_nowait(b"%d" % i, key=b"k") for i in range(5)]
        lost = producer.send_nowait(b"x", partition=2)
        await recreate(other, topic, 2)
        await producer.flush()
        assert [p.result().partition for p in waiting] == [partition_of_key(b"k", 2)] * 5
        assert [p.result().offset for p in waiting] == list(range(5))
        assert isinstance(lost.exception(), stele.PartitionNotFound)
