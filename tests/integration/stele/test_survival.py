"""A client outlives the processes it talks to: nothing acknowledged is lost, stored twice or out of order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import stele
from stele.errors import SendTimedOut
from stele.services.errors import Unreachable
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=3, brokers=2)
_numbers = itertools.count(1)
PARTITIONS = 2
RATE = 300.0
CAUGHT_UP_S = 60.0

Fault = Callable[[ClusterUnderTest, stele.Client, str], Awaitable[None]]


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as client:
        yield client


class Traffic:
    """Numbered messages sent at a steady rate, and a consumer that acknowledges what it gets."""

    def __init__(self, client: stele.Client, topic: str) -> None:
        self._client, self.topic = client, topic
        self.acked: dict[int, tuple[int, int]] = {}
        self.errors: list[BaseException] = []
        self.got: dict[tuple[int, int], int] = {}
        self._stop = asyncio.Event()

    async def send(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._client.producer(self.topic) as producer:
            for i in itertools.count():
                if self._stop.is_set():
                    break
                promise = await producer.enqueue(b"%d" % i)
                promise.add_done_callback(lambda p, i=i: self._answered(i, p))
                due_s = loop.time() + 1 / RATE
                await asyncio.sleep(due_s - loop.time())

    def _answered(self, i: int, promise: asyncio.Future[stele.SendResult]) -> None:
        if (error := promise.exception()) is not None:
            self.errors.append(error)
        else:
            self.acked[i] = (promise.result().partition, promise.result().offset)

    async def consume(self) -> None:
        async with self._client.consumer(self.topic, "s", type="failover") as consumer:
            async for message in consumer:
                self.got[message.partition, message.offset] = int(message.value)
                consumer.ack_nowait(message)

    async def during(self, fault: Callable[[], Awaitable[None]]) -> None:
        sending, consuming = asyncio.create_task(self.send()), asyncio.create_task(self.consume())
        try:
            await eventually(lambda: len(self.got) > 50, within_s=30)
            await fault()
            before = len(self.acked)
            await eventually(lambda: len(self.acked) > before + 50, within_s=30)
            self._stop.set()
            await asyncio.wait_for(sending, CAUGHT_UP_S)
            await eventually(lambda: len(self.got) >= len(self.acked), within_s=CAUGHT_UP_S)
        finally:
            for task in (sending, consuming):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def check(self) -> None:
        assert self.errors == []
        assert len(set(self.acked.values())) == len(self.acked)
        assert {i: self.got.get(where) for i, where in self.acked.items()} == {i: i for i in self.acked}
        assert len(set(self.got.values())) == len(self.got), "stored twice"
        for partition in range(PARTITIONS):
            stored = [self.got[where] for where in sorted(self.got) if where[0] == partition]
            assert stored == sorted(stored), "out of order"


async def kill_the_owner(cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
    (first, *_) = await client.admin.list_partitions(topic)
    await cluster.kill(first.broker)


async def pause_the_owner(cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
    (first, *_) = await client.admin.list_partitions(topic)
    await cluster.pause(first.broker)

    async def moved() -> bool:
        (now, *_) = await client.admin.list_partitions(topic)
        return now.broker not in ("", first.broker)

    await eventually(moved, within_s=30)
    await cluster.resume(first.broker)


async def kill_the_leader(cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
    names = {s.store_id: s.name for s in await client.admin.list_stores()}
    (first, *_) = await client.admin.list_partitions(topic)
    await cluster.kill(names[first.leader_store_id])


async def kill_every_nameserver(cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
    await asyncio.gather(cluster.kill("ns1"), cluster.kill("ns2"))


async def restart_zookeeper(cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
    await cluster.kill("zk1")
    await cluster.start("zk1")


@pytest.mark.parametrize(
    "fault",
    [kill_the_owner, pause_the_owner, kill_the_leader, kill_every_nameserver, restart_zookeeper],
    ids=lambda f: f.__name__,
)
async def test_nothing_is_lost_doubled_or_reordered(
    cluster: ClusterUnderTest, client: stele.Client, fault: Fault
) -> None:
    topic = f"it/s{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
    traffic = Traffic(client, topic)
    await traffic.during(lambda: fault(cluster, client, topic))
    traffic.check()


async def test_acknowledgements_survive_the_broker(cluster: ClusterUnderTest, client: stele.Client) -> None:
    topic = f"it/s{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=1, replication=3)
    async with client.producer(topic) as producer:
        await asyncio.gather(*(producer.send(b"%d" % i) for i in range(20)))
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        held = []
        for _ in range(20):
            message = await consumer.receive(20.0)
            assert message is not None
            held.append(message)
        await asyncio.gather(*(consumer.ack(m) for m in held[:10]))
        await kill_the_owner(cluster, client, topic)
        await asyncio.gather(*(consumer.ack(m) for m in held[10:15]))
        assert await consumer.receive(1.0) is None, "what the user holds does not come twice"
        (info,) = await client.admin.list_subscriptions(topic)
        assert (info.ack_floor, info.backlog) == (15, 5)
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        message = await consumer.receive(20.0)
        assert message is not None
        assert message.offset == 15


async def test_a_message_that_cannot_be_sent_fails_definitely_at_its_timeout(
    cluster: ClusterUnderTest, client: stele.Client
) -> None:
    topic = f"it/s{next(_numbers)}"
    await client.admin.create_topic(topic, partitions=1, replication=3)
    await asyncio.gather(cluster.kill("br1"), cluster.kill("br2"))
    async with client.producer(topic, send_timeout_s=1.0) as producer:
        with pytest.raises(SendTimedOut) as failed:
            await producer.send(b"x")
        assert failed.value.definite
        await cluster.up()

        async def accepted() -> bool:
            with contextlib.suppress(SendTimedOut):
                return (await producer.send(b"y")).offset == 0
            return False

        await eventually(accepted, within_s=30)


async def test_no_nameserver_at_all(cluster: ClusterUnderTest) -> None:
    with pytest.raises(Unreachable, match="no nameserver answered"):
        async with stele.connect("127.0.0.1:1", timeout_s=0.5):
            pass
