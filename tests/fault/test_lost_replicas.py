"""A replica's folder is gone, by a lost volume or a slip of the hand, from a real cluster."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

import stele
from stele.health import judge
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=3, brokers=1)

_number = itertools.count(1)


class Partition:
    """The only partition of a topic of its own, with the names of its stores."""

    def __init__(self, cluster: ClusterUnderTest, client: stele.Client) -> None:
        self.cluster, self.client = cluster, client
        self.topic = f"lost/t{next(_number)}"
        self.acked: dict[int, bytes] = {}

    async def create(self) -> None:
        await self.client.admin.create_topic(self.topic, partitions=1, replication=3)
        self.names = {s.store_id: s.name for s in await self.client.admin.list_stores()}
        self.group = (await self.now()).group

    async def now(self) -> stele.PartitionInfo:
        [partition] = await self.client.admin.list_partitions(self.topic)
        return partition

    async def leader(self) -> str:
        async def led() -> str:
            partition = await self.now()
            return self.names.get(next((r.store_id for r in partition.replicas if r.state == "leader"), 0), "")

        found = await eventually(led, within_s=20, describe=self.cluster.describe)
        assert found
        return found

    async def send(self, producer: stele.Producer, count: int) -> None:
        for _ in range(count):
            value = b"%d" % len(self.acked)
            receipt = await producer.send(value)
            assert receipt.offset not in self.acked, "an offset was given out twice"
            self.acked[receipt.offset] = value

    def folder(self, name: str) -> Path:
        return self.cluster.local.directory / "data" / name / "groups" / str(self.group)

    async def problems(self) -> str:
        admin = self.client.admin
        checks = judge(
            await admin.cluster(), await admin.list_stores(), await admin.list_brokers(), await admin.list_partitions()
        )
        return "; ".join(c.detail for c in checks if not c.ok)

    async def whole(self) -> None:
        await eventually(lambda: is_healthy(self.client), within_s=60, every_s=0.1, describe=self.cluster.describe)

    async def holds_what_was_acknowledged(self) -> None:
        got: dict[int, bytes] = {}
        async with self.client.consumer(self.topic, "check", type="exclusive", start="earliest") as consumer:
            while missing := self.acked.keys() - got.keys():
                message = await consumer.receive(20)
                assert message is not None, f"{len(missing)} messages were acknowledged and are lost"
                got[message.offset] = message.value
        assert {offset: got.get(offset) for offset in self.acked} == self.acked


async def test_p2_with_too_few_left_a_partition_waits_and_undoes_nothing(cluster: ClusterUnderTest) -> None:
    """Acknowledged by two; one of them loses its folder and the other dies: what is left could only begin anew."""
    async with cluster.connect(timeout_s=30) as client:
        partition = Partition(cluster, client)
        await partition.create()
        async with client.producer(partition.topic) as producer:
            await partition.send(producer, 20)
            leader = await partition.leader()
            lost, behind = [n for n in partition.names.values() if n != leader]
            await cluster.kill(behind)
            await partition.send(producer, 20)
        await cluster.kill(lost)
        await cluster.kill(leader)
        shutil.rmtree(partition.folder(lost))
        await cluster.start(lost)
        await cluster.start(behind)
        store_id = next(s for s, name in partition.names.items() if name == lost)
        said = f"store {store_id} lost its replica of {partition.topic}-0"

        async def is_said() -> bool:
            replicas = (await partition.now()).replicas
            return said in await partition.problems() and any((r.state, r.problem) == ("lost", said) for r in replicas)

        await eventually(is_said, within_s=30, describe=cluster.describe)
        async with client.producer(partition.topic, send_timeout_s=5) as producer:
            with pytest.raises(stele.SteleError):
                await producer.send(b"after")
        assert not any(r.state == "leader" for r in (await partition.now()).replicas)
        await cluster.start(leader)
        await partition.whole()
        async with client.producer(partition.topic) as producer:
            await partition.send(producer, 5)
        await partition.holds_what_was_acknowledged()


async def test_p2_a_folder_that_vanishes_is_filled_again_and_counts(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        partition = Partition(cluster, client)
        await partition.create()
        async with client.producer(partition.topic) as producer:
            await partition.send(producer, 20)
            leader = await partition.leader()
            lost, other = [n for n in partition.names.values() if n != leader]
            shutil.rmtree(partition.folder(lost))
            await partition.send(producer, 20)

            async def is_back() -> bool:
                return partition.folder(lost).exists() and await is_healthy(client)

            await eventually(is_back, within_s=60, every_s=0.1, describe=cluster.describe)
            await cluster.kill(other)  # from here on it is needed
            await partition.send(producer, 20)
            await cluster.start(other)
        await partition.whole()
        await partition.holds_what_was_acknowledged()


async def test_p2_an_older_folder_in_the_place_of_a_newer_one_is_filled_before_it_counts(
    cluster: ClusterUnderTest,
) -> None:
    """Its store has left and joined again meanwhile; what it acknowledged since is not in what was put back."""
    async with cluster.connect(timeout_s=30) as client:
        partition = Partition(cluster, client)
        await partition.create()
        async with client.producer(partition.topic) as producer:
            await partition.send(producer, 20)
            leader = await partition.leader()
            lost, other = [n for n in partition.names.values() if n != leader]
            await cluster.kill(lost)
            away = partition.folder(lost).with_name("away")
            partition.folder(lost).rename(away)
            await cluster.start(lost)
            await partition.whole()
            await partition.send(producer, 20)
            await cluster.kill(lost)
            shutil.rmtree(partition.folder(lost))
            away.rename(partition.folder(lost))
            await cluster.start(lost)
            await partition.send(producer, 1)
            await partition.whole()
            await cluster.kill(other)  # from here on it is needed
            await partition.send(producer, 20)
            await cluster.start(other)
        await partition.whole()
        await partition.holds_what_was_acknowledged()
