"""ZooKeeper's content is lost under a real cluster and put back from a copy: nothing acknowledged is lost, no id is given twice."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import stele
from tests.fault.explained import COMMAND, command
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=3, brokers=2)


async def on_zookeeper(cluster: ClusterUnderTest, *words: str, status: int = 0) -> str:
    """What a command prints that asks no nameserver: with ``-o json``, that alone."""
    line = [COMMAND, "metadata", *words, "--dir", str(cluster.local.directory)]
    ran = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=120)
    assert ran.returncode == status, f"{line}: {ran.returncode} {ran.stdout} {ran.stderr}"
    return ran.stdout if "json" in words else ran.stdout + ran.stderr


async def wipe(cluster: ClusterUnderTest) -> None:
    """Everything is stopped; ZooKeeper comes back with nothing, and alone."""
    await asyncio.to_thread(cluster.local.down)
    shutil.rmtree(cluster.local.zookeeper.directory / "data")
    await cluster.start("zk1")


async def whole(cluster: ClusterUnderTest, client: stele.Client) -> None:
    await eventually(lambda: is_healthy(client), within_s=60, every_s=0.2, describe=cluster.describe)


async def send(client: stele.Client, topic: str, values: range) -> None:
    async with client.producer(topic) as producer:
        await asyncio.gather(*(producer.send(b"%d" % n, partition=n % 4) for n in values))


async def receive(consumer: Any, count: int) -> list[int]:
    got = []
    for _ in range(count):
        message = await consumer.receive(30)
        assert message is not None, f"{len(got)} of {count} came"
        got.append(int(message.value))
        await consumer.ack(message)
    return got


async def test_what_was_acknowledged_is_there_once_after_zookeepers_content_was_lost(
    cluster: ClusterUnderTest, tmp_path: Path
) -> None:
    copy = str(tmp_path / "stele.json")
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("kept/t", partitions=4, replication=3)
        await send(client, "kept/t", range(200))
        async with client.consumer("kept/t", "s", type="exclusive", start="earliest") as consumer:
            assert sorted(await receive(consumer, 200)) == list(range(200))
        assert json.loads(await on_zookeeper(cluster, "check", "-o", "json")) == []
        assert "in " + copy in await on_zookeeper(cluster, "export", copy)
        topic_id = (await client.admin.describe_topic("kept/t")).id
        await send(client, "kept/t", range(200, 300))
    await wipe(cluster)
    assert "there is no cluster" in await on_zookeeper(cluster, "check", status=1)
    assert "nothing was changed" in await on_zookeeper(cluster, "import", copy, "--dry-run")
    assert "imported" in await on_zookeeper(cluster, "import", copy, "--yes")
    await cluster.up()
    async with cluster.connect(timeout_s=60) as client:
        await whole(cluster, client)
        async with client.consumer("kept/t", "s", type="exclusive") as consumer:
            assert sorted(await receive(consumer, 100)) == list(range(200, 300))
            await send(client, "kept/t", range(300, 320))
            assert sorted(await receive(consumer, 20)) == list(range(300, 320)), "nothing comes twice"
        async with client.consumer("kept/t", "all", type="exclusive", start="earliest") as consumer:
            assert sorted(await receive(consumer, 320)) == list(range(320))
        after = await client.admin.create_topic("kept/after", partitions=1)
        assert after.id > topic_id
        await whole(cluster, client)
        assert json.loads(await on_zookeeper(cluster, "check", "-o", "json")) == []
        # A copy of before is refused: something newer would be lost.
        said = await on_zookeeper(cluster, "import", copy, "--yes", status=1)
        assert "topics/kept/after" in said
        await send(client, "kept/after", range(0, 40, 4))


async def test_a_topic_that_is_newer_than_the_copy_is_adopted_with_its_messages(
    cluster: ClusterUnderTest, tmp_path: Path
) -> None:
    copy = str(tmp_path / "stele.json")
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("older/t", partitions=4, replication=3)
        await on_zookeeper(cluster, "export", copy)
        newer = await client.admin.create_topic("newer/t", partitions=4, replication=3, retention_ms=10**9)
        await send(client, "newer/t", range(100))
        async with client.consumer("newer/t", "s", type="exclusive", start="earliest") as consumer:
            await receive(consumer, 40)
        groups = {p.group for p in await client.admin.list_partitions("newer/t")}
    await wipe(cluster)
    await on_zookeeper(cluster, "import", copy, "--yes")
    await cluster.up()
    async with cluster.connect(timeout_s=60) as client:
        other = await client.admin.create_topic("older/other", partitions=2)
        assert other.id > newer.id, "an id is given out once"
        assert {p.group for p in await client.admin.list_partitions("older/other")}.isdisjoint(groups)
        orphans = json.loads(await command(cluster, "store", "orphans", "ls", "-o", "json"))
        assert {(o["topic"], o["topic_id"], o["group"]) for o in orphans} == {("newer/t", newer.id, g) for g in groups}
        assert "4 partitions" in await command(cluster, "store", "orphans", "adopt", "newer/t")
        assert json.loads(await command(cluster, "store", "orphans", "ls", "-o", "json")) == []
        adopted = await client.admin.describe_topic("newer/t")
        assert (adopted.id, adopted.partitions, adopted.replication, adopted.retention_ms) == (newer.id, 4, 3, 10**9)
        await whole(cluster, client)
        async with client.consumer("newer/t", "all", type="exclusive", start="earliest") as consumer:
            assert sorted(await receive(consumer, 100)) == list(range(100))
        await send(client, "newer/t", range(100, 140))
        async with client.consumer("newer/t", "s", type="exclusive") as consumer:
            left = await receive(consumer, 100)
        assert set(left) >= set(range(100, 140)), "the subscription goes on where it was"
        assert len(set(left)) == 100
        said = await command(cluster, "store", "orphans", "adopt", "newer/t", status=1)
        assert "no store reports an orphan of newer/t" in said
