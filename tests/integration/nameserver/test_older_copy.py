"""ZooKeeper is put back to an older copy of its data: nothing is given out twice, and nothing that stores hold is lost (fault P3)."""

from __future__ import annotations

import asyncio
import functools
import shutil
from pathlib import Path
from typing import Any

import pytest

from stele.local.zookeeper import ZooKeeperServer
from stele.nameserver.clusterview import ClusterView
from stele.nameserver.controller import Controller, Decisions
from stele.nameserver.metadata_guard import MetadataGuard
from stele.nameserver.stores import StoreRegister
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.session import Session
from stele.services.errors import MetadataBehind, NotReady, StoreUnknown, TopicNotFound
from stele.services.high_water import HighWater
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.integration.nameserver.stand_ins import InMemoryDatanode
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import open_session, server

NAME = "older-copy"


async def take_copy(zookeeper: ZooKeeperServer, copy: Path) -> None:
    await asyncio.to_thread(zookeeper.stop)
    shutil.copytree(zookeeper.directory / "data", copy)
    await zookeeper.async_start()


async def put_back(zookeeper: ZooKeeperServer, copy: Path) -> None:
    await asyncio.to_thread(zookeeper.stop)
    shutil.rmtree(zookeeper.directory / "data")
    shutil.copytree(copy, zookeeper.directory / "data")
    await zookeeper.async_start()
    async with open_session(zookeeper.hosts, NAME) as session:
        # The sessions of those days are in the copy: they end by their timeout.
        async def ended() -> bool:
            members = [await session.children(f"members/{kind}") for kind in ("nameservers", "datanodes")]
            return not any(members) and await session.exists("names/ns1/live") is None

        await eventually(ended, within_s=30)


async def before_and_after(zookeeper: ZooKeeperServer, copy: Path) -> list[InMemoryDatanode]:
    """A cluster that had one topic when the copy was taken and two when it was put back; stopped, and what its datanodes hold."""
    cluster = Cluster(zookeeper.hosts, NAME)
    try:
        await cluster.start(nameservers=1, datanodes=3)
        await cluster.create("demo/old", partitions=1)
        await take_copy(zookeeper, copy)
        await cluster.leader()
        await cluster.stores_ready(3)
        await cluster.create("demo/new", partitions=1, timeout_s=30)
        datanodes = list(cluster.datanodes.values())
        await eventually(lambda: all(d.seen.groups == 3 and d.seen.topics == 3 for d in datanodes))
    finally:
        await cluster.stop()
    await put_back(zookeeper, copy)
    return datanodes


async def restarted(hosts: str, former: list[InMemoryDatanode], guard: type[MetadataGuard] = MetadataGuard) -> Cluster:
    cluster = Cluster(hosts, NAME)
    await cluster.nameserver("ns1", functools.partial(Controller, decisions=Decisions(guard=guard)))
    await cluster.leader()
    for was in former:
        datanode = cluster.datanodes[was.name] = InMemoryDatanode(hosts, NAME, was.name, cluster.groups)
        datanode.uuid, datanode.replicas, datanode.seen = was.uuid, dict(was.replicas), was.seen
        await datanode.start(cluster.client())
    await cluster.stores_ready(3)
    return cluster


async def problems(cluster: Cluster) -> list[str]:
    return list((await cluster.ask("GetCluster", pb.GetClusterRequest())).problems)


async def test_p3_an_older_copy_gives_no_id_out_until_an_operator_says_so(tmp_path: Path) -> None:
    with server() as zookeeper:
        former = await before_and_after(zookeeper, tmp_path / "copy")

        async def scenario(guard: type[MetadataGuard]) -> None:
            await put_back(zookeeper, tmp_path / "copy")
            cluster = await restarted(zookeeper.hosts, former, guard)
            try:
                with promise("an older copy of the records gives nothing out"):
                    with pytest.raises(MetadataBehind) as refused:
                        await cluster.create("demo/x", partitions=1, timeout_s=5)
                    assert set(refused.value.facts["behind"].split()) >= {"topics", "groups"}
                    with pytest.raises(MetadataBehind):
                        await cluster.delete("demo/old", timeout_s=5)
                    with pytest.raises(MetadataBehind):
                        await cluster.ask("RegisterStore", pb.RegisterStoreRequest(uuid="u9", name="dn9"))
                assert [len(d.replicas) for d in cluster.datanodes.values()] == [2, 2, 2]
                (problem,) = await problems(cluster)
                assert "older copy" in problem
                assert (await cluster.lookup("demo/old")).partitions[0].leader_store_id, "it goes on being served"

                await cluster.ask("RecoverMetadata", pb.RecoverMetadataRequest())
                await cluster.leader()
                answer = await cluster.create("demo/x", partitions=1, timeout_s=30)
                assert answer.topic.id == 3
                for datanode in cluster.datanodes.values():
                    assert {g: r.topic for g, r in datanode.replicas.items()} == {
                        1: "demo/old",
                        2: "demo/new",
                        3: "demo/x",
                    }
                await eventually(lambda: problems_gone(cluster))
                await cluster.delete("demo/x", timeout_s=30)
                await cluster.delete("demo/old", timeout_s=30)
                assert [sorted(d.replicas) for d in cluster.datanodes.values()] == [[2], [2], [2]]
            finally:
                await cluster.stop()

        await holds_and_mutant_fails(scenario, MetadataGuard, "catalog.BelievesTheOlderCopy")


async def test_p3_a_topic_that_the_older_copy_lacks_is_adopted_as_it_was(tmp_path: Path) -> None:
    with server() as zookeeper:
        former = await before_and_after(zookeeper, tmp_path / "copy")
        cluster = await restarted(zookeeper.hosts, former)
        try:
            asked = pb.AdoptOrphansRequest(topic="demo/new")
            with pytest.raises(MetadataBehind):
                await cluster.ask("AdoptOrphans", asked)
            await cluster.ask("RecoverMetadata", pb.RecoverMetadataRequest())
            leader = await cluster.leader()
            await cluster.nameserver("ns2")  # follows, and forwards
            topic = (await cluster.ask("AdoptOrphans", asked, of="ns2")).topic
            assert (topic.id, topic.partitions, topic.replication, topic.state) == (2, 1, 3, "ready")
            (partition,) = (await cluster.lookup("demo/new", of=leader._config.name)).partitions
            assert (partition.group, [r.store_id for r in partition.replicas]) == (2, [1, 2, 3])
            assert partition.leader_store_id
            with pytest.raises(TopicNotFound):
                await cluster.ask("AdoptOrphans", asked)
            await cluster.create("demo/x", partitions=1, timeout_s=30)
            for datanode in cluster.datanodes.values():
                assert {g: r.topic for g, r in datanode.replicas.items()} == {1: "demo/old", 2: "demo/new", 3: "demo/x"}
            await cluster.delete("demo/new", timeout_s=30)
            assert [sorted(d.replicas) for d in cluster.datanodes.values()] == [[1, 3]] * 3
            with pytest.raises(TopicNotFound):
                await cluster.ask("AdoptOrphans", asked)
        finally:
            await cluster.stop()


async def test_p3_partitions_of_a_topic_that_are_lost_for_good_begin_empty_beside_those_that_are_adopted(
    cluster: Cluster,
) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=3)
    leader = await cluster.leader()
    groups = {p.index: g for g, p in leader.view.current.catalog.partitions.items()}
    session = (await cluster.metadata()).session
    await session.delete("topics/demo/t")
    await asyncio.gather(*(session.delete(f"partitions/{g}") for g in groups.values()))
    for datanode in cluster.datanodes.values():
        del datanode.replicas[groups[1]]
    cluster.groups.changed()
    await eventually(lambda: len(leader.view.current.reports[1].strays) == 2)
    with pytest.raises(NotReady):
        await cluster.ask("AdoptOrphans", pb.AdoptOrphansRequest(topic="demo/t"), timeout_s=3)
    await cluster.ask("AdoptOrphans", pb.AdoptOrphansRequest(topic="demo/t", partitions=3))

    async def ready() -> bool:
        found = await cluster.lookup("demo/t")
        return found.topic.state == "ready" and len(found.partitions) == 3

    await eventually(ready, within_s=15, describe=cluster.describe)
    now = {p.partition: p.group for p in (await cluster.lookup("demo/t")).partitions}
    assert (now[0], now[2]) == (groups[0], groups[2])
    assert now[1] > max(groups.values())


async def test_p3_a_store_that_is_being_removed_adopts_nothing(cluster: Cluster) -> None:
    """Once it is recorded as offline, no record begins to name it."""
    await cluster.start(nameservers=1, datanodes=4)
    await cluster.create("demo/t", partitions=1)
    leader = await cluster.leader()
    ((group, partition),) = leader.view.current.catalog.partitions.items()
    session = (await cluster.metadata()).session
    await session.delete("topics/demo/t")
    await session.delete(f"partitions/{group}")
    await eventually(lambda: all(leader.view.current.reports[s].strays for s in partition.replicas))
    request = pb.DecommissionStoreRequest(store_id=partition.replicas[0])
    await cluster.ask("DecommissionStore", request)
    with pytest.raises(NotReady, match="offline: its decommission"):
        await cluster.ask("AdoptOrphans", pb.AdoptOrphansRequest(topic="demo/t"), timeout_s=3)
    await cluster.ask("RecommissionStore", pb.RecommissionStoreRequest(store_id=partition.replicas[0]))
    await cluster.ask("AdoptOrphans", pb.AdoptOrphansRequest(topic="demo/t"))


async def test_p3_what_a_store_that_loads_was_told_counts_before_ids_are_given_out(cluster: Cluster) -> None:
    """It is known, and may load for long; until then nobody watches it."""

    async def scenario(kind: type[StoreRegister]) -> None:
        def controller(
            leadership: Leadership, session: Session, view: ClusterView, *rest: Any, **options: Any
        ) -> Controller:
            made = Controller(leadership, session, view, *rest, **options)
            check, metadata = made.guard.check, MetadataStore(session)
            made.stores = kind(leadership, metadata, session.cluster_id, check=check, heard=view.heard)
            return made

        name = f"ns-{kind.__name__.lower()}"
        started = await cluster.nameserver(name, controller)  # type: ignore[arg-type]
        await cluster.leader()
        loads = pb.RegisterStoreRequest(uuid="loads", name="dn1")
        loads.store_id = (await cluster.ask("RegisterStore", loads)).store_id
        loads.seen.CopyFrom(HighWater(stores=9, groups=9).message())
        await cluster.ask("RegisterStore", loads)
        with promise("an older copy of the records gives nothing out while stores load"):
            with pytest.raises(MetadataBehind):
                await cluster.ask("RegisterStore", pb.RegisterStoreRequest(uuid="new", name="dn2"))
            assert "older copy" in (await problems(cluster))[0]
        await started.drain()
        cluster.retire(name)

    await holds_and_mutant_fails(scenario, StoreRegister, "catalog.HearsOnlyWhoServes")


async def problems_gone(cluster: Cluster) -> bool:
    return not await problems(cluster)


async def test_p3_a_store_whose_record_is_lost_is_taken_back_once_its_id_is_out(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    known = HighWater(stores=9).message()
    asked = pb.RegisterStoreRequest(uuid="u5", name="dn5", store_id=5, seen=known)
    with pytest.raises(MetadataBehind):
        await cluster.ask("RegisterStore", asked)
    with pytest.raises(StoreUnknown):
        await cluster.ask("RegisterStore", pb.RegisterStoreRequest(uuid="u5", name="dn5", store_id=5), timeout_s=3)
    session = (await cluster.metadata()).session
    await session.delete("stores/2")
    asked = pb.RegisterStoreRequest(uuid=cluster.datanodes["dn2"].uuid, name="dn2", store_id=2, seen=known)
    assert (await cluster.ask("RegisterStore", asked)).store_id == 2
    assert (await cluster.ask("RegisterStore", asked)).store_id == 2


async def test_p3_a_bundle_is_assigned_above_what_its_partitions_have_seen(cluster: Cluster) -> None:
    """The owners' epochs in ZooKeeper are older than those that partitions know of: nobody could write."""
    await cluster.start(nameservers=1, datanodes=3, brokers=1)
    await cluster.create("demo/t", partitions=1)

    async def owned() -> bool:
        return (await cluster.lookup("demo/t")).partitions[0].broker == "br1"

    await eventually(owned)
    (route,) = (await cluster.lookup("demo/t")).partitions
    for datanode in cluster.datanodes.values():
        datanode.owner_epochs[route.group] = 40
    cluster.groups.changed()

    async def above() -> bool:
        (now,) = (await cluster.lookup("demo/t")).partitions
        return now.owner_epoch == 41 and now.broker == "br1"

    await eventually(above, within_s=10)
    assert await problems(cluster) == []
