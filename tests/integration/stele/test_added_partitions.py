"""Subscriptions of a topic that is given more partitions: what is sent to those reaches every one that was there."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import stele
import stele.client
from stele.consumer import Consumer
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)
_numbers = itertools.count(1)
RECEIVE_S = 20.0
QUIET_S = 1.0


async def new_topic(client: stele.Client, partitions: int) -> str:
    topic = f"it/added{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=partitions, replication=3)
    return topic


async def grow(client: stele.Client, topic: str, partitions: int) -> None:
    altered = await client.admin.alter_topic(topic, partitions=partitions)
    async for _ in client.admin.altering(altered, 30):
        pass
    assert (await client.admin.describe_topic(topic)).partitions == partitions


async def send(cluster: ClusterUnderTest, topic: str, partition: int, value: bytes) -> None:
    """By somebody who knows what there is now."""
    async with cluster.connect() as client, client.producer(topic) as producer:
        await producer.send(value, partition=partition)


async def test_a_subscription_that_nobody_uses_at_the_moment_misses_nothing_of_a_new_partition(
    cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(kind: type[Consumer]) -> None:
        monkeypatch.setattr(stele.client, "Consumer", kind)
        async with cluster.connect() as client:
            topic = await new_topic(client, 2)
            await send(cluster, topic, 1, b"before it began")
            async with client.consumer(topic, "s", start="latest"):
                pass
            await grow(client, topic, 4)
            await send(cluster, topic, 1, b"one")
            await send(cluster, topic, 3, b"three")
        async with cluster.connect() as client, client.consumer(topic, "s", start="latest") as consumer:
            with promise("nothing sent to a new partition is lost to a subscription that was there"):
                got = [await consumer.receive(RECEIVE_S if i < 1 else 3.0) for i in range(2)]
                assert sorted(m.value for m in got if m is not None) == [b"one", b"three"]
            assert await consumer.receive(QUIET_S) is None

    await holds_and_mutant_fails(scenario, Consumer, "growth.BeginsAsItWasTold")


async def test_a_new_subscription_begins_at_the_end_of_every_partition(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        topic = await new_topic(client, 1)
        await grow(client, topic, 3)
        for partition in range(3):
            await send(cluster, topic, partition, b"before")
        consumers = [client.consumer(topic, "s", start="latest") for _ in range(3)]
        await asyncio.gather(*(c.open() for c in consumers))
        assert sorted(p for c in consumers for p in c.began_at) == [0, 1, 2]
        assert await consumers[0].receive(QUIET_S) is None
        for partition in range(3):
            await send(cluster, topic, partition, b"after")
        got = [m for c in consumers for m in [await c.receive(5.0) for _ in range(3)] if m is not None]
        assert [m.value for m in got] == [b"after"] * 3
        for c in consumers:
            await c.close()


async def test_a_subscription_is_made_on_new_partitions_by_asking_for_it_again(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        topic = await new_topic(client, 1)
        await send(cluster, topic, 0, b"before")
        assert await client.admin.create_subscription(topic, "s", "latest")
        await grow(client, topic, 2)
        await send(cluster, topic, 1, b"new")
        assert await client.admin.create_subscription(topic, "s", "latest")
        backlog = {s.partition: s.backlog for s in await client.admin.list_subscriptions(topic)}
        assert backlog == {0: 0, 1: 1}
        assert not await client.admin.create_subscription(topic, "s", "latest")
        await grow(client, topic, 3)
        await send(cluster, topic, 2, b"newer")
        assert await client.admin.seek_subscription(topic, "s", "earliest") == {0: 0, 1: 0, 2: 0}
        await client.admin.delete_subscription(topic, "s")
        assert not await client.admin.list_subscriptions(topic)


async def test_what_waits_for_a_consumer_stays_within_its_credit_when_a_topic_grows(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        topic = await new_topic(client, 1)
        async with client.consumer(topic, "s", credit=10) as consumer, client.producer(topic) as producer:
            await grow(client, topic, 4)
            while len(consumer.active_partitions) < 4:  # noqa: ASYNC110 - a refresh away
                await asyncio.sleep(0.1)
            values = [b"%d" % i for i in range(200)]
            for i, value in enumerate(values):
                await producer.enqueue(value, partition=i % 4)
            await producer.flush()
            await asyncio.sleep(0.5)
            waiting = sum(p.buffer.buffered for p in consumer._partitions)
            assert waiting <= 10 + 3 * 2, "the first one has what it was given before"
            got = []
            for _ in values:
                message = await consumer.receive(RECEIVE_S)
                assert message is not None
                got.append(message.value)
                await consumer.ack(message)
            assert sorted(got) == sorted(values)
