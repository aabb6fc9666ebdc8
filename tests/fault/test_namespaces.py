"""Namespaces that come and go, on real processes."""

from __future__ import annotations

import json

from tests.fault.explained import command
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=1, brokers=2)


async def test_a_namespace_that_comes_back_is_served_by_the_brokers_that_knew_the_former_one(
    cluster: ClusterUnderTest,
) -> None:
    """Brokers believe in no owner epoch below one that they have seen."""
    async with cluster.connect(timeout_s=30) as client:
        for number in range(2):
            await command(cluster, "namespace", "create", "shop", "--bundles", "4", "--replication", "1")
            await client.admin.create_topic("shop/t", partitions=4)
            async with client.producer("shop/t") as producer:
                for n in range(8):
                    await producer.send(f"{number}-{n}".encode(), partition=n % 4)
            async with client.consumer("shop/t", "s", type="exclusive") as consumer:
                seen = {(await consumer.receive(10)).value.decode() for _ in range(8)}  # type: ignore[union-attr]
            assert seen == {f"{number}-{n}" for n in range(8)}
            said = await command(cluster, "namespace", "rm", "shop", "--yes", status=1)
            assert "has 1 topic" in said
            said = await command(cluster, "namespace", "set", "shop", "--retention", "7d")
            assert "new topics have 1 replica, and messages are kept for 7d" in said
            listed = json.loads(await command(cluster, "namespace", "ls", "-o", "json"))
            assert [(n["namespace"], n["topics"], n["bundles"]) for n in listed] == [("shop", 1, 4)]
            await client.admin.delete_topic("shop/t")
            assert "removed" in await command(cluster, "namespace", "rm", "shop", "--yes")
            assert not await client.admin.list_namespaces()

            async def released() -> bool:
                return not any(b.bundles for b in await client.admin.list_brokers())

            await eventually(released, within_s=10, describe=cluster.describe)
        assert "there is no namespace shop" in await command(cluster, "namespace", "info", "shop", status=1)
