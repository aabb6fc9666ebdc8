"""Retention in a whole cluster, with its parts killed: what is gone is gone everywhere, what is kept is read, consumers go on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from typing import Any

import stele
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

KIB = 1 << 10
MESSAGE_BYTES = 4 * KIB
RETENTION_BYTES = 512 * KIB
LOG_BYTES_MAX = 4 * RETENTION_BYTES  # its steps are snapshots and segments
CHUNK = 50
DATANODES = ("dn1", "dn2", "dn3")
SETTINGS = {
    "datanode": {
        "segment_bytes": "128KiB",
        "entry_bytes_max": "64KiB",
        "snapshot_bytes": "64KiB",
        "retention_check_s": "0.2",
        "election_timeout_min_s": "0.5",
        "election_timeout_max_s": "1",
    }
}

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2, settings=SETTINGS)
_number = itertools.count(1)


async def new_topic(client: stele.Client, partitions: int = 1, **retention: int) -> str:
    topic = f"kept/t{next(_number)}"
    await client.admin.create_topic(topic, partitions, 3, **retention)
    return topic


async def is_trimmed(client: stele.Client, topic: str) -> bool:
    """Every replica of every partition has been shortened, and to the same beginning."""
    for partition in await client.admin.list_partitions(topic):
        starts = {r.log_start for r in partition.replicas}
        assert len(partition.replicas) == 3
        assert len(starts) == 1, partition
        assert starts.pop() > 0, partition
        assert all(0 < r.log_bytes < LOG_BYTES_MAX for r in partition.replicas), partition
    return True


async def fill(ledger: Ledger, count: int) -> None:
    """Not all at once: what is stored between two snapshots is removed together."""
    for _ in range(0, count, CHUNK):
        await ledger.must_send(CHUNK, MESSAGE_BYTES)


async def trimmed(client: stele.Client, topic: str, cluster: ClusterUnderTest) -> None:
    await eventually(lambda: is_trimmed(client, topic), within_s=60, every_s=0.2, describe=cluster.describe)


def bytes_on_disk(cluster: ClusterUnderTest, name: str) -> int:
    """Of all segments of a datanode."""
    total = 0
    for path in (cluster.local.directory / "data" / name).rglob("*.seg"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


async def test_retention_by_bytes_frees_the_disk_of_every_replica(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client, 2, retention_bytes=RETENTION_BYTES)
        before = {name: bytes_on_disk(cluster, name) for name in DATANODES}
        ledger = Ledger(client, topic, partitions=2)
        written = 0
        for _ in range(4):
            await fill(ledger, 500)
            written += 500 * MESSAGE_BYTES
        await trimmed(client, topic, cluster)
        for name in DATANODES:
            grown = bytes_on_disk(cluster, name) - before[name]
            assert grown < 2 * LOG_BYTES_MAX < written, (name, grown, written)
        begins = await ledger.check(60, trimmed=True)
        kept = sum(max(values) + 1 - begins[p] for p, values in ledger.stored.items())
        assert kept * MESSAGE_BYTES >= 2 * RETENTION_BYTES, "more was removed than the retention allows"


async def test_retention_by_age_removes_what_is_old_and_nothing_else(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client, retention_ms=4_000)
        ledger = Ledger(client, topic)
        await ledger.must_send(200, MESSAGE_BYTES)

        async def all_gone() -> bool:
            [partition] = await client.admin.list_partitions(topic)
            return {r.log_start for r in partition.replicas} == {200}

        await eventually(all_gone, within_s=60, every_s=0.2, describe=cluster.describe)
        await client.admin.alter_topic(topic, retention_ms=0)  # from here on for ever
        await asyncio.sleep(1.0)  # until every replica has been told
        await ledger.must_send(50, MESSAGE_BYTES)
        await asyncio.sleep(6.0)
        assert await ledger.check(trimmed=True) == {0: 200}


async def test_consumers_whose_position_was_removed_go_on_from_what_is_kept(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client, retention_bytes=RETENTION_BYTES)
        ledger = Ledger(client, topic)
        await ledger.must_send(20, MESSAGE_BYTES)
        async with client.consumer(topic, "away", type="exclusive", credit=5) as consumer:
            for _ in range(3):
                await consumer.ack(await consumer.receive(10))
        async with client.consumer(topic, "slow", type="exclusive", credit=5) as slow:
            first = await slow.receive(10)
            assert first is not None
            assert first.offset == 0
            await fill(ledger, 900)
            await trimmed(client, topic, cluster)
            [partition] = await client.admin.list_partitions(topic)
            start, end = partition.log_start, partition.high_watermark
            offsets = await received(slow, end)
            assert [o for o in offsets if o >= start] == list(range(start, end)), "a kept message did not come"
            assert offsets == sorted(set(offsets))
            await slow.ack(first)  # gone, and no error
        async with client.consumer(topic, "away", type="exclusive") as consumer:
            assert consumer.began_at == {}
            assert await received(consumer, end) == list(range(start, end))
        [away] = [s for s in await client.admin.list_subscriptions(topic) if s.subscription == "away"]
        assert away.ack_floor >= start


async def received(consumer: stele.Consumer, end: int) -> list[int]:
    """Offsets up to the last below ``end``."""
    offsets = []
    while not offsets or offsets[-1] < end - 1:
        message = await consumer.receive(20)
        assert message is not None, offsets[-3:]
        offsets.append(message.offset)
    return offsets


async def test_a_datanode_that_was_dead_while_the_log_moved_on_serves_all_that_is_kept(
    cluster: ClusterUnderTest,
) -> None:
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client, 2, retention_bytes=RETENTION_BYTES)
        ledger = Ledger(client, topic, partitions=2)
        await ledger.must_send(40, MESSAGE_BYTES)
        await cluster.kill("dn3")
        await fill(ledger, 2_000)
        await cluster.start("dn3")
        await trimmed(client, topic, cluster)
        assert "snapshot_installed" in log_of(cluster, "dn3")
        for other in ("dn1", "dn2"):
            # Whoever leads now, dn3 or the one beside it: a majority is left only with dn3.
            await cluster.kill(other)
            await ledger.must_send(20, MESSAGE_BYTES)
            await ledger.check(60, trimmed=True)
            await cluster.start(other)


def log_of(cluster: ClusterUnderTest, name: str) -> str:
    return cluster.local.log_path(name).read_text(errors="replace")


async def test_trims_under_load_and_kills_lose_nothing_above_the_beginning(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=60) as client:
        topic = await new_topic(client, 2, retention_bytes=RETENTION_BYTES)
        ledger = Ledger(client, topic, partitions=2)
        done = asyncio.Event()

        async def produce() -> None:
            while not done.is_set():
                await ledger.send(CHUNK, MESSAGE_BYTES)

        producing = asyncio.create_task(produce())
        try:
            for name in ("dn1", "dn2", "dn3", "br1"):
                await asyncio.sleep(1.0)
                await cluster.kill(name)
                await asyncio.sleep(1.5)
                await cluster.start(name)
        finally:
            done.set()
            await asyncio.wait_for(producing, 90)
        await trimmed(client, topic, cluster)
        assert ledger.count > 500
        begins = await ledger.check(90, trimmed=True)
        assert min(begins.values()) > 0


async def test_the_command_sets_shows_and_alters_a_retention(cluster: ClusterUnderTest) -> None:
    topic = f"kept/t{next(_number)}"
    made = run(cluster, "topic", "create", topic, "--retention", "7d", "--retention-bytes", "512KiB")
    assert b"kept for 7d, up to 512.0 KiB per partition" in made.stderr
    shown = json.loads(run(cluster, "topic", "info", topic, "-o", "json").stdout)
    assert (shown["topic"]["retention_bytes"], shown["topic"]["retention_ms"]) == (512 * KIB, 7 * 86_400_000)
    assert b"7d" in run(cluster, "topic", "ls", "kept").stdout
    async with cluster.connect(timeout_s=30) as client:
        await fill(Ledger(client, topic), 1_000)
        await trimmed(client, topic, cluster)
        [partition] = await client.admin.list_partitions(topic)
    consumed = run(cluster, "consume", topic, "-S", "late", "--from", "3", "--count", "1", "-o", "json")
    assert consumed.stderr.decode().splitlines() == [
        f"offset 3 is no longer kept: partition 0 begins at {partition.log_start}"
    ]
    assert json.loads(consumed.stdout)["offset"] == partition.log_start
    moved = run(cluster, "subscription", "seek", topic, "late", "--to", "1")
    assert f"offset 1 is no longer kept: partition 0 begins at {partition.log_start}" in moved.stderr.decode()
    altered = run(cluster, "topic", "alter", topic, "--retention", "forever")
    assert b"kept up to 512.0 KiB per partition" in altered.stderr
    refused = run(cluster, "topic", "alter", topic, "--retention", "1ms", status=2)
    assert len(refused.stderr.splitlines()) == 1
    events = run(cluster, "events", "-o", "json").stdout.decode()
    assert any(json.loads(line)["kind"] == "topic_altered" for line in events.splitlines())


def run(cluster: ClusterUnderTest, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    env: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("STELE_")}
    env["STELE_DIR"] = str(cluster.local.directory)
    command = [sys.executable, "-m", "stele.cli.main", *arguments]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=60, check=False)
    assert ran.returncode == status, f"{arguments}: {ran.returncode}\n{ran.stdout.decode()}\n{ran.stderr.decode()}"
    return ran
