"""Bytes change on the disks of a whole cluster: what one replica still has is read, and had back by the others."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stele
from stele.health import judge
from stele.services.errors import MessagesLost
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

DATANODES = ("dn1", "dn2", "dn3")
COUNT = 400  # of 8 KiB: what a replica has in memory are the newest of them
SETTINGS = {
    "datanode": {
        "segment_bytes": "512KiB",
        "entry_bytes_max": "64KiB",
        "election_timeout_min_s": "0.5",
        "election_timeout_max_s": "1",
        "scrub_interval_s": "1",
        "scrub_bytes_per_s": "16MiB",
    }
}

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1, settings=SETTINGS)
_number = itertools.count(1)


def value(number: int) -> bytes:
    return b"<message %06d>" % number + bytes(8 * 1024)


async def filled(client: stele.Client, replication: int = 3) -> tuple[str, int]:
    """A topic of one partition, with its group."""
    topic = f"damage/t{next(_number)}"
    await client.admin.create_topic(topic, 1, replication)
    async with client.producer(topic, send_timeout_s=60) as producer:
        for number in range(COUNT):
            await producer.send(value(number))
    [partition] = await client.admin.list_partitions(topic)
    return topic, partition.group


def segments(cluster: ClusterUnderTest, name: str, group: int) -> list[Path]:
    return sorted((cluster.local.directory / "data" / name / "groups" / str(group)).glob("*.seg"))


def flip(cluster: ClusterUnderTest, name: str, group: int, number: int) -> None:
    """One byte of a message that stands in a sealed segment."""
    for path in segments(cluster, name, group)[:-1]:
        at = path.read_bytes().find(value(number)[:16])
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + 4)
                file.write(b"\xff")
            return
    raise AssertionError(f"message {number} is in no sealed segment of {name}")


def is_stored(cluster: ClusterUnderTest, name: str, group: int) -> bool:
    stored = b"".join(path.read_bytes() for path in segments(cluster, name, group))
    return all(value(number)[:16] in stored for number in range(COUNT))


async def read(client: stele.Client, topic: str, subscription: str) -> list[int]:
    async with client.consumer(topic, subscription, type="exclusive") as consumer:
        offsets = []
        while len(offsets) < COUNT:
            message = await consumer.receive(60)
            assert message is not None, offsets[-3:]
            assert message.value == value(message.offset)
            offsets.append(message.offset)
    return offsets


async def offset_of_next(consumer: stele.Consumer) -> int:
    message = await consumer.receive(60)
    assert message is not None
    return message.offset


async def forget_what_is_in_memory(cluster: ClusterUnderTest) -> None:
    await cluster.kill("br1")
    await cluster.start("br1")


async def mended(cluster: ClusterUnderTest, client: stele.Client, topic: str, group: int) -> None:
    async def is_whole() -> bool:
        [partition] = await client.admin.list_partitions(topic)
        assert [r.problem for r in partition.replicas] == ["", "", ""]
        assert {r.state for r in partition.replicas} <= {"leader", "follower"}
        for name in DATANODES:
            assert is_stored(cluster, name, group), name
        return True

    await eventually(is_whole, within_s=90, every_s=0.3, describe=cluster.describe)


async def test_p39_a_replica_that_starts_on_damage_is_mended(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic, group = await filled(client)
        for at, name in enumerate(DATANODES):
            await cluster.kill(name)
            flip(cluster, name, group, 10 + at)
            await cluster.start(name)
            await forget_what_is_in_memory(cluster)
            assert await read(client, topic, f"after-{name}") == list(range(COUNT))
            await mended(cluster, client, topic, group)


async def test_p39_damage_in_different_places_of_all_copies_loses_nothing(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic, group = await filled(client)
        for name in DATANODES:
            await cluster.kill(name)
        for at, name in enumerate(DATANODES):
            for number in (10 + at, 50 + at, 53 + at, 120 + at):
                flip(cluster, name, group, number)
        await cluster.up()
        assert await read(client, topic, "s") == list(range(COUNT))
        await mended(cluster, client, topic, group)
        async with client.producer(topic, send_timeout_s=60) as producer:
            assert (await producer.send(b"more")).offset == COUNT


async def test_p39_what_no_copy_holds_is_an_error_that_names_it_and_may_be_skipped(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic, group = await filled(client, replication=1)
        [partition] = await client.admin.list_partitions(topic)
        [replica] = partition.replicas
        [name] = [s.name for s in await client.admin.list_stores() if s.store_id == replica.store_id]
        await cluster.kill(name)
        flip(cluster, name, group, 20)
        await cluster.start(name)
        await forget_what_is_in_memory(cluster)
        consumer = client.consumer(topic, "careful", type="exclusive")
        assert [await offset_of_next(consumer) for _ in range(20)] == list(range(20))
        with pytest.raises(MessagesLost) as lost:
            await offset_of_next(consumer)
        await consumer.close()
        facts = lost.value.facts
        assert (facts["topic"], facts["partition"], facts["first"], facts["last"]) == (topic, "0", "20", "20")

        async with client.consumer(topic, "bold", type="exclusive", on_damage="skip") as bold:
            offsets = []
            while len(offsets) < COUNT - 1:
                message = await bold.receive(60)
                assert message is not None
                offsets.append(message.offset)
            assert offsets == [n for n in range(COUNT) if n != 20]
            assert bold.skipped == 1

        async def health_names_it() -> bool:
            admin = client.admin
            checks = judge(
                await admin.cluster(),
                await admin.list_stores(),
                await admin.list_brokers(),
                await admin.list_partitions(topic),
            )
            assert any(topic in c.detail and "damaged" in c.detail for c in checks if not c.ok), checks
            return True

        await eventually(health_names_it, within_s=30, every_s=0.2, describe=cluster.describe)
        done = await asyncio.to_thread(consume_all, cluster, topic, "--skip-damaged", "--timeout", "20")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"<message ") == COUNT - 1
        assert b"skipped 1 message that could be read from no replica" in done.stderr
        refused = await asyncio.to_thread(consume_all, cluster, topic, "--subscription", "two")
        assert refused.returncode == 1
        assert b"messages 20 to 20 of " + topic.encode() in refused.stderr
        assert b"Traceback" not in refused.stderr
        await client.admin.delete_topic(topic)


def consume_all(cluster: ClusterUnderTest, topic: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(Path(sys.executable).with_name("stele")), "consume", topic, "--server", cluster.bootstrap]
    subscription = [] if "--subscription" in options else ["--subscription", "one"]
    return subprocess.run([*command, *subscription, *options], capture_output=True, timeout=90, env=dict(os.environ))
