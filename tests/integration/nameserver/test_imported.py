"""Records that were imported from a copy: nothing is given out by them before the stores have said what they have seen (fault P3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from stele.services.coordination.copy_document import MetadataCopy
from stele.services.coordination.copy_merge import EPOCH_LEAP
from stele.services.coordination.session import Session
from stele.services.coordination.tree_import import import_copy
from stele.services.coordination.tree_reader import copy_of, read_tree
from stele.services.errors import NotReady, StoreUnknown
from stele.services.high_water import HighWater
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.integration.nameserver.stand_ins import InMemoryDatanode
from tests.support.eventually import eventually

PATIENCE_S = 10.0


async def copied(cluster: Cluster) -> MetadataCopy:
    session = (await cluster.metadata()).session
    copy, wrong = copy_of(cluster.name, await read_tree(session))
    assert wrong == {}
    return copy


async def put_back(cluster: Cluster, copy: MetadataCopy) -> Cluster:
    """A ZooKeeper in which nothing is, but for the copy: a tree of another name."""
    anew = Cluster(cluster.hosts, f"{cluster.name}-anew")
    session = Session(anew.hosts, anew.name, PATIENCE_S)
    await session.start(20, prepares=False)
    try:
        await import_copy(session, copy)
    finally:
        await session.close()
    return anew


async def come(cluster: Cluster, name: str, former: Mapping[str, InMemoryDatanode]) -> None:
    """The datanode starts with what it had."""
    was = former[name]
    datanode = cluster.datanodes[name] = InMemoryDatanode(cluster.hosts, cluster.name, name, cluster.groups)
    datanode.uuid, datanode.replicas, datanode.seen = was.uuid, dict(was.replicas), was.seen
    await datanode.start(cluster.client())


async def problems(cluster: Cluster) -> list[str]:
    return list((await cluster.ask("GetCluster", pb.GetClusterRequest())).problems)


async def test_p3_imported_records_rise_above_what_the_stores_have_seen_once_all_have_said_it(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/old", partitions=1, timeout_s=30)
    copy = await copied(cluster)
    await cluster.create("demo/new", partitions=1, timeout_s=30)
    former = dict(cluster.datanodes)
    await eventually(lambda: all(d.seen.groups == 3 and d.seen.topics == 3 for d in former.values()), within_s=15)
    anew = await put_back(cluster, copy)
    try:
        await anew.nameserver("ns1")
        await anew.leader()
        await come(anew, "dn1", former)
        await come(anew, "dn2", former)
        await eventually(lambda: len(anew.nameservers["ns1"].view.current.reports) == 2, within_s=15)
        with pytest.raises(NotReady, match="dn3 did not say yet what they have seen"):
            await anew.create("demo/x", partitions=1, replication=1, timeout_s=3)
        with pytest.raises(NotReady):
            await anew.ask("RegisterStore", pb.RegisterStoreRequest(uuid="u9", name="dn9"), timeout_s=2)
        assert "dn3 did not say yet" in (await problems(anew))[0]
        assert [len(d.replicas) for d in anew.datanodes.values()] == [2, 2]
        assert (await anew.lookup("demo/old")).partitions[0].leader_store_id, "it goes on being served"

        await come(anew, "dn3", former)
        created = await anew.create("demo/x", partitions=1, timeout_s=40)
        assert created.topic.id == 3
        leader = await anew.leader()
        assert leader.controller is not None
        assert leader.controller.leadership.epoch > EPOCH_LEAP
        assert not leader.view.current.catalog.imported
        for datanode in anew.datanodes.values():
            assert {g: r.topic for g, r in datanode.replicas.items()} == {1: "demo/old", 2: "demo/new", 3: "demo/x"}
        assert await problems(anew) == []
    finally:
        await anew.stop()


async def test_p3_an_operator_goes_on_without_a_store_that_never_comes(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/old", partitions=1, timeout_s=30)
    former = dict(cluster.datanodes)
    anew = await put_back(cluster, await copied(cluster))
    try:
        await anew.nameserver("ns1")
        await anew.leader()
        await asyncio.gather(*(come(anew, name, former) for name in ("dn1", "dn2")))
        await anew.stores_ready(2)
        await anew.ask("RecoverMetadata", pb.RecoverMetadataRequest())
        await anew.create("demo/x", partitions=1, replication=2, timeout_s=40)
        assert await problems(anew) == []
    finally:
        await anew.stop()


async def test_p3_a_store_that_the_copy_does_not_know_waits_and_gets_its_id_back(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=2)
    copy = await copied(cluster)
    await cluster.datanode("dn3")
    third = cluster.datanodes["dn3"]
    assert third.store_id == 3
    anew = await put_back(cluster, copy)
    try:
        await anew.nameserver("ns1")
        await anew.leader()
        cluster_id = copy.cluster_id
        known = HighWater(stores=4, epoch=1).message()
        asked = pb.RegisterStoreRequest(uuid=third.uuid, name="dn3", store_id=3, cluster_id=cluster_id, seen=known)
        with pytest.raises(NotReady, match="dn1, dn2 did not say"):
            await anew.ask("RegisterStore", asked, timeout_s=2)
        former = dict(cluster.datanodes)
        await asyncio.gather(*(come(anew, name, former) for name in ("dn1", "dn2")))
        assert (await anew.ask("RegisterStore", asked, timeout_s=40)).store_id == 3
        never = pb.RegisterStoreRequest(uuid="u", name="dn9", store_id=9, cluster_id=cluster_id)
        with pytest.raises(StoreUnknown):
            await anew.ask("RegisterStore", never, timeout_s=3)
    finally:
        await anew.stop()
