"""The reference pages that are made from code hold for a running cluster."""

from __future__ import annotations

import asyncio
import re
import urllib.request

from stele.services.coordination.records import decode
from stele.services.coordination.schema import PARENTS, TREE, Lifetime, ZnodeKind
from stele.services.coordination.session import Session
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.unit.layout.tree import ROOT

running_cluster = cluster_fixture(nameservers=1, datanodes=1, brokers=1)

REFERENCE = ROOT / "docs" / "reference"
TYPE = re.compile(r"^# TYPE (?P<name>stele_\w+) (?P<type>\w+)$", re.MULTILINE)
ROW = re.compile(r"^\| `(?P<name>stele_\w+)` \| (?P<type>\w+) \|", re.MULTILINE)


def scraped(endpoint: str) -> set[tuple[str, str]]:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        found = TYPE.findall(answer.read().decode())
    return {(name, kind) for name, kind in found if not name.endswith("_created")}


async def test_a_process_counts_what_the_page_of_metrics_says(cluster: ClusterUnderTest) -> None:
    sections = re.split(r"^## ", (REFERENCE / "metrics.md").read_text(), flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0].lower(): set(ROW.findall(section)) for section in sections}
    processes = [p for p in cluster.local.status() if p.role in told]
    assert {p.role for p in processes} == told.keys()
    for process in processes:
        assert await asyncio.to_thread(scraped, process.admin) == told[process.role]


async def test_what_goes_through_is_timed_at_each_step(cluster: ClusterUnderTest) -> None:
    """From ZooKeeper's answer over the disk to the acknowledgement of a consumer."""
    async with cluster.connect() as client:
        await client.admin.create_topic("reference/timed", partitions=1, replication=1)
        async with client.producer("reference/timed") as producer:
            await producer.send(b"x")
            await client.admin.create_subscription("reference/timed", "behind")
            await producer.send(b"y")
        async with client.consumer("reference/timed", "timed", start="earliest") as consumer:
            await consumer.ack(await consumer.receive())
            await consumer.flush()
        behind, _ = await client.admin.list_subscriptions("reference/timed")
        assert (behind.subscription, behind.backlog) == ("behind", 2)
        assert behind.lag_ms is not None
        assert 0 <= behind.lag_ms < 60_000
    processes = {p.role: p for p in cluster.local.status()}
    for role, names in {
        "nameserver": ("stele_zookeeper_operation_seconds", "stele_nameserver_lookup_seconds"),
        "datanode": ("stele_append_seconds", "stele_disk_sync_seconds"),
        "broker": ("stele_broker_append_seconds", "stele_broker_delivery_to_ack_seconds"),
    }.items():
        counts = await asyncio.to_thread(counted, processes[role].admin)
        assert all(counts[f"{name}_count"] >= 1 for name in names), counts
    assert counts["stele_subscription_backlog_messages"] == 2 + 1
    assert counts["stele_subscription_lag_seconds"] > 0


def counted(endpoint: str) -> dict[str, float]:
    """Samples summed over their labels."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("stele_")]
    sums: dict[str, float] = {}
    for line in lines:
        name, value = re.split(r"[{ ]", line)[0], float(line.rpartition(" ")[2])
        sums[name] = sums.get(name, 0.0) + value
    return sums


def kind_of(path: str) -> ZnodeKind | None:
    """The kind of node that stands at ``path``; a path without a name in it goes first (topics/alloc is no namespace)."""
    fits = [kind for kind in TREE if re.fullmatch(re.sub("<[^>]+>", "[^/]+", kind.path), path)]
    return min(fits, key=lambda kind: kind.path.count("<"), default=None)


async def test_zookeeper_holds_what_the_schema_says(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        await client.admin.create_topic("reference/orders", partitions=2, replication=1)
        await client.admin.create_topic("reference/deleted", partitions=1, replication=1)
        await client.admin.delete_topic("reference/deleted")
    session = Session(cluster.local.zookeeper_hosts, cluster.local.files.load().cluster, 10.0)
    await session.start(10.0)
    seen: set[str] = set()
    try:
        left = list(await session.children("") or [])
        while left:
            path = left.pop()
            left += [f"{path}/{child}" for child in await session.children(path) or []]
            node = await session.get(path)
            if node is None or path in PARENTS:
                continue
            kind = kind_of(path)
            assert kind is not None, path
            assert node.stat.is_ephemeral == (kind.lifetime is not Lifetime.PERSISTENT), path
            if kind.record is not None:
                decode(node.value, kind.record, path)
            seen.add(kind.path)
    finally:
        await session.close()
    not_made_yet = {"stores/buried", "brokers/<name>", "operations/rebalance"}
    assert seen == {kind.path for kind in TREE} - not_made_yet
