"""Bundles that change hands on real processes under load: by an operator's word nobody notices it, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import stele
from tests.fault.explained import command
from tests.fault.loaded import under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=3, brokers=3)


async def owners(client: stele.Client, topic: str) -> set[str]:
    return {p.broker for p in await client.admin.list_partitions(topic)}


async def test_a_broker_is_drained_under_load_and_stays_so_when_it_restarts(cluster: ClusterUnderTest) -> None:
    async def drains(client: stele.Client, topic: str) -> None:
        for broker in ("br1", "br2"):
            said = await command(cluster, "broker", "drain", broker, "--wait", "--timeout", "30")
            assert f"{broker}: has no bundle" in said
            assert broker not in await owners(client, topic)
        assert await owners(client, topic) == {"br3"}
        said = await command(cluster, "broker", "drain", "br3", status=1)
        assert "br1 is drained, br2 is drained" in said
        assert "ready, drained" in await command(cluster, "broker", "ls")
        await cluster.kill("br1")
        await cluster.start("br1")
        listed = {b["name"]: b for b in json.loads(await command(cluster, "broker", "ls", "-o", "json"))}
        assert (listed["br1"]["live"], listed["br1"]["drained"], listed["br1"]["bundles"]) == (True, True, [])
        for broker in ("br1", "br2"):
            await command(cluster, "broker", "undrain", broker)

        async def shared() -> bool:
            return all(b.bundles for b in await client.admin.list_brokers())

        await eventually(shared, within_s=20, describe=cluster.describe)

    await under_load(cluster, drains)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)


async def test_bundles_are_moved_and_unloaded_under_load(cluster: ClusterUnderTest) -> None:
    async def moves(client: stele.Client, topic: str) -> None:
        bundles = {p.bundle: p.broker for p in await client.admin.list_partitions(topic)}
        for bundle, owner in bundles.items():
            to = next(b for b in ("br1", "br2", "br3") if b != owner)
            said = await command(cluster, "bundle", "move", bundle, "--to", to)
            assert f"{to} owns it" in said
            assert {p.broker for p in await client.admin.list_partitions(topic) if p.bundle == bundle} == {to}
        rows = json.loads(await command(cluster, "bundle", "ls", topic.partition("/")[0], "-o", "json"))
        assert {r["bundle"] for r in rows if r["cause"] == "operator"} == bundles.keys()
        assert sum(r["partitions"] for r in rows if r["bundle"] in bundles) >= 4
        for broker in await owners(client, topic):
            moved = json.loads(await command(cluster, "broker", "unload", broker, "-o", "json"))
            assert moved
            assert broker not in moved.values()
        bundle = next(iter(bundles))
        owner = next(p.broker for p in await client.admin.list_partitions(topic) if p.bundle == bundle)
        assert f"{bundle}: " in await command(cluster, "broker", "unload", owner, bundle)
        assert "is not" in await command(cluster, "broker", "unload", owner, bundle)

    await under_load(cluster, moves)


async def test_a_bundle_is_split_under_load_and_its_halves_have_owners_of_their_own(cluster: ClusterUnderTest) -> None:
    async def splits(client: stele.Client, topic: str) -> None:
        for _ in range(2):
            for bundle in sorted({p.bundle for p in await client.admin.list_partitions(topic)}):
                before = {p.partition for p in await client.admin.list_partitions(topic) if p.bundle == bundle}
                said = await command(cluster, "bundle", "split", bundle)
                assert said.count("partition") == 2
                two = await client.admin.split_bundle(bundle)  # as was asked before
                after = {p.partition: p for p in await client.admin.list_partitions(topic)}
                assert {p for p, now in after.items() if now.bundle in two} == before
                owner = {now.broker for now in after.values() if now.bundle in two}.pop()
                to = next(b for b in ("br1", "br2", "br3") if b != owner)
                await client.admin.move_bundle(two[0], to)
                owners_now = {b.bundle: b.broker for b in await client.admin.list_bundles(topic.partition("/")[0])}
                assert owners_now[two[0]] == to
                assert bundle not in owners_now

    await under_load(cluster, splits)


async def test_who_owns_the_bundles_that_carry_the_load_comes_to_own_less_beside_them(
    cluster: ClusterUnderTest,
) -> None:
    """They are parted, or where the machine is too slow for much of a load, others leave their owner: by count alone each broker has as
    many bundles as the others, or one more."""
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("busy/t", partitions=32, replication=1)
        by_owner: dict[str, dict[str, int]] = {}
        for p in await client.admin.list_partitions("busy/t"):
            by_owner.setdefault(p.broker, {})[p.bundle] = p.partition
        hot = list(next(bundles for bundles in by_owner.values() if len(bundles) > 1).items())[:2]
        stop = asyncio.Event()

        async def produce() -> None:
            async with client.producer("busy/t", linger_ms=5, send_timeout_s=60) as producer:
                while not stop.is_set():
                    await asyncio.gather(*[await producer.enqueue(b"x" * 1_000, partition=p) for _, p in hot * 20])

        producing = asyncio.create_task(produce())
        try:

            async def parted() -> bool:
                owners = {b.bundle: b.broker for b in await client.admin.list_bundles()}
                count = Counter(owners.values())
                loaded = {owners[bundle] for bundle, _ in hot}
                return len(loaded) == 2 or all(count[owner] + 2 <= max(count.values()) for owner in loaded)

            await eventually(parted, within_s=60, describe=cluster.describe)
        finally:
            stop.set()
            await producing
