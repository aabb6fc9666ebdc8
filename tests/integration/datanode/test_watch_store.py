"""What a store says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stele.datanode.watch import watch
from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import Cluster, Node
from tests.unit.datanode.entries import make_batch


async def next_of(stream: AsyncIterator[pb.StoreStatus], within_s: float = 8.0) -> pb.StoreStatus:
    return await asyncio.wait_for(anext(stream), within_s)


async def until(stream: AsyncIterator[pb.StoreStatus], group: int, state: str) -> pb.ReplicaStatus:
    async with asyncio.timeout(10):
        async for status in stream:
            for replica in status.replicas:
                if (replica.group, replica.state) == (group, state):
                    return replica
    raise AssertionError("the stream ended")


def stream_of(node: Node) -> AsyncIterator[pb.StoreStatus]:
    answers: AsyncIterator[pb.StoreStatus] = node.stub.WatchStore(pb.WatchStoreRequest()).__aiter__()
    return answers


async def test_first_the_whole_then_what_changes(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(3))
    stream = stream_of(node)
    first = await next_of(stream)
    assert (first.complete, first.state, first.store_id) == (True, "ready", 1)
    [replica] = first.replicas
    assert (replica.group, replica.topic, replica.partition, replica.state) == (1, "test/orders", 0, "leader")
    assert (replica.leader_store_id, replica.high_watermark) == (1, 3)
    assert replica.log_bytes > 0
    assert first.disk_free_bytes > 0
    await datanodes.create(2, partition=1)
    led = await until(stream, 2, "leader")
    assert led.partition == 1
    await node.call("DeleteReplica", node.order(pb.DeleteReplicaRequest, 2))
    await until(stream, 2, "deleted")


async def test_a_change_of_leader_is_told_by_the_new_one(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    leader = await datanodes.leader(1)
    streams = [stream_of(n) for n in nodes if n is not leader]
    for stream in streams:
        assert (await next_of(stream)).replicas[0].leader_store_id == leader.store_id
    waiting = [asyncio.create_task(until(stream, 1, "leader")) for stream in streams]
    await leader.stop()
    done, pending = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    [new] = [task.result() for task in done]
    assert new.leader_store_id != leader.config.name
    for task in pending:
        task.cancel()


async def test_silence_is_bounded(datanodes: Cluster) -> None:
    """Without any change the whole is said again."""
    [node] = await datanodes.start(1)
    stream = watch(node.store, heartbeat_s=0.05)
    for _ in range(3):
        assert (await next_of(stream, 5)).complete
    await stream.aclose()


async def test_draining_is_said(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    stream = stream_of(node)
    assert (await next_of(stream)).state == "ready"
    assert node.role is not None
    draining = asyncio.create_task(node.role.drain())
    status = await next_of(stream)
    assert status.state == "draining"
    await draining
