"""Creating and deleting replicas as the leading nameserver says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from stele.datanode.role import Parts
from stele.datanode.store import Store
from stele.datanode.watch import status_of
from stele.services.errors import (
    ClusterMismatch,
    Fenced,
    GroupNotFound,
    InvalidArgument,
    StoreMismatch,
    StoreTombstone,
    TopicMismatch,
)
from stele.services.high_water import HighWater
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb.common_pb2 import Retention
from tests.integration.datanode.cluster import TOPIC, TOPIC_ID, Cluster, Node
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


def delete_request(node: Node, group: int, epoch: int = 1) -> pb.DeleteReplicaRequest:
    return node.order(pb.DeleteReplicaRequest, group, epoch)


async def test_create_and_delete_are_idempotent(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    request = datanodes.create_request(1, [node], node.store_id)
    answers = await asyncio.gather(*(node.call("CreateReplica", request) for _ in range(8)))
    assert sorted(a.created for a in answers) == [False] * 7 + [True]
    await datanodes.appended(1, make_batch())
    answers = await asyncio.gather(*(node.call("DeleteReplica", delete_request(node, 1)) for _ in range(8)))
    assert sorted(a.existed for a in answers) == [False] * 7 + [True]
    data = Path(node.config.data_dir)
    assert list((data / "groups").iterdir()) == []
    assert [p.name.partition("-")[0] for p in (data / "trash").iterdir() if p.is_dir()] == ["1"]
    with pytest.raises(GroupNotFound):
        await node.fetch(1, 0)


async def test_creates_and_deletes_in_a_storm_leave_what_was_asked_for_last(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)

    async def churn(group: int) -> None:
        create = datanodes.create_request(group, [node], node.store_id, group)
        for _ in range(5):
            await node.call("CreateReplica", create)
            await node.call("DeleteReplica", delete_request(node, group))
            create.store_ids[:], create.joins = [], True  # what was deleted here does not begin anew
        if group % 2:
            await node.call("CreateReplica", create)

    await asyncio.gather(*(churn(group) for group in range(1, 11)))
    assert sorted(node.store.replicas) == [1, 3, 5, 7, 9]
    assert sorted(g.group_id for g in node.store.registry.groups()) == [1, 3, 5, 7, 9]
    assert sorted(p.name for p in (Path(node.config.data_dir) / "groups").iterdir()) == ["1", "3", "5", "7", "9"]


async def test_r2_5_a_request_for_another_store_is_refused(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    with pytest.raises(StoreMismatch) as refused:
        await node.call("CreateReplica", datanodes.create_request(1, [node], to=7))
    assert (refused.value.facts["expected"], refused.value.facts["got"]) == ("7", "1")
    with pytest.raises(StoreMismatch):
        await node.call("DeleteReplica", node.order(pb.DeleteReplicaRequest, 1, to_store_id=7))
    assert node.store.replicas == {}


async def test_a_deposed_nameserver_is_not_obeyed_even_after_a_restart(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1, epoch=5)
    for _ in range(2):
        with pytest.raises(Fenced):
            await node.call("DeleteReplica", delete_request(node, 1, epoch=4))
        with pytest.raises(Fenced):
            await node.call("CreateReplica", datanodes.create_request(2, [node], node.store_id, epoch=4))
        await node.stop()
        await node.start()
    assert sorted(node.store.replicas) == [1]
    assert (await node.call("DeleteReplica", delete_request(node, 1, epoch=5))).existed


async def test_p31_an_epoch_that_no_nameserver_can_have_deposes_nobody(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1, epoch=5)
    with pytest.raises(InvalidArgument, match="out of reach"):
        await node.call("CreateReplica", datanodes.create_request(2, [node], node.store_id, epoch=(1 << 64) - 1))
    await datanodes.create(2, epoch=6)


async def test_a_replica_of_something_else_is_refused(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    with pytest.raises(InvalidArgument, match="test/orders-0"):
        await node.call("CreateReplica", datanodes.create_request(1, [node], node.store_id, partition=3))
    for members in ([], [2, 3], [1, 1]):
        with pytest.raises(InvalidArgument):
            await node.call(
                "CreateReplica",
                node.order(pb.CreateReplicaRequest, 2, topic="a/b", store_ids=members),
            )
    with pytest.raises(InvalidArgument):
        await node.call(
            "CreateReplica",
            node.order(pb.CreateReplicaRequest, 2, topic="nonsense", store_ids=[1]),
        )


async def test_an_interrupted_create_leaves_nothing_behind(datanodes: Cluster) -> None:
    """The crash fell between the folder and what says whose it is: nothing was promised from it."""
    [node] = await datanodes.start(1, trash_retention_s=0.5)
    await datanodes.create(1)
    await node.stop()
    groups = Path(node.config.data_dir) / "groups"
    (groups / "2").mkdir()
    (groups / "3").mkdir()
    (groups / "3" / "group.json.new").write_bytes(b'{"group"')
    (Path(node.config.data_dir) / "trash" / "9-of-an-earlier-run").mkdir()
    await node.start()
    assert sorted(node.store.replicas) == [1]
    assert sorted(p.name for p in groups.iterdir()) == ["1"]
    await eventually(lambda: not [p for p in (Path(node.config.data_dir) / "trash").iterdir() if p.is_dir()])
    await datanodes.create(2, partition=2)


async def test_p3_a_deleted_replica_that_is_moved_back_is_there_again(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(3))
    await node.call("DeleteReplica", delete_request(node, 1))
    await node.stop()
    data = Path(node.config.data_dir)
    [kept] = [p for p in (data / "trash").iterdir() if p.is_dir()]
    kept.rename(data / "groups" / "1")
    await node.start()
    await eventually(lambda: node.store.replicas[1].partition.high_watermark == 3)


async def test_p3_what_was_deleted_makes_room_where_the_disk_is_short(datanodes: Cluster) -> None:
    free = 1 << 40
    node = datanodes.node("dn1", disk_reserve_bytes=1 << 30)
    await node.start(Parts(free_bytes=lambda: free))
    await datanodes.create(1, [node])
    await datanodes.create(2, [node])
    await node.call("DeleteReplica", delete_request(node, 1))
    trash = Path(node.config.data_dir) / "trash"
    await eventually(lambda: "ages.json" in [p.name for p in trash.iterdir()])
    assert [p for p in trash.iterdir() if p.is_dir()]
    free = 3 << 29  # above the reserve: writes are taken, and go on to be
    await eventually(lambda: not [p for p in trash.iterdir() if p.is_dir()], within_s=10)
    await datanodes.appended(2, make_batch(3))


async def test_r2_6_a_removed_store_does_not_come_back(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await node.stop()
    datanodes.stores.buried.add(1)
    with pytest.raises(StoreTombstone):
        await node.start()


async def test_a_replica_is_configured_for_good_and_says_so(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    request = node.order(pb.ConfigureReplicaRequest, 1, retention=Retention(size_bytes=1 << 20, age_ms=60_000))
    assert (await node.call("ConfigureReplica", request)).changed
    assert not (await node.call("ConfigureReplica", request)).changed
    for _ in range(2):
        [status] = status_of(node.store, {1}).replicas
        assert (status.retention.size_bytes, status.retention.age_ms) == (1 << 20, 60_000)
        await node.stop()
        await node.start()
    with pytest.raises(StoreMismatch):
        await node.call("ConfigureReplica", node.order(pb.ConfigureReplicaRequest, 1, to_store_id=7))
    with pytest.raises(Fenced):
        await node.call("ConfigureReplica", node.order(pb.ConfigureReplicaRequest, 1, epoch=0))
    nobody = node.order(pb.ConfigureReplicaRequest, 2)
    with pytest.raises(GroupNotFound):
        await node.call("ConfigureReplica", nobody)
    with pytest.raises(InvalidArgument):
        await node.call("ConfigureReplica", pb.ConfigureReplicaRequest(group=1, retention=Retention(size_bytes=1)))


async def test_p3_an_order_for_another_topic_is_refused(datanodes: Cluster) -> None:
    """ZooKeeper was put back to an older copy, and a new topic was given a group that is another's here."""
    node = datanodes.node("dn1")

    async def scenario(kind: type[Store]) -> None:
        await node.start(Parts(store=kind))
        await datanodes.create(1, [node])
        await datanodes.appended(1, make_batch(3))
        other = {"topic_id": TOPIC_ID + 1}
        with pytest.raises(TopicMismatch) as refused:
            await node.call("CreateReplica", node.order(pb.CreateReplicaRequest, 1, **CREATE | other))
        assert (refused.value.facts["expected"], refused.value.facts["got"]) == ("2", "1")
        with pytest.raises(TopicMismatch):
            await node.call("ConfigureReplica", node.order(pb.ConfigureReplicaRequest, 1, **other))
        with promise("a replica is deleted for its own topic alone"):
            with pytest.raises(TopicMismatch):
                await node.call("DeleteReplica", node.order(pb.DeleteReplicaRequest, 1, **other))
            await datanodes.leader(1)
            assert (await node.fetch(1, 0)).high_watermark >= 3
        await node.stop()

    await holds_and_mutant_fails(scenario, Store, "groups.ObeysForAnyTopic")


CREATE: dict[str, object] = {"topic": TOPIC, "store_ids": [1]}


async def test_p3_an_order_from_another_cluster_is_refused(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    for kind, method, facts in (
        (pb.CreateReplicaRequest, "CreateReplica", CREATE),
        (pb.ConfigureReplicaRequest, "ConfigureReplica", {}),
        (pb.DeleteReplicaRequest, "DeleteReplica", {}),
    ):
        for stranger in ("", "another"):
            # Its epoch is higher: an order that is not meant for this cluster must not depose its nameserver either.
            with pytest.raises(ClusterMismatch):
                await node.call(method, node.order(kind, 1, epoch=9, cluster_id=stranger, **facts))
    assert node.store.directory.identity.leader_epoch == 1
    assert sorted(node.store.replicas) == [1]


async def test_p3_a_replica_says_its_topics_id_and_learns_it_if_it_was_written_before(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    assert status_of(node.store, {1}).replicas[0].topic_id == TOPIC_ID
    await node.stop()
    path = Path(node.config.data_dir) / "groups" / "1" / "group.json"
    body = json.loads(path.read_bytes())
    del body["topic_id"]
    path.write_text(json.dumps(body))
    await node.start()
    assert status_of(node.store, {1}).replicas[0].topic_id == 0
    assert (await node.call("ConfigureReplica", node.order(pb.ConfigureReplicaRequest, 1))).changed
    for _ in range(2):
        assert status_of(node.store, {1}).replicas[0].topic_id == TOPIC_ID
        await node.stop()
        await node.start()


async def test_p3_a_store_keeps_the_highest_that_it_was_told_and_says_it(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    assert HighWater.of(status_of(node.store).seen) == HighWater(stores=2)
    await datanodes.create(4, epoch=2)
    assert HighWater.of(status_of(node.store).seen) == HighWater(2, TOPIC_ID + 1, 5, 2)
    facts = {"to_store_id": 1, "cluster_id": node.store.directory.identity.cluster_id}
    for epoch, told in ((3, HighWater(topics=9, stores=7)), (3, HighWater(topics=4, groups=6))):
        request = pb.TellHighWaterRequest(leader_epoch=epoch, told=told.message(), **facts)
        await node.call("TellHighWater", request)
    for _ in range(2):
        assert HighWater.of(status_of(node.store, set()).seen) == HighWater(3, 9, 6, 7)
        await node.stop()
        await node.start()
    with pytest.raises(Fenced):
        await node.call("TellHighWater", pb.TellHighWaterRequest(leader_epoch=2, **facts))
    with pytest.raises(ClusterMismatch):
        await node.call("TellHighWater", pb.TellHighWaterRequest(leader_epoch=9, **facts | {"cluster_id": "x"}))
