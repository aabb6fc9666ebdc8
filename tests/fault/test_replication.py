"""Another replication of a topic under load, either way: nothing is lost, no send fails, and whoever leads goes on."""

from __future__ import annotations

import pytest

import stele
from tests.fault.explained import command
from tests.fault.loaded import under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=3, datanodes=4, brokers=2)


async def replicas(client: stele.Client, topic: str) -> set[int]:
    """How many of each partition count."""
    counts = set()
    for p in await client.admin.list_partitions(topic):
        in_order = [r for r in p.replicas if r.state in ("leader", "follower")]
        counts.add(len(in_order) if len(in_order) == len(p.replicas) else 0)
    return counts


async def test_a_topics_replication_rises_and_falls_under_load_while_the_leading_nameserver_is_killed(
    cluster: ClusterUnderTest,
) -> None:
    async def change(client: stele.Client, topic: str) -> None:
        await command(cluster, "topic", "alter", topic, "--replication", "4")
        leader = (await client.admin.cluster()).leader
        await cluster.kill(leader)
        assert "altered" in await command(cluster, "topic", "alter", topic, "--replication", "4", "--wait")
        await cluster.start(leader)
        assert await replicas(client, topic) == {4}
        with pytest.raises(stele.NotEnoughStores, match="replication 5 needs 5 stores"):
            await client.admin.alter_topic(topic, replication=5)
        assert (await client.admin.describe_topic(topic)).replication == 4
        altered = await client.admin.alter_topic(topic, replication=2)
        steps = [o.step async for o in client.admin.altering(altered, 60)]
        assert all("of 4 partitions with 2 replicas" in step for step in steps)
        assert await replicas(client, topic) == {2}

        async def deleted() -> bool:
            held = sum(s.replicas for s in await client.admin.list_stores())
            return held == 2 * len(await client.admin.list_partitions(topic))

        await eventually(deleted, within_s=30, describe=cluster.describe)
        await command(cluster, "topic", "alter", topic, "-r", "3", "--wait")
        assert await replicas(client, topic) == {3}

    await under_load(cluster, change, messages=6_000, seconds=12.0)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)


async def test_fewer_replicas_are_those_of_a_store_that_is_away_first(cluster: ClusterUnderTest) -> None:
    async def change(client: stele.Client, topic: str) -> None:
        partitions = await client.admin.list_partitions(topic)
        stores = {s.name: s.store_id for s in await client.admin.list_stores()}
        away = max(stores, key=lambda name: sum(stores[name] in {r.store_id for r in p.replicas} for p in partitions))
        await cluster.kill(away)
        said = await command(cluster, "topic", "alter", topic, "-r", "2", "--wait", "--timeout", "60")
        assert "altered" in said
        for p in await client.admin.list_partitions(topic):
            assert stores[away] not in {r.store_id for r in p.replicas}
            assert len(p.replicas) == 2
        await cluster.start(away)

    await under_load(cluster, change)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)
