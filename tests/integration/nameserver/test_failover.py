"""A leader that goes, and one that comes back believing it still leads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stele.nameserver.controller import Controller, Decisions
from stele.nameserver.effects import DeleteReplica, ReconcileEffect
from stele.nameserver.ids import GROUPS
from stele.nameserver.reconcile import plan
from stele.nameserver.topic_writer import TopicWriter
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import CounterRecord, PartitionRecord, TopicRecord
from stele.services.errors import LeadershipLost, NoLeader, NotLeader, SteleError, Timeout, TopicNotFound, Unreachable
from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb import nameserver_pb2_grpc
from stele.services.rpc.status import typed_errors
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import end_session, unique_cluster_name


async def test_a_half_done_create_is_finished_by_the_next_leader(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
    first = await cluster.leader()
    creating = asyncio.create_task(cluster.create("demo/t", partitions=3, of=first._config.name))
    await eventually(lambda: all(d.orders for d in cluster.datanodes.values()))
    await cluster.crash(first._config.name)
    with pytest.raises(SteleError) as broken:
        await creating
    assert not broken.value.definite
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    second = await cluster.leader()
    assert second is not first

    async def ready() -> bool:
        return (await cluster.lookup("demo/t")).topic.state == "ready"

    await eventually(ready, describe=cluster.describe)
    assert (await cluster.create("demo/t", partitions=3, if_absent=True)).created is False
    assert all(len(d.replicas) == 3 for d in cluster.datanodes.values())


async def test_partitions_that_the_first_leader_did_not_record_are_recorded_by_the_next(cluster: Cluster) -> None:
    """The state in ZooKeeper after a leader died between two transactions of a large create."""
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/other", partitions=1)
    metadata = await cluster.metadata()
    groups = await metadata.get(GROUPS, CounterRecord)
    assert groups is not None
    topic = TopicRecord(id=77, partitions=3, replication=3, state="creating", created_ms=1)
    half = metadata.transaction().set(GROUPS, CounterRecord(next=groups.record.next + 1), groups.version)
    half.create("topics/demo/half", topic)
    half.create(f"partitions/{groups.record.next}", PartitionRecord(topic="demo/half", index=1, replicas=(1, 2, 3)))
    await half.commit()

    async def ready() -> bool:
        return (await cluster.lookup("demo/half")).topic.state == "ready"

    await eventually(ready, describe=cluster.describe)
    routes = (await cluster.lookup("demo/half")).partitions
    assert [r.partition for r in routes] == [0, 1, 2]
    assert routes[1].group == groups.record.next


async def test_a_half_done_delete_is_finished_by_the_next_leader(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/t", partitions=2)
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
        datanode.orders.clear()
    first = await cluster.leader()
    deleting = asyncio.create_task(cluster.delete("demo/t", of=first._config.name))
    await eventually(lambda: all(d.orders for d in cluster.datanodes.values()))
    await cluster.crash(first._config.name)
    with pytest.raises(SteleError):
        await deleting
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    await cluster.leader()

    async def gone() -> bool:
        try:
            await cluster.lookup("demo/t")
        except TopicNotFound:
            return not any(d.replicas for d in cluster.datanodes.values())
        return False

    await eventually(gone, describe=cluster.describe)


async def test_a_leader_that_was_paused_is_refused_by_zookeeper(cluster: Cluster) -> None:
    """Its session ended while it slept, its successor wrote, and it wakes up in the middle of a write."""
    await cluster.start(nameservers=2, datanodes=1)
    first = await cluster.leader()
    assert first.controller is not None
    controller = first.controller
    asleep = controller.leadership
    await end_session(first.session)
    second = await cluster.leader(other_than=first._config.name)
    assert second.controller is not None
    assert second.controller.leadership.epoch > asleep.epoch
    await eventually(lambda: first.session.state.value == "connected" and not first.session.fenced)

    async def scenario(leadership: Leadership) -> None:
        name = f"demo/{type(leadership).__name__.lower()}"
        writer = TopicWriter(leadership, MetadataStore(first.session))
        with promise("a deposed leader's transactions are refused"), pytest.raises(LeadershipLost):
            await writer.begin_create(name, 1, 1, second.view.current.catalog)
        assert await (await cluster.metadata()).get(f"topics/{name}", TopicRecord) is None

    await holds_and_mutant_fails(
        scenario,
        asleep,
        "ownership.LeadershipWithoutEpoch",
        lambda mutant: mutant(first.session, asleep.record, asleep.epoch_version, asleep._session_id),
    )


async def test_the_datanodes_refuse_orders_of_a_deposed_leader(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    first = await cluster.leader()
    assert first.controller is not None
    orders = first.controller.orders
    await cluster.create("demo/t", partitions=1)
    await end_session(first.session)
    await cluster.leader(other_than=first._config.name)
    await cluster.create("demo/u", partitions=1)
    datanode = cluster.datanodes["dn1"]
    (group, *_) = datanode.replicas
    before = dict(datanode.replicas)
    member = first.view.current.catalog.live_stores[datanode.store_id]
    with pytest.raises(SteleError) as refused:
        await orders.give(member, DeleteReplica(datanode.store_id, group, before[group].topic_id))
    assert refused.value.reason == "FENCED"
    assert datanode.replicas == before


async def test_writes_without_a_leader_are_refused_and_reads_go_on(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    first = await cluster.leader()
    other = next(n for n in cluster.nameservers if n != first._config.name)
    await eventually(lambda: "demo/t" in cluster.nameservers[other].view.current.catalog.topics)
    await cluster.crash(first._config.name)
    with pytest.raises(SteleError) as refused:
        await cluster.create("demo/u", partitions=1, of=other, timeout_s=0.4)
    assert isinstance(refused.value, NoLeader | NotLeader | Timeout)
    assert (await cluster.lookup("demo/t", of=other)).topic.state == "ready"
    await cluster.leader()
    await cluster.create("demo/u", partitions=1)


async def test_a_write_is_forwarded_once_and_then_names_the_leader(cluster: Cluster) -> None:
    await cluster.start(nameservers=2)
    leader = await cluster.leader()
    follower = next(ns for ns in cluster.nameservers.values() if ns is not leader)
    await eventually(lambda: follower.view.current.catalog.leader is not None)
    stub = nameserver_pb2_grpc.NameserverStub(cluster.channels.get(follower.endpoint))
    request = pb.CreateNamespaceRequest(namespace="demo")
    with pytest.raises(NotLeader) as refused, typed_errors():
        await stub.CreateNamespace(request, timeout=5, metadata=(("stele-forwarded-by", "ns9"),))
    assert refused.value.facts["leader"] == leader.endpoint
    with typed_errors():
        assert (await stub.CreateNamespace(request, timeout=5)).created


async def test_a_topic_that_is_slow_to_be_ready_is_an_indefinite_timeout_and_then_ready(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
    with pytest.raises(Timeout) as slow:
        await cluster.create("demo/t", partitions=1, timeout_s=1)
    assert not slow.value.definite
    assert (await cluster.lookup("demo/t")).topic.state == "creating"
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    assert (await cluster.create("demo/t", partitions=1, if_absent=True)).topic.state == "ready"


async def test_drain_leaves_to_the_next_leader_and_shuts_the_port(cluster: Cluster) -> None:
    await cluster.start(nameservers=2)
    first = await cluster.leader()
    name = first._config.name
    await first.drain()
    assert first.controller is None
    other = await cluster.leader(other_than=name)
    await eventually(lambda: name not in other.view.current.catalog.nameservers)
    with pytest.raises(Unreachable):
        await cluster.channels.connected(first.endpoint, 1)

    async def it_names_itself() -> (
        bool
    ):  # its own view hears of its leadership as everybody's does: a moment after it began
        answer = await cluster.ask("GetCluster", pb.GetClusterRequest(), of=other._config.name)
        return answer.leader == other._config.name

    await eventually(it_names_itself)


async def test_a_fault_of_one_round_does_not_end_the_rounds(zk_hosts: str) -> None:
    async def one_round_fails(kind: type[Controller]) -> None:
        planned = 0

        def faulty(*given: Any) -> list[ReconcileEffect]:
            nonlocal planned
            planned += 1
            if planned == 1:
                raise KeyError("a fault of ours")
            return plan(*given)

        cluster = Cluster(zk_hosts, unique_cluster_name())
        try:
            await cluster.nameserver(
                "ns1", lambda *given, **named: kind(*given, decisions=Decisions(plan=faulty), **named)
            )
            await cluster.start(nameservers=0, datanodes=1)
            with promise("a leader goes on after a round that failed"):
                async with asyncio.timeout(10):
                    await cluster.create("demo/t", partitions=1, replication=1)
        finally:
            await cluster.stop()

    await holds_and_mutant_fails(one_round_fails, Controller, "controller.EndsWithItsFirstFault")
