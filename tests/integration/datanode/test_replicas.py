"""Creating and deleting replicas as the leading nameserver says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stele.datanode.watch import status_of
from stele.services.errors import Fenced, GroupNotFound, InvalidArgument, StoreMismatch, StoreTombstone
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb.common_pb2 import Retention
from tests.integration.datanode.cluster import Cluster, Node
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


def delete_request(node: Node, group: int, epoch: int = 1) -> pb.DeleteReplicaRequest:
    return pb.DeleteReplicaRequest(group=group, leader_epoch=epoch, to_store_id=node.store_id)


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
    await eventually(lambda: list((data / "trash").iterdir()) == [])
    with pytest.raises(GroupNotFound):
        await node.fetch(1, 0)


async def test_creates_and_deletes_in_a_storm_leave_what_was_asked_for_last(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)

    async def churn(group: int) -> None:
        for _ in range(5):
            await node.call("CreateReplica", datanodes.create_request(group, [node], node.store_id, group))
            await node.call("DeleteReplica", delete_request(node, group))
        if group % 2:
            await node.call("CreateReplica", datanodes.create_request(group, [node], node.store_id, group))

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
        await node.call("DeleteReplica", pb.DeleteReplicaRequest(group=1, leader_epoch=1, to_store_id=7))
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


async def test_a_replica_of_something_else_is_refused(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    with pytest.raises(InvalidArgument, match="test/orders-0"):
        await node.call("CreateReplica", datanodes.create_request(1, [node], node.store_id, partition=3))
    for members in ([], [2, 3], [1, 1]):
        with pytest.raises(InvalidArgument):
            await node.call(
                "CreateReplica",
                pb.CreateReplicaRequest(group=2, topic="a/b", store_ids=members, leader_epoch=1, to_store_id=1),
            )
    with pytest.raises(InvalidArgument):
        await node.call(
            "CreateReplica",
            pb.CreateReplicaRequest(group=2, topic="nonsense", store_ids=[1], leader_epoch=1, to_store_id=1),
        )


async def test_an_interrupted_create_leaves_nothing_behind(datanodes: Cluster) -> None:
    """The crash fell between the folder and what says whose it is: nothing was promised from it."""
    [node] = await datanodes.start(1)
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
    await eventually(lambda: list((Path(node.config.data_dir) / "trash").iterdir()) == [])
    await datanodes.create(2, partition=2)


async def test_r2_6_a_removed_store_does_not_come_back(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await node.stop()
    datanodes.stores.buried.add(1)
    with pytest.raises(StoreTombstone):
        await node.start()


async def test_a_replica_is_configured_for_good_and_says_so(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    request = pb.ConfigureReplicaRequest(
        group=1, leader_epoch=1, to_store_id=node.store_id, retention=Retention(size_bytes=1 << 20, age_ms=60_000)
    )
    assert (await node.call("ConfigureReplica", request)).changed
    assert not (await node.call("ConfigureReplica", request)).changed
    for _ in range(2):
        [status] = status_of(node.store, {1}).replicas
        assert (status.retention.size_bytes, status.retention.age_ms) == (1 << 20, 60_000)
        await node.stop()
        await node.start()
    with pytest.raises(StoreMismatch):
        await node.call("ConfigureReplica", pb.ConfigureReplicaRequest(group=1, leader_epoch=1, to_store_id=7))
    with pytest.raises(Fenced):
        await node.call("ConfigureReplica", pb.ConfigureReplicaRequest(group=1, to_store_id=node.store_id))
    nobody = pb.ConfigureReplicaRequest(group=2, leader_epoch=1, to_store_id=node.store_id)
    with pytest.raises(GroupNotFound):
        await node.call("ConfigureReplica", nobody)
    with pytest.raises(InvalidArgument):
        await node.call("ConfigureReplica", pb.ConfigureReplicaRequest(group=1, retention=Retention(size_bytes=1)))
