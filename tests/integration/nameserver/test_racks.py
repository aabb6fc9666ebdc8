"""Racks of stores, from their registration to where replicas are, over a real ZooKeeper."""

from __future__ import annotations

import pytest

from stele.services.errors import InvalidArgument, NotEnoughStores
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster


async def test_replicas_are_spread_over_racks_as_far_as_there_are_some_or_the_topic_is_refused(
    cluster: Cluster,
) -> None:
    await cluster.start(nameservers=2)
    for name, rack in (("dn1", "a"), ("dn2", "a"), ("dn3", "a"), ("dn4", "b")):
        await cluster.datanode(name, rack=rack)
    await cluster.stores_ready(4)
    stores = (await cluster.ask("ListStores", pb.ListStoresRequest())).stores
    assert [s.rack for s in stores] == ["a", "a", "a", "b"]
    other = stores[3].store_id
    assert (await cluster.create("demo/two", partitions=6, replication=2, racks="require")).topic.racks == "require"
    await cluster.create("demo/three", partitions=4, replication=3)
    for topic in ("demo/two", "demo/three"):
        for route in (await cluster.lookup(topic)).partitions:
            assert other in {r.store_id for r in route.replicas}, "each is on both racks"
    with pytest.raises(NotEnoughStores, match="on 3 racks; there are 2"):
        await cluster.create("demo/apart", partitions=1, replication=3, racks="require")
    with pytest.raises(InvalidArgument, match="racks: 'never' is not prefer or require"):
        await cluster.create("demo/odd", partitions=1, replication=3, racks="never")
    group = (await cluster.lookup("demo/two")).partitions[0]
    kept = next(r.store_id for r in group.replicas if r.store_id != other)
    spare = next(s.store_id for s in stores if s.store_id not in (kept, other))
    move = pb.MovePartitionRequest(group=group.group, from_store_id=other, to_store_id=spare)
    with pytest.raises(InvalidArgument, match="demo/two requires racks apart"):
        await cluster.ask("MovePartition", move)
    said = await cluster.ask("ExplainPartition", pb.ExplainPartitionRequest(group=group.group))
    assert {r.here.partition("; rack ")[2] for r in said.replicas} == {"a", "b"}
