"""A real cluster of four datanodes under load: replicas and leaders are evened out, and no send fails by it."""

from __future__ import annotations

from collections import Counter

import pytest

import stele
from tests.fault.loaded import under_load
from tests.fault.test_decommission import command, store_of
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(
    nameservers=2,
    datanodes=4,
    brokers=2,
    settings={"nameserver": {"leader_balance_after_s": "1", "leader_transfers_max": "2"}},
)


async def held(client: stele.Client) -> Counter[int]:
    """Replicas by store, with those that are still on their way."""
    counts = Counter({s.store_id: 0 for s in await client.admin.list_stores() if s.live})
    counts.update(r.store_id for p in await client.admin.list_partitions() for r in p.replicas)
    return counts


async def led(client: stele.Client) -> Counter[int]:
    counts = Counter({s.store_id: 0 for s in await client.admin.list_stores() if s.live})
    counts.update(p.leader_store_id for p in await client.admin.list_partitions())
    return counts


async def test_replicas_are_evened_out_by_an_operators_word_under_load(cluster: ClusterUnderTest) -> None:
    async def rebalance(client: stele.Client, topic: str) -> None:
        admin, new = client.admin, (await store_of(client, "dn4")).store_id
        await admin.cordon_store(new, cordoned=False)
        plan = await admin.rebalance(dry_run=True)
        assert len(plan.moves) == 7, "30 replicas on three stores"
        assert {m.to for m in plan.moves} == {new}
        assert {s.why.partition("(")[0] for s in plan.stays} == {"its store has no more than its share "}
        assert not (await held(client))[new], "a dry run changes nothing"
        said = await admin.explain_partition(plan.moves[0].group)
        assert any("with `stele partition rebalance`" in r.next for r in said.replicas)
        await admin.rebalance()
        await admin.rebalance()  # as was asked before
        await cluster.kill((await admin.cluster()).leader)  # whoever leads next goes on
        steps = [o.step async for o in admin.rebalancing(100)]
        assert steps, "it takes a while"
        counts = await held(client)
        assert max(counts.values()) - min(counts.values()) <= 1
        with pytest.raises(stele.InvalidArgument, match="no rebalance is under way"):
            await admin.cancel_operation("rebalance")

    async with cluster.connect() as client:
        await client.admin.cordon_store((await store_of(client, "dn4")).store_id)
        await client.admin.create_topic("fault/more", partitions=6, replication=3)
    await under_load(cluster, rebalance, messages=3_000, seconds=10.0)
    await cluster.up()
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
    assert "has no more than its share" in await command(cluster, "partition", "rebalance", "--dry-run")
    assert "names the store" in await command(cluster, "partition", "explain", "fault/more/0")


async def test_leaders_are_evened_out_after_a_restart_under_load(cluster: ClusterUnderTest) -> None:
    async def restart(client: stele.Client, topic: str) -> None:
        async def even() -> bool:
            counts = await led(client)
            return len(counts) == 4 and max(counts.values()) - min(counts.values()) <= 1

        await cluster.kill("dn2")

        async def piled_up() -> bool:
            return max((await led(client)).values()) >= 4

        await eventually(piled_up, within_s=30, describe=cluster.describe)
        await cluster.start("dn2")
        await eventually(even, within_s=30, describe=cluster.describe)

    await under_load(cluster, restart)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
