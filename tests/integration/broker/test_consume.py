"""Consuming through a broker, over real gRPC, with faults at the wire between broker and datanodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stele.broker.owned_partitions import OwnedPartitions
from stele.services.errors import (
    ConsumerBusy,
    InvalidArgument,
    NotOwner,
    PartitionNotFound,
    SubscriptionNotFound,
    SubscriptionReset,
    TopicNotFound,
)
from stele.services.pb import broker_pb2 as pb
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.status import from_pb
from tests.integration.broker.cluster import TOPIC, BrokerUnderTest, Cluster, Consumer
from tests.support.eventually import eventually


async def fill(cluster: Cluster, count: int, per_batch: int = 1) -> list[str]:
    """Stores m0, m1, … through the broker."""
    producer = await cluster.producer(cluster.brokers["br1"])
    values = [f"m{n}" for n in range(count)]
    ids = [await producer.send(*values[i : i + per_batch]) for i in range(0, count, per_batch)]
    for request_id in ids:
        await producer.offset(request_id)
    return values


async def fill_more(cluster: Cluster, *values: str) -> None:
    producer = await cluster.producer(cluster.brokers["br1"])
    await producer.offset(await producer.send(*values, producer_id=8))


async def infos(cluster: Cluster, broker: BrokerUnderTest) -> dict[str, pb.SubscriptionInfo]:
    response = await cluster.stub(broker).ListSubscriptions(pb.ListSubscriptionsRequest(topic=TOPIC, partitions=[0]))
    return {s.subscription: s for s in response.subscriptions}


async def test_delivers_in_order_and_confirms(cluster: Cluster) -> None:
    broker = await cluster.broker()
    values = await fill(cluster, 50)
    consumer = await cluster.consumer(broker)
    assert consumer.opened is not None
    assert (consumer.opened.position, consumer.opened.created, consumer.opened.active) == (0, True, True)
    assert await consumer.received(50) == values
    await consumer.acked(*range(50))
    cursor = cluster.group().partition.cursor("s")
    assert cursor is not None
    assert cursor.ack_floor == 50


async def test_what_this_broker_appends_is_delivered_from_memory(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumer = await cluster.consumer(broker)
    values = await fill(cluster, 200, per_batch=10)
    assert await consumer.received(200) == values
    assert not any(d.fetches > 10 for d in cluster.datanodes.values())


async def test_credit_bounds_what_is_sent(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 30, per_batch=10)
    consumer = await cluster.consumer(broker, credit=7)
    await consumer.received(7)
    await consumer.credit(5)
    await consumer.received(12)
    await consumer.credit(1)
    await consumer.received(13)
    await consumer.acked(0)
    assert len(consumer.offsets) == 13


async def test_an_ack_is_confirmed_only_when_committed(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker)
    await consumer.received(3)
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.clear()
    request_id = await consumer.ack(0, 1)
    await asyncio.sleep(0.2)
    assert not consumer.confirmed
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.set()
    await eventually(lambda: request_id in consumer.confirmed)


async def test_acks_are_joined(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 100)
    consumer = await cluster.consumer(broker)
    await consumer.received(100)
    before = cluster.group().entries
    ids = [await consumer.ack(n) for n in range(100)]
    await eventually(lambda: consumer.confirmed == set(ids))
    assert cluster.group().entries - before < 30


async def test_an_ack_whose_answer_was_lost_is_written_again(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker)
    await consumer.received(3)
    cluster.leader.fails_acks = 2
    await consumer.acked(0, 1, 2)
    cursor = cluster.group().partition.cursor("s")
    assert cursor is not None
    assert cursor.ack_floor == 3


async def test_next_owner_redelivers_what_was_not_confirmed(cluster: Cluster) -> None:
    first, second = await cluster.broker("br1"), await cluster.broker("br2")
    await fill(cluster, 10)
    consumer = await cluster.consumer(first)
    await consumer.received(10)
    await consumer.acked(0, 1, 5)
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.clear()
    await consumer.ack(2)
    cluster.assign("br2", 2)
    assert isinstance(await eventually(lambda: consumer.closed), NotOwner)
    await eventually(lambda: consumer.ended)
    assert consumer.confirmed == {1}
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.set()
    successor = await cluster.consumer(second)
    assert await successor.received(7) == ["m2", "m3", "m4", "m6", "m7", "m8", "m9"]


def flushes_rarely(name: str, channels: Channels, **parts: Any) -> OwnedPartitions:
    return OwnedPartitions(name, channels, ack_flush_interval_s=60.0, **parts)


@pytest.mark.parametrize("how", ["reassigned", "drained"])
async def test_p9_what_was_acknowledged_is_written_before_the_partition_is_handed_over(how: str) -> None:
    async with Cluster(serve=flushes_rarely) as cluster:
        first, second = await cluster.broker("br1"), await cluster.broker("br2")
        await fill(cluster, 10)
        consumer = await cluster.consumer(first)
        await consumer.received(10)
        request_id = await consumer.ack(*range(7))
        owned = first.partitions.get(TOPIC, 0)
        assert owned is not None
        await eventually(lambda: owned.dispatch._live["s"].core.has_acks_to_write)
        if how == "drained":
            await first.partitions.drain()
        cluster.assign("br2", 2)
        assert isinstance(await eventually(lambda: consumer.closed), NotOwner)
        assert consumer.confirmed == {request_id}
        assert await (await cluster.consumer(second)).received(3) == ["m7", "m8", "m9"]


async def test_p9_a_broker_that_drains_takes_no_partition_on(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker)
    await consumer.received(3)
    for datanode in cluster.datanodes.values():
        datanode.hold_acks.clear()
    await consumer.ack(0)
    owned = broker.partitions.get(TOPIC, 0)
    assert owned is not None
    await eventually(lambda: owned.dispatch._writes)
    draining = asyncio.create_task(broker.partitions.drain())
    await eventually(lambda: broker.partitions.get(TOPIC, 0) is None)
    with pytest.raises(NotOwner, match="shutting down"):
        await cluster.consumer(broker, partition=1)
    await draining
    # It waits for acknowledgements, but not for ever; what it says last may still be under way to the consumer.
    assert isinstance(await eventually(lambda: consumer.closed), NotOwner)


async def test_a_client_may_ack_at_the_next_owner_what_the_former_delivered(cluster: Cluster) -> None:
    first, second = await cluster.broker("br1"), await cluster.broker("br2")
    await fill(cluster, 5)
    consumer = await cluster.consumer(first)
    await consumer.received(5)
    cluster.assign("br2", 2)
    await eventually(lambda: consumer.ended)
    successor = await cluster.consumer(second, credit=0)
    await successor.acked(0, 1, 2)
    await successor.credit(10)
    assert await successor.received(2) == ["m3", "m4"]


async def test_exclusive_refuses_a_second_consumer_until_the_first_leaves(cluster: Cluster) -> None:
    broker = await cluster.broker()
    first = await cluster.consumer(broker, name="first")
    with pytest.raises(ConsumerBusy, match="first"):
        await cluster.consumer(broker, name="second")
    with pytest.raises(ConsumerBusy):
        await cluster.consumer(broker, name="second", kind=pb.SHARED)
    first.close()

    async def second() -> Consumer | None:
        try:
            return await cluster.consumer(broker, name="second")
        except ConsumerBusy:
            return None

    await eventually(second)


async def test_failover_hands_over_to_the_next_in_order(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 6)
    first = await cluster.consumer(broker, kind=pb.FAILOVER, name="first")
    second = await cluster.consumer(broker, kind=pb.FAILOVER, name="second")
    assert first.opened is not None
    assert second.opened is not None
    assert (first.opened.active, second.opened.active) == (True, False)
    await first.received(6)
    await first.acked(0, 1)
    first.close()
    assert await second.received(4) == ["m2", "m3", "m4", "m5"]
    assert second.activity == [True]
    assert set(second.redelivered.values()) == {1}


async def test_shared_gives_each_message_to_one(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumers = [await cluster.consumer(broker, kind=pb.SHARED, credit=500) for _ in range(2)]
    await fill(cluster, 200, per_batch=4)
    await eventually(lambda: sum(len(c.offsets) for c in consumers) == 200)
    assert sorted(consumers[0].offsets + consumers[1].offsets) == list(range(200))
    assert all(len(c.offsets) > 50 for c in consumers)


async def test_shared_redelivers_what_a_gone_consumer_held(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 10)
    first = await cluster.consumer(broker, kind=pb.SHARED)
    await first.received(10)
    second = await cluster.consumer(broker, kind=pb.SHARED)
    await first.acked(3)
    first.close()
    await second.received(9)
    assert sorted(second.offsets) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


async def test_nack_and_ack_timeout_redeliver(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker, ack_timeout_ms=400)
    await consumer.received(3)
    await consumer.acked(0)
    await consumer.receive(0, 1, 2)
    await consumer.nack(1, delay_ms=100)
    await eventually(lambda: consumer.redelivered.keys() == {1, 2})
    await consumer.acked(1, 2)
    assert 0 not in consumer.redelivered


async def test_p15_how_often_a_message_failed_outlives_the_broker(cluster: Cluster) -> None:
    first, second = await cluster.broker("br1"), await cluster.broker("br2")
    await fill(cluster, 4)
    consumer = await cluster.consumer(first)
    await consumer.received(4)
    await consumer.acked(0)
    for count in (1, 2, 3):
        await consumer.nack(2)
        await eventually(lambda count=count: consumer.redelivered.get(2) == count)
    cursor = cluster.group().partition.cursor("s")
    assert cursor is not None
    await eventually(lambda: cursor.redeliveries.ranges == [(2, 2, 3)])
    cluster.assign("br2", 2)
    await eventually(lambda: consumer.ended)
    successor = await cluster.consumer(second)
    assert await successor.received(3) == ["m1", "m2", "m3"]
    assert successor.redelivered[2] >= 3
    await successor.acked(1, 2, 3)
    assert cursor.redeliveries.ranges == []


async def test_refused_acks_say_why(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker, kind=pb.SHARED)
    cumulative = await consumer.ack(1, cumulative=True)
    beyond = await consumer.ack(3)
    await eventually(lambda: len(consumer.refused) == 2)
    assert all(isinstance(consumer.refused[i], InvalidArgument) for i in (cumulative, beyond))


async def test_leaving_in_order_confirms_what_was_acknowledged(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 3)
    consumer = await cluster.consumer(broker)
    await consumer.received(3)
    request_id = await consumer.ack(0, 1, 2)
    await consumer.leave()
    assert consumer.confirmed == {request_id}


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 5), ("", 5)])
async def test_where_a_new_subscription_begins(cluster: Cluster, start: str, first: int) -> None:
    broker = await cluster.broker()
    await fill(cluster, 5)
    consumer = await cluster.consumer(broker, start=start)
    assert consumer.opened is not None
    assert consumer.opened.position == first


async def test_subscriptions_are_listed_created_deleted(cluster: Cluster) -> None:
    broker = await cluster.broker()
    stub = cluster.stub(broker)
    await fill(cluster, 10)
    create = pb.CreateSubscriptionRequest(topic=TOPIC, partition=0, subscription="idle", offset=4)
    assert (await stub.CreateSubscription(create)).created
    assert not (await stub.CreateSubscription(create)).created
    consumer = await cluster.consumer(broker, "busy", kind=pb.SHARED, name="me")
    await consumer.received(10)
    await consumer.acked(0, 1, 5)
    listed = await infos(cluster, broker)
    idle, busy = listed["idle"], listed["busy"]
    assert (idle.ack_floor, idle.backlog, idle.unacked, list(idle.consumers), idle.type) == (4, 6, 0, [], 0)
    assert (busy.ack_floor, busy.backlog, busy.unacked, list(busy.consumers), busy.type) == (2, 7, 7, ["me"], pb.SHARED)
    everywhere = await stub.ListSubscriptions(pb.ListSubscriptionsRequest(topic=TOPIC))
    assert {(s.partition, s.subscription) for s in everywhere.subscriptions} == {(0, "idle"), (0, "busy")}
    delete = pb.DeleteSubscriptionRequest(topic=TOPIC, partition=0, subscription="busy")
    with pytest.raises(ConsumerBusy, match="has consumers: me"):
        await call(stub.DeleteSubscription, delete, 5)
    await consumer.leave()
    assert (await stub.DeleteSubscription(delete)).existed
    assert not (await stub.DeleteSubscription(delete)).existed
    assert set(await infos(cluster, broker)) == {"idle"}


async def test_who_waits_for_a_leader_when_ownership_ends_is_told_so(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 1)
    cluster.elect(0)
    request = pb.CreateSubscriptionRequest(topic=TOPIC, partition=0, subscription="s", earliest=True)
    creating = asyncio.create_task(call(cluster.stub(broker).CreateSubscription, request, timeout_s=15))
    served = broker.partitions.get(TOPIC, 0)
    assert served is not None
    await eventually(lambda: served.client._search is not None and not served.client._search.done())
    cluster.assign("br2", 2)
    with pytest.raises(NotOwner):
        await creating


async def test_p13_cursors_come_page_by_page_and_the_leader_is_found_without_them(cluster: Cluster) -> None:
    first, second = await cluster.broker("br1"), await cluster.broker("br2")
    await fill(cluster, 10)
    for n in range(7):
        consumer = await cluster.consumer(first, f"s{n}", kind=pb.SHARED)
        await consumer.received(10)
        await consumer.acked(*range(n), 9)
        await consumer.leave()
    for datanode in cluster.datanodes.values():
        datanode.cursors_max = 2
        datanode.lists = 0
    cluster.assign("br2", 2)
    listed = await infos(cluster, second)
    assert {name: (s.ack_floor, s.backlog) for name, s in listed.items()} == {f"s{n}": (n, 9 - n) for n in range(7)}
    assert sum(d.lists for d in cluster.datanodes.values()) == 4, "pages, of the one that leads, once"


async def test_seek_closes_consumers_and_starts_at_the_new_position(cluster: Cluster) -> None:
    broker = await cluster.broker()
    stub = cluster.stub(broker)
    await fill(cluster, 10)
    consumer = await cluster.consumer(broker)
    await consumer.received(10)
    await consumer.acked(*range(10))
    seek = pb.SeekSubscriptionRequest(topic=TOPIC, partition=0, subscription="s", offset=7)
    assert (await stub.SeekSubscription(seek)).position == 7
    assert isinstance(await eventually(lambda: consumer.closed), SubscriptionReset)
    again = await cluster.consumer(broker)
    assert await again.received(3) == ["m7", "m8", "m9"]
    seek = pb.SeekSubscriptionRequest(topic=TOPIC, partition=0, subscription="s", timestamp_ms=0)
    assert (await stub.SeekSubscription(seek)).position == 0
    seek = pb.SeekSubscriptionRequest(topic=TOPIC, partition=0, subscription="unknown", earliest=True)
    with pytest.raises(SubscriptionNotFound):
        await call(stub.SeekSubscription, seek, 5)
    with pytest.raises(InvalidArgument):
        await call(stub.SeekSubscription, pb.SeekSubscriptionRequest(topic=TOPIC, subscription="s"), 5)


async def test_reads_go_on_from_another_replica(cluster: Cluster) -> None:
    broker = await cluster.broker()
    values = await fill(cluster, 20)
    cluster.datanodes[2].lags = True
    await cluster.datanodes[1].kill()
    cluster.elect(2)
    consumer = await cluster.consumer(broker)
    assert await consumer.received(20) == values
    assert cluster.datanodes[3].fetches > 0


async def test_a_frozen_replica_does_not_hold_up_reads(cluster: Cluster) -> None:
    broker = await cluster.broker()
    values = await fill(cluster, 20)
    consumer = await cluster.consumer(broker, credit=5)
    await consumer.received(5)
    broker.partitions._cache.forget(100)
    cluster.datanodes[1].freeze()
    await consumer.credit(100)
    assert await consumer.received(20) == values


async def test_a_backlog_larger_than_the_cache_is_read_through(cluster: Cluster) -> None:
    broker = await cluster.broker()
    broker.partitions._cache._bytes_max = 4_000
    values = await fill(cluster, 500, per_batch=5)
    consumers = [await cluster.consumer(broker, f"s{n}") for n in range(3)]
    for consumer in consumers:
        assert await consumer.received(500) == values
    assert broker.partitions._cache.bytes <= 4_000
    broker.partitions._cache.validate()


async def test_what_an_append_of_unknown_outcome_left_behind_is_delivered(cluster: Cluster) -> None:
    broker = await cluster.broker()
    consumer = await cluster.consumer(broker)
    await fill(cluster, 2)
    producer = await cluster.producer(broker)

    def break_it(_: object) -> None:
        cluster.leader.after_append = lambda _: None
        raise RuntimeError("the answer is lost")

    cluster.leader.after_append = break_it
    error = await producer.error(await producer.send("unknown", producer_id=0))
    assert not error.definite
    assert await consumer.received(3) == ["m0", "m1", "unknown"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.OpenSubscription(topic="test/unknown", subscription="s", type=pb.SHARED), TopicNotFound),
        (pb.OpenSubscription(topic=TOPIC, partition=7, subscription="s", type=pb.SHARED), PartitionNotFound),
        (pb.OpenSubscription(topic=TOPIC, subscription="no spaces", type=pb.SHARED), InvalidArgument),
        (pb.OpenSubscription(topic=TOPIC, subscription="s"), InvalidArgument),
        (pb.OpenSubscription(topic="bad", subscription="s", type=pb.SHARED), InvalidArgument),
    ],
)
async def test_bad_input_is_refused(cluster: Cluster, request_: pb.OpenSubscription, error: type[Exception]) -> None:
    stream = cluster.stub(await cluster.broker()).Subscribe()
    await stream.write(pb.SubscribeRequest(open=request_))
    response = await asyncio.wait_for(stream.read(), 5)
    assert isinstance(from_pb(response.closed.error), error)
    stream.cancel()


# --- retention --------------------------------------------------------------------------------------------------------


async def test_a_consumer_goes_on_from_the_first_message_that_is_kept(cluster: Cluster) -> None:
    """The broker learns of the trim by reading what is gone."""
    broker = await cluster.broker()
    values = await fill(cluster, 100)
    consumer = await cluster.consumer(broker, credit=10)
    await consumer.received(10)
    await consumer.acked(0, 1, 5)
    cluster.group().trim(60)
    broker.partitions._cache.forget(cluster.group().id)
    await consumer.credit(100)
    await eventually(lambda: consumer.values[-1] == values[-1], describe=lambda: consumer.offsets)
    assert [o for o in consumer.offsets if o >= 60] == list(range(60, 100))
    assert consumer.closed is None
    assert broker.partitions.metrics.trimmed._value.get() == 60 - 3
    await consumer.acked(7, *range(60, 100))  # what was delivered and is gone may still be acknowledged
    cursor = cluster.group().partition.cursor("s")
    assert cursor is not None
    assert (cursor.ack_floor, cursor.ranges) == (100, [])


async def test_a_consumer_that_waits_at_the_end_does_not_miss_a_trim_that_passes_it(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 10)
    consumer = await cluster.consumer(broker, credit=5)
    await consumer.received(5)
    cluster.group().trim(10)
    await eventually(lambda: broker.partitions.metrics.trimmed._value.get() == 10)
    await consumer.credit(100)
    await fill_more(cluster, "after")
    await eventually(lambda: consumer.values[-1:] == ["after"], describe=lambda: consumer.offsets)
    assert consumer.offsets == [0, 1, 2, 3, 4, 10]


async def test_a_subscription_that_nobody_is_connected_to_owes_nothing_that_is_gone(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 20)
    consumer = await cluster.consumer(broker, credit=1)
    await consumer.leave()
    assert (await infos(cluster, broker))["s"].backlog == 20
    cluster.group().trim(15)
    found = (await infos(cluster, broker))["s"]
    assert (found.ack_floor, found.backlog) == (15, 5)


async def test_a_new_subscription_below_the_start_is_told_where_it_begins(cluster: Cluster) -> None:
    broker = await cluster.broker()
    await fill(cluster, 20)
    cluster.group().trim(15)
    consumer = await cluster.consumer(broker, "late", offset=3)
    assert consumer.opened is not None
    assert (consumer.opened.created, consumer.opened.position) == (True, 15)
    await consumer.received(5)
    assert consumer.offsets == [15, 16, 17, 18, 19]
