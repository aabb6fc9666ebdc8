"""Replicas whose copies are damaged: readers go on at another one, and are told where there is none."""

from __future__ import annotations

import asyncio

from stele.services.errors import MessagesLost
from tests.integration.broker.cluster import Cluster
from tests.integration.broker.test_consume import fill
from tests.support.eventually import eventually


async def fresh(cluster: Cluster, count: int = 50) -> tuple[list[str], str]:
    """Messages that the broker which serves them has not in memory."""
    await cluster.broker()
    values = await fill(cluster, count)
    await cluster.broker("br2")
    cluster.assign("br2", 2)
    return values, "br2"


async def test_p39_each_replica_is_read_where_the_others_are_damaged(cluster: Cluster) -> None:
    values, name = await fresh(cluster)
    for at, datanode in cluster.datanodes.items():
        datanode.damaged = range(10 * at, 10 * at + 5)
    consumer = await cluster.consumer(cluster.brokers[name], credit=100)
    assert await consumer.received(50) == values


async def test_p39_what_no_replica_can_read_ends_the_stream_with_its_offsets(cluster: Cluster) -> None:
    values, name = await fresh(cluster)
    for at, datanode in cluster.datanodes.items():
        datanode.damaged = range(20 - at, 25 + at)
    consumer = await cluster.consumer(cluster.brokers[name], credit=100)
    assert await consumer.received(19) == values[:19]  # whoever can read further is asked, too
    await eventually(lambda: consumer.closed is not None)
    error = consumer.closed
    assert isinstance(error, MessagesLost)
    assert error.facts == {"topic": "test/orders", "partition": "0", "first": "19", "last": "25"}


async def test_p39_a_replica_that_is_away_may_be_whole_and_is_waited_for(cluster: Cluster) -> None:
    values, name = await fresh(cluster)
    whole = cluster.datanodes[3]
    cluster.datanodes[1].damaged = cluster.datanodes[2].damaged = range(20, 21)
    await whole.kill()
    consumer = await cluster.consumer(cluster.brokers[name], credit=100)
    assert await consumer.received(20) == values[:20]
    await asyncio.sleep(1.0)
    assert len(consumer.offsets) == 20
    await whole.start()
    assert await consumer.received(50) == values


async def test_p19_a_replica_in_quarantine_is_passed_over(cluster: Cluster) -> None:
    values, name = await fresh(cluster)
    leader = cluster.leader
    consumer = await cluster.consumer(cluster.brokers[name], credit=100)
    await consumer.received(50)
    leader.quarantined = True
    cluster.group().leader = next(i for i in cluster.datanodes if i != leader.store_id)
    await consumer.acked(*range(50))
    producer = await cluster.producer(cluster.brokers[name])
    assert await producer.offset(await producer.send("more", producer_id=9)) == 50
    assert await consumer.received(51) == [*values, "more"]
