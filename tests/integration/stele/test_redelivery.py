"""Messages that come again: those that always fail, and those whose consumer is slow."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import pytest

import stele
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)
_numbers = itertools.count(1)
RECEIVE_S = 20.0
GOOD_WITHIN_S = 60.0


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as client:
        yield client


async def topic_with(client: stele.Client, *values: bytes) -> str:
    topic = f"it/r{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=1, replication=3)
    async with client.producer(topic) as producer:
        await asyncio.gather(*[await producer.enqueue(value) for value in values])
    return topic


@pytest.mark.parametrize(("credit", "poison"), [(1, 1), (10, 10)])
async def test_p15_messages_that_always_fail_hold_up_no_others(client: stele.Client, credit: int, poison: int) -> None:
    topic = await topic_with(client, *[b"poison"] * poison, *[b"good"] * 100)
    good, failed = set(), Counter[int]()
    async with client.consumer(topic, "s", credit=credit) as consumer, asyncio.timeout(GOOD_WITHIN_S):
        while len(good) < 100:
            message = await consumer.receive(RECEIVE_S)
            assert message is not None
            if message.value == b"good":
                good.add(message.offset)
                consumer.ack_nowait(message)
            else:
                assert message.redelivery_count == failed[message.offset]
                failed[message.offset] += 1
                consumer.nack(message)
        await consumer.flush()
    assert set(failed) == set(range(poison))


async def test_p15_how_often_a_message_failed_outlives_its_broker(
    cluster: ClusterUnderTest, client: stele.Client
) -> None:
    topic = await topic_with(client, b"poison", b"good")
    async with client.consumer(topic, "s") as consumer:
        good, failed = None, 0
        while good is None or failed < 3:
            message = await consumer.receive(RECEIVE_S)
            assert message is not None
            if message.value == b"good":
                good = message
            else:
                assert message.redelivery_count == failed
                failed += 1
                consumer.nack(message)
        await consumer.ack(good)  # written with the counts of before
        (partition,) = await client.admin.list_partitions(topic)
        await cluster.kill(partition.broker)
        again = await consumer.receive(RECEIVE_S)
        assert again is not None
        assert (again.value, again.redelivery_count >= 3) == (b"poison", True)


@pytest.mark.parametrize(("type", "workers"), [("exclusive", 1), ("shared", 2)])
async def test_p35_a_message_that_waits_at_its_consumer_is_handled_once(
    client: stele.Client, type: str, workers: int
) -> None:
    """Each message is worked off in a fraction of the ack timeout; the last ones wait several times as long for their turn."""
    count, timeout_s = 400, 2.0
    topic = await topic_with(client, *(b"%d" % i for i in range(count)))
    handled: list[int] = []

    async def work() -> None:
        async with client.consumer(topic, "s", type=type, ack_timeout_s=timeout_s) as consumer:
            while len(handled) < count:
                message = await consumer.receive(timeout_s)
                if message is None:
                    return
                handled.append(message.offset)
                await asyncio.sleep(0.01 * workers)
                consumer.ack_nowait(message)
            await consumer.flush()

    await asyncio.gather(*(work() for _ in range(workers)))
    assert Counter(handled) == Counter(range(count)), [o for o, n in Counter(handled).items() if n > 1]
    assert type == "shared" or handled == list(range(count))


async def test_p35_what_a_stuck_consumer_holds_is_others_to_have(client: stele.Client) -> None:
    topic = await topic_with(client, *(b"%d" % i for i in range(20)))
    async with client.consumer(topic, "s", ack_timeout_s=0.5, credit=20) as stuck:
        assert await stuck.receive(RECEIVE_S) is not None
        got: set[int] = set()
        async with client.consumer(topic, "s", ack_timeout_s=5.0) as other:
            while len(got) < 20:
                message = await other.receive(RECEIVE_S)
                assert message is not None
                got.add(message.offset)
                await other.ack(message)
