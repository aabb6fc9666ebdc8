"""Brokers as processes, with real nameservers, datanodes and ZooKeeper around them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import pytest

import stele
from stele.local.processes import ProcessState
from stele.services.errors import NotOwner
from stele.services.pb import broker_pb2_grpc
from tests.integration.broker.cluster import Producer, batch
from tests.support.cluster import ClusterUnderTest, cluster, cluster_fixture  # noqa: F401
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)

PARTITIONS = 4


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:  # noqa: F811
    async with cluster.connect() as client:
        yield client


async def owners(client: stele.Client, topic: str) -> dict[int, str]:
    return {p.partition: p.broker for p in await client.admin.list_partitions(topic)}


async def topic_spread_over_both(client: stele.Client, topic: str) -> None:
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)

    async def spread() -> bool:
        found = set((await owners(client, topic)).values())
        return "" not in found

    await eventually(spread, 20)


async def stored(client: stele.Client, topic: str, subscription: str, count: int) -> list[bytes]:
    """The first ``count`` messages, and whatever comes within a moment after them."""
    values: list[bytes] = []
    async with client.consumer(topic, subscription, start="earliest") as consumer:
        while (message := await consumer.receive(timeout_s=20 if len(values) < count else 0.5)) is not None:
            values.append(message.value)
            consumer.ack_nowait(message)
        await consumer.flush()
    return values


async def test_r5_10_a_paused_broker_process_wakes_up(cluster: ClusterUnderTest, client: stele.Client) -> None:  # noqa: F811
    topic = "fenced/orders"
    await topic_spread_over_both(client, topic)
    partition, paused = 0, (await owners(client, topic))[0]
    address = next(b.member.endpoint for b in await client.admin.list_brokers() if b.name == paused and b.member)
    # A channel without keepalive: what is written to the paused broker lies in its socket until it wakes up.
    async with grpc.aio.insecure_channel(address) as channel:
        call = broker_pb2_grpc.BrokerStub(channel).Produce()  # type: ignore[no-untyped-call]
        producer = Producer(call)
        await producer.begin()
        assert await producer.offset(await producer.send_batch(batch("before"), partition, topic)) == 0
        await cluster.pause(paused)
        try:
            late = await producer.send_batch(batch("too late", sequence=1), partition, topic)

            async def moved() -> bool:
                return (await owners(client, topic))[partition] not in ("", paused)

            await eventually(moved, 30, 0.2, cluster.describe)
            async with client.producer(topic, send_timeout_s=30) as other:
                assert (await other.send(b"after", partition=partition)).offset == 1
        finally:
            await cluster.resume(paused)
        assert isinstance(await producer.error(late), NotOwner)
        producer.close()
    assert await stored(client, topic, "check", 2) == [b"before", b"after"]


async def test_a_drained_broker_hands_over_and_nobody_notices(cluster: ClusterUnderTest, client: stele.Client) -> None:  # noqa: F811
    topic = "drained/orders"
    await topic_spread_over_both(client, topic)
    victim = (await owners(client, topic))[0]
    stop = asyncio.Event()
    sent: list[bytes] = []
    received: list[bytes] = []

    async def produce() -> None:
        async with client.producer(topic, linger_ms=2, send_timeout_s=30) as producer:
            answers = []
            while not stop.is_set():
                sent.append(f"{len(sent)}".encode())
                answers.append(await producer.enqueue(sent[-1], partition=len(sent) % PARTITIONS))
                await asyncio.sleep(0.005)
            for answer in answers:
                await answer

    async def consume() -> None:
        async with client.consumer(topic, "all", type="shared", start="earliest") as consumer:
            async for message in consumer:
                received.append(message.value)
                consumer.ack_nowait(message)

    producing, consuming = asyncio.create_task(produce()), asyncio.create_task(consume())
    await eventually(lambda: len(received) > 50, 20, describe=cluster.describe)
    await cluster.kill(victim, signal.SIGTERM)

    def ended() -> bool:
        return all(p.state != ProcessState.RUNNING for p in cluster.local.status() if p.name == victim)

    await eventually(ended, 20, 0.1)
    before = len(sent)
    await eventually(lambda: len(sent) > before + 50, 20)
    stop.set()
    await asyncio.wait_for(producing, 40)
    await eventually(lambda: len(set(received)) == len(sent), 20, describe=lambda: (len(received), len(sent)))
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    log = cluster.local.log_path(victim).read_text()
    assert '"bundles_handed_over", "still_owned": 0' in log or '"still_owned": 0, "event": "bundles_handed_over"' in log
    again = await stored(client, topic, "check", len(sent))
    assert sorted(again) == sorted(sent), "each message is stored exactly once"


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_acknowledged_messages_survive_the_loss_of_a_broker(
    cluster: ClusterUnderTest,  # noqa: F811
    client: stele.Client,
    how: str,
) -> None:
    topic = f"lost-{how}/orders"
    await topic_spread_over_both(client, topic)
    victim = (await owners(client, topic))[0]
    async with client.producer(topic, send_timeout_s=40) as producer:
        for n in range(40):
            await producer.send(f"m{n}".encode(), partition=0)
        async with client.consumer(topic, "s", start="earliest") as consumer:
            first = [await consumer.receive(20) for _ in range(20)]
            for message in first:
                assert message is not None
                await consumer.ack(message)
            await (cluster.kill if how == "kill" else cluster.pause)(victim)
            await producer.send(b"m40", partition=0)
            rest = []
            while len(rest) < 21 and (message := await consumer.receive(30)) is not None:
                rest.append(message.value)
                await consumer.ack(message)
    acked = [m.value for m in first if m is not None]
    assert set(acked) | set(rest) == {f"m{n}".encode() for n in range(41)}
    assert not set(acked) & set(rest), "what was confirmed is not delivered again"
    await (cluster.start if how == "kill" else cluster.resume)(victim)
