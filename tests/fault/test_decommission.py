"""A real cluster of four datanodes under load: replicas move, a store goes for good, and nothing is lost and no send fails (R2.6, R2.7)."""

from __future__ import annotations

import asyncio
import json

import pytest

import stele
from stele.local.processes import ProcessState
from tests.fault.explained import command, explanation, kinds
from tests.fault.loaded import under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=3, datanodes=4, brokers=2)


async def store_of(client: stele.Client, name: str) -> stele.StoreInfo:
    return next(s for s in await client.admin.list_stores() if s.name == name)


async def test_a_replica_is_moved_under_load(cluster: ClusterUnderTest) -> None:
    async def moves(client: stele.Client, topic: str) -> None:
        names = {s.store_id: s.name for s in await client.admin.list_stores()}
        for partition in await client.admin.list_partitions(topic):
            held = [r.store_id for r in partition.replicas]
            spare = next(s for s in names if s not in held)
            # The leader's, so that it has to hand over first.
            source = partition.leader_store_id or held[0]
            place = f"{topic}/{partition.partition}"
            await command(cluster, "partition", "move", place, names[source], names[spare])
            await command(cluster, "partition", "move", place, names[source], names[spare])  # as was asked before

            async def moved(group: int = partition.group, source: int = source, spare: int = spare) -> bool:
                now = next(p for p in await client.admin.list_partitions(topic) if p.group == group)
                stores = {r.store_id for r in now.replicas}
                done = not any(o.group == group for o in await client.admin.list_operations())
                return done and source not in stores and spare in stores

            await eventually(moved, within_s=30, describe=cluster.describe)

    await under_load(cluster, moves)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)


async def test_leaders_are_transferred_under_load(cluster: ClusterUnderTest) -> None:
    async def transfers(client: stele.Client, topic: str) -> None:
        names = {s.store_id: s.name for s in await client.admin.list_stores()}
        for before in await client.admin.list_partitions(topic):
            place = f"{topic}/{before.partition}"
            said = await command(cluster, "partition", "transfer-leader", place)  # whichever leads the fewest
            now = await client.admin.transfer_leader(before.group, before.leader_store_id)
            assert now[1] == before.leader_store_id, "and back"
            assert "leads in place of" in said
            said = await command(cluster, "partition", "transfer-leader", place, "--to", names[now[1]])
            assert f"{names[now[1]]} leads" in said, "already, unless there was an election meanwhile"
            spare = next(name for s, name in names.items() if s not in {r.store_id for r in before.replicas})
            said = await command(cluster, "partition", "transfer-leader", place, "--to", spare, status=2)
            assert "is to hold no replica" in said

    await under_load(cluster, transfers)


async def test_a_cordoned_store_gets_no_replicas(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        said = await command(cluster, "store", "cordon", "dn3")
        assert "cordoned" in said
        assert "up, cordoned" in await command(cluster, "store", "ls")
        await client.admin.cordon_store((await store_of(client, "dn3")).store_id)  # as was asked before
        await client.admin.create_topic("fault/cordoned", partitions=8, replication=3)
        held = {r.store_id for p in await client.admin.list_partitions("fault/cordoned") for r in p.replicas}
        cordoned = await store_of(client, "dn3")
        assert cordoned.cordoned
        assert cordoned.store_id not in held
        with pytest.raises(stele.NotEnoughStores, match="not cordoned; there are 3"):
            await client.admin.create_topic("fault/wide", partitions=1, replication=4)
        with pytest.raises(stele.NotEnoughStores):
            await client.admin.decommission_store((await store_of(client, "dn1")).store_id)
        place = next(p for p in await client.admin.list_partitions("fault/cordoned"))
        source = next(s.name for s in await client.admin.list_stores() if s.store_id == place.replicas[0].store_id)
        said = await command(cluster, "partition", "move", str(place.group), source, "dn3", status=2)
        assert "is cordoned" in said
        await command(cluster, "store", "uncordon", "dn3")
        assert not (await store_of(client, "dn3")).cordoned
        assert await client.admin.create_topic("fault/wide", partitions=1, replication=4)
        for topic in ("fault/cordoned", "fault/wide"):  # others that are left must not need four stores
            await client.admin.delete_topic(topic)


async def test_r2_7_a_store_is_decommissioned_under_load_and_its_id_is_never_used_again(
    cluster: ClusterUnderTest,
) -> None:
    async def decommission(client: stele.Client, topic: str) -> None:
        gone = (await store_of(client, "dn2")).store_id
        plan = json.loads(await command(cluster, "store", "decommission", "dn2", "--dry-run", "-o", "json"))
        held = [p for p in await client.admin.list_partitions() if gone in {r.store_id for r in p.replicas}]
        assert {m["group"] for m in plan["moves"]} == {p.group for p in held}
        assert (await store_of(client, "dn2")).state == "up", "a dry run changes nothing"
        assert held

        follower = asyncio.create_task(command(cluster, "store", "decommission", "dn2", "--wait", "--timeout", "100"))
        await asyncio.sleep(0.7)
        leader = (await client.admin.cluster()).leader
        await cluster.kill(leader)  # whoever leads next goes on
        said = await follower
        assert "decommissioned" in said
        await cluster.start(leader)
        chain = await explanation(cluster, f"{held[0].topic}/{held[0].partition}", "replicas")
        assert kinds(chain)[-3:] == ["decommission_began", "replica_move_began", "replica_moved"], chain

        for name in ("dn1", "dn3", "dn4"):
            with pytest.raises(stele.NotEnoughStores, match="2 stores would be up, and topics have up to 3 replicas"):
                await client.admin.decommission_store((await store_of(client, name)).store_id)
        await eventually(lambda: process(cluster, "dn2").state == ProcessState.DEAD, within_s=20)
        log = cluster.local.log_path("dn2").read_text()
        assert f"store {gone} was removed from this cluster" in log

    await under_load(cluster, decommission, messages=8_000, seconds=16.0)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
        gone = (await store_of(client, "dn2")).store_id
        with pytest.raises(stele.SteleError, match="was removed"):
            await client.admin.recommission_store(gone)
        assert "forgotten" in await command(cluster, "store", "remove-tombstone", "dn2")
        assert all(s.store_id != gone for s in await client.admin.list_stores())
        assert await client.admin.remove_tombstones([gone]) == ([gone], []), "asked again"
        # R2.6: it comes back with its directory, and is refused.
        with pytest.raises(Exception, match="dn2"):
            await cluster.start("dn2")
        assert process(cluster, "dn2").state == ProcessState.DEAD
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)


def process(cluster: ClusterUnderTest, name: str):  # type: ignore[no-untyped-def]
    return next(p for p in cluster.local.status() if p.name == name)
