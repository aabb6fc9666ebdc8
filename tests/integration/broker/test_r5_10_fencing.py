"""R5.10: ownership is fenced by an epoch.  A broker that was paused and wakes up after losing its bundles gets no write accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stele.broker.owned_partitions import Build
from stele.broker.partition_client import PartitionClient
from stele.datanode.partition import PartitionState
from stele.services.errors import NotOwner
from tests.integration.broker.cluster import Cluster, batch
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


@dataclass(frozen=True)
class Parts:
    broker: Build = PartitionClient
    partition: Callable[[], PartitionState] = PartitionState


async def paused_owner_wakes_up(parts: Parts) -> None:
    async with Cluster(make_partition=parts.partition) as cluster:
        old, new = await cluster.broker("br1", build=parts.broker), await cluster.broker("br2", build=parts.broker)
        before = await cluster.producer(old)
        assert await before.offset(await before.send("before")) == 0
        consumer = await cluster.consumer(old)
        await consumer.received(1)
        old.paused = True
        cluster.assign("br2", 2)
        after = await cluster.producer(new)
        assert await after.offset(await after.send("after", producer_id=8)) == 1
        late = await before.send("too late")
        error = await eventually(lambda: before.answers.get(late))
        with promise("a paused owner that wakes up gets nothing accepted"):
            assert error.error.reason == NotOwner.reason, "the paused broker's write was accepted"
        assert cluster.group().values() == [b"before", b"after"]
        assert isinstance(await eventually(lambda: consumer.closed), NotOwner)
        assert not old.partitions.ownership.owned


async def test_r5_10_paused_owner_wakes_up_broker_side() -> None:
    await holds_and_mutant_fails(
        paused_owner_wakes_up, Parts(), "ownership.BorrowsEpoch", lambda mutant: Parts(broker=mutant)
    )


async def test_r5_10_paused_owner_wakes_up_datanode_side() -> None:
    await holds_and_mutant_fails(
        paused_owner_wakes_up, Parts(), "ownership.IgnoresEpoch", lambda mutant: Parts(partition=mutant)
    )


async def paused_owner_acknowledges(parts: Parts) -> None:
    """A cursor belongs to the owner, too: an acknowledgement under an old epoch changes nothing and is not confirmed."""
    async with Cluster(make_partition=parts.partition) as cluster:
        old, new = await cluster.broker("br1"), await cluster.broker("br2")
        producer = await cluster.producer(old)
        await producer.offset(await producer.send("a", "b"))
        consumer = await cluster.consumer(old)
        await consumer.received(2)
        old.paused = True
        cluster.assign("br2", 2)
        successor = await cluster.consumer(new)
        await successor.received(2)
        await consumer.ack(0, 1)
        with promise("a paused owner that wakes up gets nothing accepted"):
            assert isinstance(await eventually(lambda: consumer.closed or consumer.confirmed), NotOwner)
        cursor = cluster.group().partition.cursor("s")
        assert cursor is not None
        assert cursor.ack_floor == 0


async def test_r5_10_paused_owner_acknowledges() -> None:
    await holds_and_mutant_fails(
        paused_owner_acknowledges, Parts(), "ownership.IgnoresEpoch", lambda mutant: Parts(partition=mutant)
    )


async def first_use_fences(parts: Parts) -> None:
    """A read is enough: from the new owner's first use on the old one is refused, before the new one has written anything."""
    async with Cluster(make_partition=parts.partition) as cluster:
        old, new = await cluster.broker("br1"), await cluster.broker("br2")
        producer = await cluster.producer(old)
        await producer.offset(await producer.send("a"))
        old.paused = True
        cluster.assign("br2", 2)
        consumer = await cluster.consumer(new)
        await consumer.received(1)
        answer = await producer.answer(await producer.send_batch(batch("b", sequence=1)))
        with promise("a paused owner that wakes up gets nothing accepted"):
            assert answer.error.reason == NotOwner.reason


async def test_r5_10_first_use_fences_the_former_owner() -> None:
    await holds_and_mutant_fails(
        first_use_fences, Parts(), "ownership.IgnoresEpoch", lambda mutant: Parts(partition=mutant)
    )


async def test_r5_10_a_lagging_nameserver_does_not_bring_ownership_back(cluster: Cluster) -> None:
    broker = await cluster.broker("br1")
    stale = cluster.routing()
    producer = await cluster.producer(broker)
    await producer.offset(await producer.send("a"))
    cluster.assign("br2", 2)
    broker.partitions.observe(stale)
    assert isinstance(await producer.error(await producer.send("b")), NotOwner)
    assert broker.partitions.ownership.owned == {cluster.bundle(1): 1}
