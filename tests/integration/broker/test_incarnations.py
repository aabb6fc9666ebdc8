"""What was meant for a subscription before it was moved or made anew, or for a former topic of the name, at the broker."""

from __future__ import annotations

import asyncio

import pytest

from stele.broker.owned_partitions import OwnedPartitions
from stele.services.errors import (
    NotOwner,
    NotReady,
    StaleAck,
    SteleError,
    SubscriptionNotFound,
    SubscriptionReset,
    TopicNotFound,
    TopicReplaced,
)
from stele.services.pb import broker_pb2 as pb
from stele.services.rpc.channels import call
from stele.services.rpc.status import from_pb
from tests.integration.broker.cluster import TOPIC, WITHIN_S, BrokerUnderTest, Cluster, Consumer
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually

SEEK = pb.SeekSubscriptionRequest(topic=TOPIC, partition=0, subscription="s", earliest=True)
DELETE = pb.DeleteSubscriptionRequest(topic=TOPIC, partition=0, subscription="s")


async def consuming(cluster: Cluster, broker: BrokerUnderTest, count: int = 10) -> Consumer:
    producer = await cluster.producer(broker)
    await producer.offset(await producer.send(*(f"m{n}" for n in range(count))))
    consumer = await cluster.consumer(broker)
    await consumer.received(count)
    return consumer


def floor(cluster: Cluster, subscription: str = "s") -> int:
    cursor = cluster.group().partition.cursor(subscription)
    assert cursor is not None
    return cursor.ack_floor


async def refused(consumer: Consumer, request_id: int) -> SteleError:
    return await eventually(lambda: consumer.refused.get(request_id))


# --- subscriptions ----------------------------------------------------------------------------------------------------


async def test_p7_what_was_delivered_before_a_seek_is_not_acknowledged_after_it(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumer = await consuming(cluster, broker)
    assert consumer.opened is not None
    before = consumer.opened.generation
    assert (consumer.opened.topic_id, before) == (cluster.topic_id, 1)
    await cluster.stub(broker).SeekSubscription(SEEK)
    assert isinstance(await eventually(lambda: consumer.closed), SubscriptionReset)
    again = await cluster.consumer(broker)
    assert again.opened is not None
    assert again.opened.generation > before
    for cumulative in (False, True):
        error = await refused(again, await again.ack(9, cumulative=cumulative, generation=before))
        assert isinstance(error, StaleAck)
        assert (error.definite, error.retryable) == (True, False)
    assert isinstance(await refused(again, await again.ack(9, generation=0)), StaleAck), "nobody may leave it out"
    assert await again.received(10) == [f"m{n}" for n in range(10)]
    await again.acked(*range(10))
    assert floor(cluster) == 10


async def test_p7_an_acknowledgement_that_a_seek_overtakes_is_not_confirmed(cluster: Cluster) -> None:
    """It reaches the partition after the reset, and its answer the broker before that of the reset."""
    broker = await cluster.broker()
    consumer = await consuming(cluster, broker)
    for datanode in cluster.datanodes.values():
        datanode.hold_resets.clear()
    seeking = asyncio.ensure_future(cluster.stub(broker).SeekSubscription(SEEK))
    cursor = cluster.group().partition.cursor("s")
    assert cursor is not None
    await eventually(lambda: cursor.generation > 1)
    await consumer.ack(*range(10))
    assert isinstance(await eventually(lambda: consumer.closed), SubscriptionReset)
    assert not consumer.confirmed
    again = await cluster.consumer(broker)
    assert await again.received(10) == [f"m{n}" for n in range(10)]
    for datanode in cluster.datanodes.values():
        datanode.hold_resets.set()
    await seeking
    assert floor(cluster) == 0


async def test_p7_a_subscription_made_anew_is_another_one(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumer = await consuming(cluster, broker)
    assert consumer.opened is not None
    before = consumer.opened.generation
    await consumer.leave()
    assert (await cluster.stub(broker).DeleteSubscription(DELETE)).existed
    again = await cluster.consumer(broker)
    assert again.opened is not None
    assert again.opened.generation not in (0, before)
    assert isinstance(await refused(again, await again.ack(9, generation=before)), StaleAck)
    assert await again.received(10) == [f"m{n}" for n in range(10)]


async def test_p7_a_subscription_that_must_exist_is_not_made(cluster: Cluster) -> None:
    first, second = await cluster.broker("br1"), await cluster.broker("br2")
    consumer = await consuming(cluster, first)
    await consumer.acked(0, 1)
    cluster.assign("br2", 2)
    await eventually(lambda: consumer.ended)
    again = await cluster.consumer(second, must_exist=True)
    assert await again.received(8) == [f"m{n}" for n in range(2, 10)]
    await again.leave()
    await cluster.stub(second).DeleteSubscription(DELETE)
    with pytest.raises(SubscriptionNotFound):
        await cluster.consumer(second, must_exist=True)
    assert cluster.group().partition.cursor("s") is None


async def test_p8_acknowledgements_of_a_deleted_subscription_are_written_no_more(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumer = await consuming(cluster, broker)
    other = await cluster.consumer(broker, "other")
    await other.received(10)
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.clear()
    await consumer.ack(0, 1, 2)
    consumer.close()
    owned = broker.partitions.get(TOPIC, 0)
    assert owned is not None
    await eventually(lambda: not owned.dispatch._live["s"].connected and owned.dispatch._writes)
    assert (await cluster.stub(broker).DeleteSubscription(DELETE)).existed
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.set()
    await eventually(lambda: not owned.dispatch._writes)
    before = cluster.leader.acks
    for n in range(5):  # each waits for a flush of its own, and so would the deleted one's
        await other.acked(n)
    assert cluster.leader.acks - before == 5
    assert "s" not in owned.dispatch._live


async def what_others_confirmed_while_the_owner_stood_still(serve: type[OwnedPartitions]) -> None:
    async with Cluster(serve=serve) as cluster:
        first, second = await cluster.broker("br1"), await cluster.broker("br2")
        consumer = await consuming(cluster, first)
        await consumer.leave()
        owned = first.partitions.get(TOPIC, 0)
        assert owned is not None
        # BEFORE another owner is there: else it hears of that one by the refusal of what it still has to write.
        await eventually(lambda: not owned.dispatch._live["s"].core.has_acks_to_write and not owned.dispatch._writes)
        first.paused = True  # it stands still, and its session lives on
        cluster.assign("br2", 2)
        elsewhere = await cluster.consumer(second, owner_epoch=2)
        await elsewhere.received(10)
        await elsewhere.acked(*range(5))
        cluster.assign("br1", 3)
        await eventually(lambda: elsewhere.ended)
        with promise("an owner that has not heard of its epoch yet does not go on under its old one"):
            with pytest.raises(NotOwner):
                await cluster.consumer(first, owner_epoch=3)
            at, stub = {"topic": TOPIC, "partition": 0, "owner_epoch": 3}, cluster.stub(first)
            for method, request in (
                (stub.ListSubscriptions, pb.ListSubscriptionsRequest(topic=TOPIC, partitions=[0], owner_epoch=3)),
                (stub.CreateSubscription, pb.CreateSubscriptionRequest(**at, subscription="s", earliest=True)),
                (stub.SeekSubscription, pb.SeekSubscriptionRequest(**at, subscription="s", earliest=True)),
                (stub.DeleteSubscription, pb.DeleteSubscriptionRequest(**at, subscription="none")),
            ):
                with pytest.raises(NotOwner):
                    await call(method, request, WITHIN_S)
        first.paused = False
        cluster.tell()
        again = await cluster.consumer(first, owner_epoch=3)
        assert await again.received(5) == [f"m{n}" for n in range(5, 10)]
        await again.acked(*range(5, 10))
        assert floor(cluster) == 10


async def test_p7d_who_owns_anew_does_not_go_on_under_the_epoch_of_before() -> None:
    await holds_and_mutant_fails(
        what_others_confirmed_while_the_owner_stood_still, OwnedPartitions, "incarnations.GoesOnUnderItsOldEpoch"
    )


# --- topics -----------------------------------------------------------------------------------------------------------


async def what_is_meant_for_a_former_topic(serve: type[OwnedPartitions]) -> None:
    async with Cluster(serve=serve) as cluster:
        broker = await cluster.broker()
        former, producer = cluster.topic_id, await cluster.producer(broker)
        assert await producer.offset(await producer.send("old", topic_id=former)) == 0
        cluster.recreate_topic()
        late = await producer.answer(await producer.send("late", topic_id=former))
        with promise("what is meant for a former topic does not reach the new one"):
            assert isinstance(from_pb(late.error), TopicReplaced)
        with pytest.raises(TopicReplaced) as mismatch:
            await cluster.consumer(broker, topic_id=former)
        assert mismatch.value.facts == {"expected": str(former), "got": str(cluster.topic_id)}
        assert (mismatch.value.definite, mismatch.value.retryable) == (True, True)
        new = await producer.send("new", producer_id=8, topic_id=cluster.topic_id)
        assert await producer.offset(new) == 0
        assert cluster.group().values() == [b"new"]


async def test_p7b_what_is_meant_for_a_former_topic_does_not_reach_the_new_one() -> None:
    await holds_and_mutant_fails(
        what_is_meant_for_a_former_topic, OwnedPartitions, "incarnations.ServesWhoeverHasTheName"
    )


async def test_p7b_a_broker_that_knows_only_the_former_topic_stores_nothing_in_it(cluster: Cluster) -> None:
    broker = await cluster.broker()
    former, producer = cluster.topic_id, await cluster.producer(broker)
    await producer.offset(await producer.send("old", topic_id=former))
    broker.paused = True
    cluster.recreate_topic()
    request_id = await producer.send("new", producer_id=8, topic_id=cluster.topic_id)
    assert isinstance(await producer.error(request_id), TopicReplaced), "it is not stored in the former one"
    broker.paused = False
    cluster.tell()
    request_id = await producer.send("new", producer_id=9, topic_id=cluster.topic_id)
    assert await producer.offset(request_id) == 0
    assert cluster.group().values() == [b"new"]


async def test_p7b_a_topic_that_is_not_known_here_may_be_known_to_a_nameserver(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    assert isinstance(await producer.error(await producer.send("x", topic="test/new", topic_id=99)), NotReady)
    assert isinstance(await producer.error(await producer.send("x", topic="test/new")), TopicNotFound)
