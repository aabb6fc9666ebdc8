"""Producing through a broker, over real gRPC, with faults at the wire between broker and datanodes."""

from __future__ import annotations

import asyncio

import pytest

from stele.broker.owned_partitions import OwnedPartitions
from stele.services.errors import (
    BatchCorrupt,
    InvalidArgument,
    NotOwner,
    NotReady,
    OutOfOrderSequence,
    Overloaded,
    PartitionNotFound,
    SteleError,
    TopicNotFound,
)
from stele.services.pb import broker_pb2, datanode_pb2
from tests.integration.broker.cluster import Cluster, Producer, batch
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


class Break(Exception):
    """Raised inside the servicer: the stream ends with an error."""


async def test_stores_and_answers_with_offsets(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    assert producer.credit_bytes == 1 << 20
    ids = [await producer.send("a", "b"), await producer.send("c"), await producer.send("d", partition=1)]
    assert [await producer.offset(i) for i in ids] == [0, 2, 0]
    assert cluster.group(0).values() == [b"a", b"b", b"c"]
    assert cluster.group(1).values() == [b"d"]
    assert cluster.group(0).partition.owner_epoch == 1


async def test_joins_waiting_batches_and_keeps_their_order(cluster: Cluster) -> None:
    broker = await cluster.broker()
    producers = [await cluster.producer(broker) for _ in range(3)]
    sent = []
    for n in range(100):
        for p, producer in enumerate(producers):
            sent.append((producer, await producer.send(f"{p}-{n}", producer_id=p + 1)))
    for producer, request_id in sent:
        await producer.offset(request_id)
    values = [v.decode() for v in cluster.group().values()]
    for p, producer in enumerate(producers):
        assert [v for v in values if v.startswith(f"{p}-")] == [f"{p}-{n}" for n in range(100)]
        assert producer.order == sorted(producer.order)
    assert len(cluster.leader.appends) < 300, "batches that waited went together"


async def test_p14_what_all_producers_together_have_unanswered_is_bounded(cluster: Cluster) -> None:
    broker = await cluster.broker()
    budget = broker.servicer._budget
    budget.bytes_max = 50_000
    producers = [await cluster.producer(broker) for _ in range(10)]
    await producers[0].offset(await producers[0].send("first", producer_id=999))
    cluster.leader.freeze()
    value = "x" * 9_000

    async def send(n: int, producer: Producer) -> None:
        for m in range(10):
            await producer.send(value, producer_id=n * 10 + m)

    sending = [asyncio.create_task(send(n, producer)) for n, producer in enumerate(producers, 1)]
    await eventually(lambda: budget.used_bytes >= budget.bytes_max)
    assert budget.used_bytes < budget.bytes_max + len(producers) * 9_200
    cluster.leader.thaw()
    await asyncio.gather(*sending)
    for producer in producers:
        await eventually(lambda p=producer: len(p.answers) >= 10)
    await eventually(lambda: budget.used_bytes == 0)
    assert cluster.group().partition.high_watermark == 101


async def test_an_append_whose_answer_was_lost_is_stored_once(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    broken = 0

    def break_once(_: datanode_pb2.AppendRequest) -> None:
        nonlocal broken
        broken += 1
        if broken == 1:
            raise Break

    cluster.leader.after_append = break_once
    ids = [await producer.send(f"b{n}") for n in range(20)]
    assert [await producer.offset(i) for i in ids] == list(range(1, 21))
    assert cluster.group().values() == [b"a", *(f"b{n}".encode() for n in range(20))]
    assert [i for i in ids if producer.answers[i].duplicate], "the first one was recognised"


async def test_an_append_that_never_arrived_is_sent_again_in_order(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    failures = 5

    def break_some(_: datanode_pb2.AppendRequest) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0 and failures % 2 == 0:
            raise Break

    cluster.leader.before_append = break_some
    ids = [await producer.send(f"m{n}") for n in range(30)]
    assert [await producer.offset(i) for i in ids] == list(range(30))
    assert producer.order == ids


async def test_without_producer_id_a_lost_answer_is_an_indefinite_error(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a", producer_id=0))

    def break_it(_: datanode_pb2.AppendRequest) -> None:
        cluster.leader.after_append = lambda _: None
        raise Break

    cluster.leader.after_append = break_it
    error = await producer.error(await producer.send("b", producer_id=0))
    assert not error.definite
    assert await producer.offset(await producer.send("c", producer_id=0)) == 2
    assert cluster.group().values() == [b"a", b"b", b"c"], "it had been stored, and was not sent again"


async def test_follows_the_leader(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    for leader in (2, 3, 1):
        cluster.elect(leader)
        await producer.offset(await producer.send(f"led by {leader}"))
        assert cluster.datanodes[leader].appends


async def test_a_killed_leader_is_left_for_the_next(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    cluster.elect(0)
    await cluster.datanodes[1].kill()
    ids = [await producer.send(f"b{n}") for n in range(10)]
    assert len(producer.answers) == 1, "they wait for a leader"
    cluster.elect(3)
    assert [await producer.offset(i) for i in ids] == list(range(1, 11))


async def test_a_frozen_leader_is_left_once_another_one_leads(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    frozen = cluster.datanodes[1]
    frozen.freeze()
    ids = [await producer.send(f"b{n}") for n in range(10)]
    cluster.elect(2)
    assert [await producer.offset(i) for i in ids] == list(range(1, 11))
    frozen.thaw()
    await producer.offset(await producer.send("c"))
    assert cluster.group().values() == [b"a", *(f"b{n}".encode() for n in range(10)), b"c"]


async def test_a_slow_leader_that_leads_is_waited_for(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    cluster.datanodes[1].freeze()
    request = await producer.send("b")
    await asyncio.sleep(2.0)  # past the suspicion: nobody else says that it leads
    cluster.datanodes[1].thaw()
    assert await producer.offset(request) == 1
    assert not cluster.datanodes[2].appends
    assert not cluster.datanodes[3].appends


async def test_a_gap_is_the_producers_to_know(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    await producer.offset(await producer.send("a"))
    error = await producer.error(await producer.send_batch(batch("c", sequence=2)))
    assert isinstance(error, OutOfOrderSequence)
    assert error.facts["expected"] == "1"
    again = await producer.send_batch(batch("a", sequence=0))
    assert await producer.offset(again) == 0
    assert producer.answers[again].duplicate


@pytest.mark.parametrize(
    ("topic", "partition", "data", "error"),
    [
        ("test/unknown", 0, batch("a"), TopicNotFound),
        ("test/orders", 9, batch("a"), PartitionNotFound),
        ("no-namespace", 0, batch("a"), InvalidArgument),
        ("test/orders", 0, batch("a")[:-1] + b"?", BatchCorrupt),
        ("test/orders", 0, b"", BatchCorrupt),
    ],
)
async def test_bad_input_is_refused_and_the_stream_goes_on(
    cluster: Cluster, topic: str, partition: int, data: bytes, error: type[SteleError]
) -> None:
    producer = await cluster.producer(await cluster.broker())
    assert isinstance(await producer.error(await producer.send_batch(data, partition, topic)), error)
    assert await producer.offset(await producer.send("fine")) == 0


async def test_credit_bounds_what_is_unanswered(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker(credit_bytes=100))
    cluster.datanodes[1].freeze()
    first = await producer.send("x" * 500)  # alone it may be larger than the credit
    error_of = await producer.send_batch(batch("y" * 60, producer_id=8))
    cluster.datanodes[1].thaw()
    assert await producer.offset(first) == 0
    assert isinstance(await producer.error(error_of), Overloaded)
    assert producer.order == [first, error_of], "in the order of the requests"


async def test_a_topic_that_a_lagging_nameserver_names_late_is_waited_for(cluster: Cluster) -> None:
    broker = await cluster.broker()
    broker.partitions.routes._routes.clear()
    broker.partitions.routes.partitions.clear()
    producer = await cluster.producer(broker)
    request = await producer.send("a")
    cluster.tell()
    assert await producer.offset(request) == 0


async def test_a_deleted_topic_ends_what_serves_it(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    consumer = await cluster.consumer(cluster.brokers["br1"])
    await producer.offset(await producer.send("a"))
    cluster.topic_state = "deleting"
    cluster.tell()
    assert isinstance(await producer.error(await producer.send("b")), TopicNotFound)
    assert isinstance(await eventually(lambda: consumer.closed), TopicNotFound)


async def test_half_closing_waits_for_the_answers(cluster: Cluster) -> None:
    producer = await cluster.producer(await cluster.broker())
    ids = [await producer.send(f"m{n}") for n in range(50)]
    await producer.done()
    await eventually(lambda: producer.order == ids)


async def test_another_brokers_partition_is_refused(cluster: Cluster) -> None:
    cluster.owners[cluster.bundle(0)] = ("br2", 5)
    producer = await cluster.producer(await cluster.broker("br1"))
    assert isinstance(await producer.error(await producer.send("a")), NotOwner)


async def test_ownership_is_void_when_the_session_is_lost(cluster: Cluster) -> None:
    broker = await cluster.broker()
    producer = await cluster.producer(broker)
    await producer.offset(await producer.send("a"))
    broker.partitions.void()
    assert isinstance(await producer.error(await producer.send("b")), NotOwner)
    cluster.tell()  # the same assignment again: meant for the lost session
    assert isinstance(await producer.error(await producer.send_batch(batch("b", sequence=1))), NotOwner)
    cluster.assign("br1", 2)
    assert await producer.offset(await producer.send_batch(batch("b", sequence=1))) == 1


async def test_a_frozen_leader_whose_successor_an_acknowledgement_found_is_left_at_once(cluster: Cluster) -> None:
    broker = await cluster.broker()
    producer = await cluster.producer(broker)
    await producer.offset(await producer.send("a"))
    served = broker.partitions.get("test/orders", 0)
    assert served is not None
    cluster.datanodes[1].freeze()
    ids = [await producer.send(f"b{n}") for n in range(10)]
    await eventually(lambda: cluster.datanodes[1].frozen and not served.producer._pipeline.is_idle)
    cluster.elect(2)
    served.client.leader = 2  # as the unary call that found it leaves it
    assert [await producer.offset(i, within_s=5) for i in ids] == list(range(1, 11))


async def a_topic_that_is_being_created(serve: type[OwnedPartitions]) -> None:
    """Until it is ready the nameserver may not have recorded which replicas there are: one that acknowledged, and was lost, would be made
    anew, empty."""
    async with Cluster(serve=serve) as cluster:
        cluster.topic_state = "creating"
        broker = await cluster.broker()
        early = await cluster.producer(broker)
        with promise("nothing is acknowledged before it is recorded who has replicas"):
            answer = await early.answer(await early.send("x"))
            assert answer.error.reason == NotReady.reason
        cluster.topic_state = "ready"
        cluster.tell()
        producer = await cluster.producer(broker)
        assert await producer.offset(await producer.send("x")) == 0


async def test_p2_a_topic_is_not_served_before_it_is_ready() -> None:
    await holds_and_mutant_fails(a_topic_that_is_being_created, OwnedPartitions, "ownership.ServesWhatIsBeingCreated")


async def a_topic_that_this_broker_has_not_heard_of(serve: type[OwnedPartitions]) -> None:
    """Its creation has returned, and the routing facts that this broker follows lag behind."""
    async with Cluster(serve=serve) as cluster:
        cluster.created.add("test/new")
        producer = await cluster.producer(await cluster.broker())
        with promise("a topic that was made is not denied"):
            assert isinstance(await producer.error(await producer.send("x", topic="test/new")), NotReady)
        cluster.created.discard("test/new")
        assert isinstance(await producer.error(await producer.send("x", topic="test/new")), TopicNotFound)


async def test_p5_a_topic_that_this_broker_has_not_heard_of_is_not_declared_missing() -> None:
    await holds_and_mutant_fails(
        a_topic_that_this_broker_has_not_heard_of, OwnedPartitions, "ownership.DeniesWhatItHasNotHeardOf"
    )


async def test_what_goes_through_a_bundle_is_counted_while_it_is_owned(cluster: Cluster) -> None:
    """Stored and delivered alike; under the next epoch it begins anew."""
    broker = await cluster.broker()
    stub = cluster.stub(broker)

    async def counted() -> dict[str, tuple[int, int, bool]]:
        answer = await stub.GetTraffic(broker_pb2.GetTrafficRequest())
        return {b.bundle: (b.epoch, b.messages, b.bytes > 0) for b in answer.bundles}

    assert await counted() == {cluster.bundle(0): (1, 0, False), cluster.bundle(1): (1, 0, False)}
    producer = await cluster.producer(broker)
    await producer.offset(await producer.send("a", "b", "c"))
    assert (await counted())[cluster.bundle(0)] == (1, 3, True)
    consumer = await cluster.consumer(broker)
    await consumer.received(3)
    assert await counted() == {cluster.bundle(0): (1, 6, True), cluster.bundle(1): (1, 0, False)}
    cluster.assign("br2", 2)
    assert await counted() == {cluster.bundle(1): (1, 0, False)}
    cluster.assign("br1", 3)
    assert (await counted())[cluster.bundle(0)] == (3, 0, False)
