"""A nameserver that lost touch with ZooKeeper, and can still be reached, is left for another (fault P4)."""

from __future__ import annotations

from typing import Any

import pytest

from stele.nameserver.clusterview import ClusterView
from stele.services.errors import NotReady
from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb import nameserver_pb2_grpc
from stele.services.rpc.channels import call
from stele.services.rpc.nameservers import STALE_KEY
from stele.services.rpc.status import typed_errors
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S


def stub_of(cluster: Cluster, name: str) -> Any:
    channel = cluster.channels.get(cluster.nameservers[name].endpoint)
    return nameserver_pb2_grpc.NameserverStub(channel)  # type: ignore[no-untyped-call]


async def out_of_touch(cluster: Cluster) -> str:
    """Which of two nameservers has lost touch for longer than its session lasts, while the other saw a topic come and go."""
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/old", partitions=1)
    leader = (await cluster.leader())._config.name
    (lost,) = (name for name in cluster.nameservers if name != leader)
    cluster.zookeeper_of[lost].cut()
    view = cluster.nameservers[lost].view
    await eventually(lambda: view.age_s > SESSION_TIMEOUT_S * 1.5, within_s=20)
    await cluster.create("demo/new", partitions=1, of=leader)
    return lost


async def test_p4_it_refuses_to_answer_and_is_back_once_it_is_in_step(cluster: Cluster) -> None:
    lost = await out_of_touch(cluster)
    view, stub = cluster.nameservers[lost].view, stub_of(cluster, lost)

    async def scenario(kind: type[ClusterView]) -> None:
        with promise("a nameserver that is out of touch does not answer as if it were not"), pytest.raises(NotReady):
            kind.check_fresh(view)

    await holds_and_mutant_fails(scenario, ClusterView, "ownership.NeverTooOld")
    for method, request in (
        ("Lookup", pb.LookupRequest(topic="demo/old")),
        ("ResolveStore", pb.ResolveStoreRequest(store_id=1)),
        ("ListTopics", pb.ListTopicsRequest()),
        ("ListStores", pb.ListStoresRequest()),
        ("ListPartitions", pb.ListPartitionsRequest()),
    ):
        with pytest.raises(NotReady) as refused:
            await call(getattr(stub, method), request, 5)
        assert int(refused.value.facts["age_ms"]) > SESSION_TIMEOUT_S * 1000
    with pytest.raises(NotReady), typed_errors():
        await stub.WatchRouting(pb.WatchRoutingRequest()).read()
    old = await call(stub.Lookup, pb.LookupRequest(topic="demo/old"), 5, ((STALE_KEY, "1"),))
    assert old.topic.topic == "demo/old"
    assert not (await call(stub.GetCluster, pb.GetClusterRequest(), 5)).coordination_connected
    cluster.zookeeper_of[lost].restore()
    await eventually(lambda: view.age_s == 0.0, within_s=20)
    assert (await call(stub.Lookup, pb.LookupRequest(topic="demo/new"), 5)).topic.topic == "demo/new"


async def test_p4_clients_leave_it(cluster: Cluster) -> None:
    lost = await out_of_touch(cluster)
    client = cluster.client()
    client._preferred = cluster.nameservers[lost].endpoint
    for _ in range(20):
        answer = await client.call("ListTopics", pb.ListTopicsRequest(), 10)
        assert [t.topic for t in answer.topics] == ["demo/new", "demo/old"]
    client._preferred = cluster.nameservers[lost].endpoint
    async for routing in client.watch_routing():
        assert routing.answered_by != lost
        assert routing.age_ms == 0
        break


async def test_p4_where_none_is_in_touch_what_was_last_known_is_answered(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create("demo/old", partitions=1)
    for name, proxy in cluster.zookeeper_of.items():
        proxy.cut()
        view = cluster.nameservers[name].view
        await eventually(lambda view=view: view.age_s > SESSION_TIMEOUT_S * 1.5, within_s=20)  # type: ignore[misc]
    assert (await cluster.lookup("demo/old")).topic.topic == "demo/old"
