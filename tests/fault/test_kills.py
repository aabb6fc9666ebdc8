"""A real cluster under load: each part is killed or paused in turn, and the client's own record says that nothing was lost."""

from __future__ import annotations

import asyncio

import pytest

import stele
from stele.lab.checker import judge
from stele.lab.faults import Faults
from stele.lab.history import History
from stele.lab.load import Load
from tests.fault.loaded import PARTITIONS, new_topic, under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=3, datanodes=3, brokers=2)


@pytest.mark.parametrize("which", range(5))
async def test_a_fault_of_the_demonstration_loses_nothing(cluster: ClusterUnderTest, which: int) -> None:
    async def fault(client: stele.Client, topic: str) -> None:
        chosen = Faults(cluster.local, client, topic).all()[which]
        process = await chosen.hit()
        await asyncio.sleep(min(chosen.after_s, 4.0))
        await chosen.mend(process)

    await under_load(cluster, fault)


async def test_r5_9_a_killed_broker_is_named_by_no_assignment_and_comes_back(cluster: ClusterUnderTest) -> None:
    async def fault(client: stele.Client, topic: str) -> None:
        await cluster.kill("br1")

        async def reassigned() -> bool:
            return all(p.broker == "br2" for p in await client.admin.list_partitions(topic))

        await eventually(reassigned, within_s=10, describe=cluster.describe)

        async def gone() -> bool:
            return all(b.name != "br1" or not b.live for b in await client.admin.list_brokers())

        await eventually(gone, within_s=10, describe=cluster.describe)
        await cluster.start("br1")

        async def shared() -> bool:
            return {p.broker for p in await client.admin.list_partitions()} == {"br1", "br2"}

        await eventually(shared, within_s=20, describe=cluster.describe)

    await under_load(cluster, fault)


async def test_r4_3_a_cold_start_of_everything_keeps_everything(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client)
        history = History()
        load = Load(client, topic, history, 2_000, 100, 2.0, PARTITIONS)
        await load.produce(0, 1)
        for name in cluster.local.names():
            await cluster.kill(name)
        await cluster.up()
        consumer = asyncio.create_task(load.consume("s", "c1"))
        try:
            delivered = await load.all_delivered(lambda n: None)
            missing = sorted(str(place) for m, place in history.acked.items() if m not in history.delivered)
            assert delivered, f"{len(missing)} messages were acknowledged and not delivered: {missing[:20]}"
            await load.read_back(lambda n: None)
        finally:
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
    verdict = judge(history)
    assert verdict.holds, "\n".join(verdict.problems)
    assert verdict.acknowledged == 2_000


async def test_a_datanode_that_missed_messages_catches_up(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client)
        await cluster.kill("dn3")
        async with client.producer(topic) as producer:
            await asyncio.gather(*[await producer.enqueue(b"%d" % i, partition=i % PARTITIONS) for i in range(2_000)])
        await cluster.start("dn3")

        async def level() -> bool:
            partitions = await client.admin.list_partitions(topic)
            return all(r.high_watermark == 500 for p in partitions for r in p.replicas)

        await eventually(level, within_s=20, describe=cluster.describe)
