"""Every store comes to hold what the records say, whenever it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stele.nameserver.orphans import Orphans
from stele.nameserver.reports import StrayKind
from stele.nameserver.strays import set_apart
from stele.nameserver.view import View
from stele.services.errors import GroupNotFound, InvalidArgument
from stele.services.pb import datanode_pb2
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


async def test_a_store_that_was_away_gets_its_replicas_and_drops_what_was_deleted_meanwhile(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/old", partitions=2)
    away = cluster.datanodes["dn3"]
    kept = dict(away.replicas)
    await cluster.create("demo/stays", partitions=1)
    (stays,) = away.replicas.keys() - kept.keys()
    await away.crash()
    leader = await cluster.leader()
    await eventually(lambda: away.store_id not in leader.view.current.catalog.live_stores, within_s=15)
    await cluster.delete("demo/old")
    assert set(away.replicas) == {*kept, stays}
    await away.come_back()
    await eventually(lambda: set(away.replicas) == {stays}, within_s=15, describe=cluster.describe)


async def test_a_replica_that_was_never_created_is_created_when_the_store_comes(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    away = cluster.datanodes["dn3"]
    away.obeys.clear()
    await cluster.create("demo/t", partitions=2)
    assert not away.replicas
    away.obeys.set()
    await eventually(lambda: len(away.replicas) == 2, within_s=15, describe=cluster.describe)


async def test_r4_6_a_loading_store_is_alive_and_given_nothing(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.datanode("dn4", state="loading")
    leader = await cluster.leader()
    await eventually(lambda: 4 in leader.view.current.catalog.live_stores)
    await cluster.create("demo/t", partitions=4)
    loading = cluster.datanodes["dn4"]
    assert loading.orders == []
    stores = (await cluster.ask("ListStores", pb.ListStoresRequest())).stores
    assert [(s.store_id, s.live, s.status.state) for s in stores][3] == (4, True, "loading")
    await loading.enter("ready")
    await cluster.stores_ready(4)
    await cluster.create("demo/u", partitions=4)
    assert len(loading.replicas) == 4


async def orphans(cluster: Cluster) -> list[tuple[int, int, str]]:
    stores = (await cluster.ask("ListStores", pb.ListStoresRequest())).stores
    return [(s.store_id, r.group, r.state) for s in stores for r in s.status.replicas if r.state in tuple(StrayKind)]


async def test_p3_what_lost_its_record_is_kept_and_listed_until_an_operator_removes_it(cluster: Cluster) -> None:
    """The records of a topic are gone without its having been deleted, as from a ZooKeeper of which parts were lost."""
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    await cluster.create("demo/other", partitions=1)
    leader = await cluster.leader()
    catalog = leader.view.current.catalog
    (lost,) = (g for g, p in catalog.partitions.items() if p.topic == "demo/t")
    topic_id = catalog.topics["demo/t"].topic_id
    session = (await cluster.metadata()).session
    await session.delete("topics/demo/t")
    await session.delete(f"partitions/{lost}")
    await eventually(lambda: lost not in leader.view.current.catalog.partitions)
    # What used to clean up has had its turn once another topic was made and deleted.
    await cluster.create("demo/u", partitions=1)
    await cluster.delete("demo/u")
    assert all(lost in d.replicas for d in cluster.datanodes.values())
    assert await orphans(cluster) == [(s, lost, "orphan") for s in (1, 2, 3)]
    with pytest.raises(GroupNotFound):
        await cluster.ask("RemoveOrphan", pb.RemoveOrphanRequest(store_id=2, group=lost, topic_id=topic_id + 9))
    (recorded,) = (g for g, p in catalog.partitions.items() if p.topic == "demo/other")
    with pytest.raises(GroupNotFound):
        await cluster.ask("RemoveOrphan", pb.RemoveOrphanRequest(store_id=2, group=recorded, topic_id=2))
    for store_id, name in enumerate(cluster.nameservers, 1):  # the one that leads and the one that forwards
        request = pb.RemoveOrphanRequest(store_id=store_id, group=lost, topic_id=topic_id)
        await cluster.ask("RemoveOrphan", request, of=name)
    assert [lost in d.replicas for d in cluster.datanodes.values()] == [False, False, True]


async def test_a_group_that_was_never_given_out_is_left_alone(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    datanode = cluster.datanodes["dn1"]
    strange = datanode_pb2.CreateReplicaRequest(group=5000, topic="demo/x", store_ids=[1, 2, 3])
    datanode.replicas[5000] = strange
    datanode.groups.changed()
    leader = await cluster.leader()
    await eventually(lambda: 5000 in leader.view.current.reports[1].strays)
    await cluster.create("demo/u", partitions=1)
    await cluster.delete("demo/u")
    assert 5000 in datanode.replicas


async def test_an_orphan_is_removed_only_on_zookeepers_word(cluster: Cluster) -> None:
    """The mirror lacks a partition that ZooKeeper has: its replica is no orphan, whatever the operator says."""
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    leader = await cluster.leader()
    whole = leader.view.current
    ((group, _),) = whole.catalog.partitions.items()
    topic_id = whole.catalog.topics["demo/t"].topic_id
    behind = replace(whole.catalog, partitions={}, topics={})

    lagging = View(behind, set_apart(behind, whole.reports), {})

    async def scenario(kind: type[Orphans]) -> None:
        led = leader.controller
        assert led is not None
        orphans = kind(
            led.leadership,
            await cluster.metadata(),
            led.topics,
            led.orders,
            lambda: lagging,
            led.guard.check,
            led._mirrored,
        )
        with promise("nothing is removed as an orphan that ZooKeeper has a record of"):
            with pytest.raises(InvalidArgument):
                await orphans.remove(1, group, topic_id)
            assert group in cluster.datanodes["dn1"].replicas

    await holds_and_mutant_fails(scenario, Orphans, "catalog.TrustsTheMirror")


async def test_a_hanging_store_delays_no_other(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=4)
    hanging = cluster.datanodes["dn4"]
    hanging.obeys.clear()
    await cluster.create("demo/a", partitions=8, replication=4)
    await cluster.create("demo/b", partitions=8, replication=3, timeout_s=30)
    assert not hanging.replicas
    hanging.obeys.set()
