"""More partitions for a topic under load: nothing is lost, no send fails, and who was connected before uses the new ones."""

from __future__ import annotations

import asyncio
import json

import pytest

import stele
from stele.routing import REFRESH_INTERVAL_S
from tests.fault.explained import command
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=3, datanodes=4, brokers=2)


class Flow:
    """Producers with keys, a consumer that begins at the end, and one that reads everything in the end."""

    def __init__(self, client: stele.Client, topic: str) -> None:
        self._client, self._topic = client, topic
        self.sent: dict[bytes, tuple[int, int]] = {}  # value → partition and offset
        self.failed: list[BaseException] = []
        self.got: set[bytes] = set()
        self.longest_s = 0.0
        self._stopped = False

    async def produce(self, name: str) -> None:
        now_s = asyncio.get_running_loop().time
        async with self._client.producer(self._topic, linger_ms=1) as producer:
            number = 0
            while not self._stopped:
                value, begun_s = b"%s-%d" % (name.encode(), number), now_s()
                number += 1
                try:
                    result = await producer.send(value, key=value)
                except stele.SteleError as e:
                    self.failed.append(e)
                else:
                    self.sent[value] = (result.partition, result.offset)
                    self.longest_s = max(self.longest_s, now_s() - begun_s)

    async def consume(self, consumer: stele.Consumer) -> None:
        async for message in consumer:
            self.got.add(message.value)
            consumer.ack_nowait(message)

    @property
    def used(self) -> set[int]:
        return {partition for partition, _ in self.sent.values()}

    def stop(self) -> None:
        self._stopped = True

    async def read_back(self) -> list[tuple[bytes, tuple[int, int]]]:
        """All that is stored."""
        found = []
        async with self._client.consumer(self._topic, "read-back", type="exclusive", credit=10_000) as consumer:
            while (message := await consumer.receive(2.0)) is not None:
                found.append((message.value, (message.partition, message.offset)))
        return found


async def test_a_topic_grows_under_load_while_the_leading_nameserver_is_killed(cluster: ClusterUnderTest) -> None:
    topic = "fault/grows"
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic(topic, partitions=4, replication=3)
        flow = Flow(client, topic)
        async with client.consumer(topic, "latest", start="latest") as consumer:
            consuming = asyncio.create_task(flow.consume(consumer))
            producing = [asyncio.create_task(flow.produce(f"p{i}")) for i in range(16)]
            await eventually(lambda: flow.used == set(range(4)), within_s=20)
            growing = asyncio.create_task(command(cluster, "topic", "alter", topic, "-p", "12", "--wait"))
            leader = (await client.admin.cluster()).leader
            await cluster.kill(leader)
            assert "altered" in await growing
            await eventually(lambda: flow.used == set(range(12)), within_s=20, describe=cluster.describe)
            await cluster.start(leader)
            flow.stop()
            await asyncio.gather(*producing)
            assert not flow.failed, flow.failed[:3]
            await eventually(lambda: flow.got == set(flow.sent), within_s=30, describe=cluster.describe)
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
        stored = await flow.read_back()
        assert dict(stored) == flow.sent
        assert len(stored) == len(flow.sent), "some are stored twice"
        print(f"{len(flow.sent)} messages, none failed, none lost; the slowest took {flow.longest_s:.2f} s")
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)


async def test_who_was_connected_before_uses_the_new_partitions_within_a_refresh(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("fault/grown", partitions=2, replication=3)
        producer, consumer = client.producer("fault/grown"), client.consumer("fault/grown", "s", start="latest")
        await consumer.open()
        await producer.send(b"before", partition=1)
        altered = await client.admin.alter_topic("fault/grown", partitions=4)
        steps = [o.step async for o in client.admin.altering(altered, 30)]
        assert all("new partitions led" in step for step in steps)
        shown_s = asyncio.get_running_loop().time()

        async def both_use_it() -> bool:
            try:
                await producer.send(b"after", partition=3)
            except stele.PartitionNotFound:
                return False
            return consumer.active_partitions == [0, 1, 2, 3]

        await eventually(both_use_it, within_s=REFRESH_INTERVAL_S + 3, describe=cluster.describe)
        print(f"used after {asyncio.get_running_loop().time() - shown_s:.2f} s")
        values = [(await consumer.receive(10)).value for _ in range(2)]  # type: ignore[union-attr]
        assert sorted(values) == [b"after", b"before"]
        await producer.close()
        await consumer.close()


async def test_the_command_refuses_fewer_and_lists_what_is_under_way(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("fault/fewer", partitions=3, replication=3)
        said = await command(cluster, "topic", "alter", "fault/fewer", "--partitions", "2", status=2)
        assert "partitions: fault/fewer has 3, and none is taken away" in said
        said = await command(cluster, "topic", "alter", "fault/fewer", "-p", "5", "-o", "json")
        altered = json.JSONDecoder().raw_decode(said)[0]
        assert altered["growing_to"] == 5 or altered["partitions"] == 5
        said = await command(cluster, "topic", "alter", "fault/fewer", "-p", "5", "--wait")
        assert "fault/fewer: altered" in said
        assert "5 partitions, 3 replicas each" in await command(cluster, "topic", "alter", "fault/fewer", "-p", "5")
        with pytest.raises(stele.TopicReplaced):
            await client.admin.alter_topic("fault/fewer", partitions=6, topic_id=altered["id"] + 1)
