"""Well-formed calls that make no sense, on the ports of a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import stele
from stele.services import batch
from stele.services.batch import BatchRecord
from stele.services.errors import (
    BatchCorrupt,
    ClusterMismatch,
    ConnectionBroken,
    Fenced,
    GroupNotFound,
    InvalidArgument,
    MessageTooLarge,
    NamespaceNotFound,
    NotLeader,
    OutOfOrderSequence,
    PartitionNotFound,
    StaleAck,
    SteleError,
    StoreMismatch,
    StoreUnknown,
    SubscriptionNotFound,
    TopicMismatch,
    TopicNotFound,
    TopicReplaced,
)
from stele.services.pb import (
    broker_pb2,
    broker_pb2_grpc,
    datanode_pb2,
    datanode_pb2_grpc,
    nameserver_pb2,
    nameserver_pb2_grpc,
    raft_pb2,
    raft_pb2_grpc,
)
from stele.services.pb.common_pb2 import Retention
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.status import from_pb, typed_errors
from tests.support.bad_input import PARTITIONS, check_error, refused
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.ledger import Ledger

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)

U64_MAX = (1 << 64) - 1
U32_MAX = (1 << 32) - 1
SEED = 20


def make_batch(*values: bytes, producer_id: int = 0, sequence: int = 0) -> bytes:
    return batch.encode([BatchRecord(value, timestamp_ms=1) for value in values], producer_id, sequence)


def with_checksum(head: bytes) -> bytes:
    """The batch with the checksum that fits it."""
    return head[:8] + struct.pack(">I", batch.crc32c(head[12:])) + head[12:]


def nonsense_batches() -> list[bytes]:
    good = make_batch(b"value")
    rng = random.Random(SEED)
    return [
        b"",
        b"x",
        rng.randbytes(200),
        good[:-1],
        good + b"x",
        good[:-1] + bytes([good[-1] ^ 1]),  # one bit
        b"\0\0" + good[2:],  # magic
        with_checksum(good[:2] + b"\x63" + good[3:]),  # version
        with_checksum(good[:12] + struct.pack(">I", 0) + good[16:]),  # no record
        with_checksum(good[:12] + struct.pack(">I", U32_MAX) + good[16:]),  # more records than its bytes can hold
    ]


async def stream(method: Any, requests: Sequence[Any], timeout_s: float = 20.0) -> list[Any]:
    """Every answer to ``requests``; the stream is ended after the last."""

    async def said() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    async with asyncio.timeout(timeout_s):
        with typed_errors():
            return [answer async for answer in method(said())]


async def test_nonsense_to_a_broker(client: stele.Client, ledger: Ledger, channels: Channels) -> None:
    topic = ledger.topic
    [broker] = await client.admin.list_brokers()
    assert broker.member is not None
    stub: Any = broker_pb2_grpc.BrokerStub(channels.get(broker.member.endpoint))  # type: ignore[no-untyped-call]
    requests: list[Any] = []
    expected: dict[int, tuple[type[SteleError] | None, dict[str, object]]] = {}

    def offer(
        data: bytes, kind: type[SteleError] | None, topic: str = topic, partition: int = 0, **facts: object
    ) -> None:
        request_id = len(requests) + 1
        requests.append(broker_pb2.ProduceRequest(request_id=request_id, topic=topic, partition=partition, batch=data))
        expected[request_id] = (kind, facts)

    good = [make_batch(b"sequence-%d" % i, producer_id=77, sequence=i) for i in range(3)]
    offer(good[0], None)
    for data in nonsense_batches():
        offer(data, BatchCorrupt)
    offer(good[0], TopicNotFound, topic="bad/absent")
    offer(good[0], InvalidArgument, topic="absent")
    offer(good[0], InvalidArgument, topic="")
    offer(good[0], PartitionNotFound, partition=PARTITIONS, topic=topic)
    offer(good[0], PartitionNotFound, partition=U32_MAX, topic=topic)
    offer(good[2], OutOfOrderSequence, expected=1, got=2)
    offer(make_batch(b"x", producer_id=78, sequence=5), OutOfOrderSequence, expected=0, got=5)
    offer(make_batch(b"x", producer_id=79, sequence=U64_MAX), OutOfOrderSequence, expected=0, got=U64_MAX)
    offer(make_batch(b"x" * (2 << 20)), MessageTooLarge, bytes_max=1 << 20)
    offer(make_batch(b"x" * (5 << 20)), MessageTooLarge, bytes_max=4 << 20)
    offer(good[1], None)
    offer(good[1], None)  # again: a duplicate
    offer(good[2], None)
    answers = {a.request_id: a for a in await stream(stub.Produce, requests)}
    assert set(answers) == {0, *expected}
    for request_id, (kind, facts) in expected.items():
        error = from_pb(answers[request_id].error)
        if kind is None:
            assert error is None, error
        else:
            check_error(error, kind, facts)
    stored = [request_id for request_id, (kind, _) in expected.items() if kind is None]
    offsets = [answers[r].base_offset for r in stored]
    assert [answers[r].duplicate for r in stored] == [False, False, True, False]
    assert offsets[1] == offsets[2]
    for i, offset in enumerate((offsets[0], offsets[1], offsets[3])):
        ledger.note(stele.SendResult(0, offset), b"sequence-%d" % i)
    too_large = broker_pb2.ProduceRequest(request_id=1, topic=topic, batch=b"x" * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(SteleError):  # the transport's own limit ends this stream, not the process
        await stream(stub.Produce, [too_large])

    # --- subscriptions

    async def closed(request: broker_pb2.SubscribeRequest, kind: type[SteleError], **facts: object) -> None:
        [answer] = await stream(stub.Subscribe, [request])
        check_error(from_pb(answer.closed.error), kind, facts)

    def open_(**fields: Any) -> broker_pb2.SubscribeRequest:
        opened: dict[str, Any] = {"topic": topic, "subscription": "raw", "type": broker_pb2.SHARED, "earliest": True}
        return broker_pb2.SubscribeRequest(open=broker_pb2.OpenSubscription(**(opened | fields)))

    await closed(broker_pb2.SubscribeRequest(), InvalidArgument)
    await closed(broker_pb2.SubscribeRequest(credit=broker_pb2.Credit(messages=U32_MAX)), InvalidArgument)
    await closed(open_(topic="bad/absent"), TopicNotFound)
    await closed(open_(topic="\n"), InvalidArgument)
    await closed(open_(partition=U32_MAX), PartitionNotFound)
    await closed(open_(subscription="a/b"), InvalidArgument)
    await closed(open_(subscription=""), InvalidArgument)
    await closed(open_(topic_id=U64_MAX), TopicReplaced, expected=U64_MAX)
    await closed(open_(subscription="absent", must_exist=True), SubscriptionNotFound)
    await closed(open_(type=99), InvalidArgument)
    await closed(open_(type=0), InvalidArgument)
    await closed(open_(consumer="x" * 1000), InvalidArgument)
    assert await stream(stub.Subscribe, []) == []

    opened, *_ = await stream(stub.Subscribe, [open_()])
    current = opened.opened.generation

    def ack(
        request_id: int, *ranges: tuple[int, int], cumulative: bool = False, generation: int = current
    ) -> broker_pb2.SubscribeRequest:
        acked = [datanode_pb2.OffsetRange(first=a, last=b) for a, b in ranges]
        return broker_pb2.SubscribeRequest(
            ack=broker_pb2.Ack(request_id=request_id, ranges=acked, cumulative=cumulative, generation=generation)
        )

    everything = [datanode_pb2.OffsetRange(first=0, last=U64_MAX), datanode_pb2.OffsetRange(first=9, last=3)]
    answers_ = await stream(
        stub.Subscribe,
        [
            open_(credit=U32_MAX, ack_timeout_ms=U32_MAX),
            broker_pb2.SubscribeRequest(credit=broker_pb2.Credit(messages=U32_MAX)),
            broker_pb2.SubscribeRequest(nack=broker_pb2.Nack(ranges=everything, delay_ms=U32_MAX)),
            ack(1),
            ack(2, (0, U64_MAX)),
            ack(3, (5, 2)),
            ack(4, (0, 0), cumulative=True),
            ack(5, *[(0, 0)] * 10_001),
            ack(6, (0, 0)),
            broker_pb2.SubscribeRequest(received=broker_pb2.Received(ranges=everything)),
            ack(7, (0, 0), generation=0),
            ack(8, (0, 0), generation=U64_MAX),
        ],
    )
    done = {a.ack_done.request_id: a.ack_done for a in answers_ if a.WhichOneof("response") == "ack_done"}
    assert set(done) == {1, 2, 3, 4, 5, 6, 7, 8}
    for request_id in (7, 8):
        check_error(from_pb(done[request_id].error), StaleAck, {"current": current})
    for request_id in (1, 2, 3, 4, 5):
        check_error(from_pb(done[request_id].error), InvalidArgument, {})
    assert not done[6].error.reason
    twice = await stream(stub.Subscribe, [open_(), open_()])
    check_error(from_pb(twice[-1].closed.error), InvalidArgument, {})

    # --- calls

    pb = broker_pb2
    for method, request, kind in (
        ("ListSubscriptions", pb.ListSubscriptionsRequest(topic="bad/absent"), TopicNotFound),
        ("ListSubscriptions", pb.ListSubscriptionsRequest(topic=topic, partitions=[7]), PartitionNotFound),
        ("CreateSubscription", pb.CreateSubscriptionRequest(topic=topic, subscription="?"), InvalidArgument),
        ("CreateSubscription", pb.CreateSubscriptionRequest(topic="bad/absent", subscription="s"), TopicNotFound),
        ("DeleteSubscription", pb.DeleteSubscriptionRequest(topic=topic, subscription=""), InvalidArgument),
        ("SeekSubscription", pb.SeekSubscriptionRequest(topic=topic, subscription="raw"), InvalidArgument),
        (
            "SeekSubscription",
            pb.SeekSubscriptionRequest(topic=topic, subscription="absent", earliest=True),
            SubscriptionNotFound,
        ),
        (
            "SeekSubscription",
            pb.SeekSubscriptionRequest(topic=topic, partition=9, subscription="raw", earliest=True),
            PartitionNotFound,
        ),
    ):
        await refused(call(getattr(stub, method), request, 15), kind)
    for target in ({"offset": U64_MAX}, {"timestamp_ms": U64_MAX}):
        request = pb.SeekSubscriptionRequest(topic=topic, subscription="raw", **target)
        assert (await call(stub.SeekSubscription, request, 15)).position == len(ledger.stored[0])
    gone = pb.DeleteSubscriptionRequest(topic=topic, subscription="never")
    assert not (await call(stub.DeleteSubscription, gone, 15)).existed


async def test_nonsense_to_a_datanode(client: stele.Client, ledger: Ledger, channels: Channels) -> None:
    stores = {s.store_id: s for s in await client.admin.list_stores()}
    [partition] = [p for p in await client.admin.list_partitions(ledger.topic) if p.partition == 0]
    group, leader, epoch = partition.group, partition.leader_store_id, partition.owner_epoch
    other = next(s for s in stores if s != leader)
    cluster_id = (await client.admin.cluster()).cluster_id
    topic_id = next(t.id for t in await client.admin.list_topics() if t.topic == ledger.topic)

    def stub(store_id: int) -> Any:
        member = stores[store_id].member
        assert member is not None
        return datanode_pb2_grpc.DatanodeStub(channels.get(member.endpoint))  # type: ignore[no-untyped-call]

    async def appended(kind: type[SteleError], store_id: int = leader, **fields: Any) -> SteleError | None:
        facts = fields.pop("facts", {})
        request: dict[str, Any] = {"request_id": 1, "group": group, "owner_epoch": epoch, "batches": [make_batch(b"x")]}
        [answer] = await stream(stub(store_id).Append, [datanode_pb2.AppendRequest(**(request | fields))])
        error = from_pb(answer.error) or from_pb(answer.results[0].error)
        check_error(error, kind, facts)
        return error

    await appended(GroupNotFound, group=0, facts={"group": 0})
    await appended(GroupNotFound, group=U64_MAX)
    await appended(InvalidArgument, batches=[])
    for data in nonsense_batches():
        await appended(BatchCorrupt, batches=[make_batch(b"x"), data])
    await appended(MessageTooLarge, batches=[make_batch(b"x" * (1 << 20))], facts={"bytes_max": 1 << 20})
    await appended(MessageTooLarge, batches=[make_batch(b"x" * 500_000)] * 3)
    await appended(Fenced, owner_epoch=0, facts={"epoch": 0, "seen": epoch})
    await appended(NotLeader, store_id=other, facts={"leader": leader})
    sequence = make_batch(b"x", producer_id=5, sequence=3)
    await appended(OutOfOrderSequence, batches=[sequence], facts={"expected": 0, "got": 3})

    async def fetched(**fields: Any) -> Any:
        request: dict[str, Any] = {"request_id": 1, "group": group}
        [answer] = await stream(stub(leader).Fetch, [datanode_pb2.FetchRequest(**(request | fields))])
        return answer

    end = len(ledger.stored[0])
    check_error(from_pb((await fetched(group=U64_MAX)).error), GroupNotFound, {})
    for offset in (end, end + 1, 1 << 63, U64_MAX):  # -1 of a signed caller is the last of these
        answer = await fetched(offset=offset, max_wait_ms=1, bytes_max=U32_MAX)
        assert (answer.error.reason, len(answer.batches), answer.high_watermark) == ("", 0, end)
    assert (await fetched(offset=0, bytes_max=0)).batches

    pb = datanode_pb2
    ranges = [pb.OffsetRange(first=0, last=0)]
    create: dict[str, Any] = {
        "group": 9_000,
        "topic": "bad/x",
        "store_ids": list(stores),
        "leader_epoch": 1 << 40,
        "to_store_id": leader,
        "topic_id": 9_000,
        "cluster_id": cluster_id,
    }
    order: dict[str, Any] = {"group": group, "leader_epoch": 1 << 40, "to_store_id": leader, "cluster_id": cluster_id}
    member = order | {"topic_id": topic_id}
    for method, request, kind in (
        ("Fence", pb.FenceRequest(group=U64_MAX, owner_epoch=1), GroupNotFound),
        ("Fence", pb.FenceRequest(group=group, owner_epoch=0), Fenced),
        ("CreateCursor", pb.CreateCursorRequest(group=group, owner_epoch=epoch, subscription="a/b"), InvalidArgument),
        ("CreateCursor", pb.CreateCursorRequest(group=group, owner_epoch=epoch, subscription="s"), InvalidArgument),
        (
            "AckCursor",
            pb.AckCursorRequest(group=group, owner_epoch=epoch, subscription="absent", ranges=ranges),
            SubscriptionNotFound,
        ),
        (
            "AckCursor",
            pb.AckCursorRequest(group=group, owner_epoch=epoch, subscription="s", ranges=ranges * 10_001),
            InvalidArgument,
        ),
        ("ResetCursor", pb.ResetCursorRequest(group=group, owner_epoch=epoch, subscription="s"), InvalidArgument),
        (
            "ResetCursor",
            pb.ResetCursorRequest(group=group, owner_epoch=epoch, subscription="absent", offset=U64_MAX),
            SubscriptionNotFound,
        ),
        ("ListCursors", pb.ListCursorsRequest(group=0), GroupNotFound),
        ("Probe", pb.ProbeRequest(group=0), GroupNotFound),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"group": 0})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"topic_id": 0})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"cluster_id": ""})), ClusterMismatch),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"topic": "../x"})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"to_store_id": 99})), StoreMismatch),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"store_ids": []})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"store_ids": [other]})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"store_ids": [leader, leader]})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"joins": True})), InvalidArgument),
        ("CreateReplica", pb.CreateReplicaRequest(**(create | {"leader_epoch": 0})), Fenced),
        (
            "CreateReplica",
            pb.CreateReplicaRequest(**(create | {"retention": Retention(size_bytes=1)})),
            InvalidArgument,
        ),
        ("ConfigureReplica", pb.ConfigureReplicaRequest(**(order | {"leader_epoch": 0})), Fenced),
        ("ConfigureReplica", pb.ConfigureReplicaRequest(**(order | {"to_store_id": 99})), StoreMismatch),
        ("ConfigureReplica", pb.ConfigureReplicaRequest(**(order | {"cluster_id": "x"})), ClusterMismatch),
        (
            "ConfigureReplica",
            pb.ConfigureReplicaRequest(group=group, retention=Retention(age_ms=U64_MAX)),
            InvalidArgument,
        ),
        ("DeleteReplica", pb.DeleteReplicaRequest(**(order | {"leader_epoch": 0})), Fenced),
        ("DeleteReplica", pb.DeleteReplicaRequest(**(order | {"to_store_id": 99})), StoreMismatch),
        ("DeleteReplica", pb.DeleteReplicaRequest(**(order | {"cluster_id": "x"})), ClusterMismatch),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"leader_epoch": 0, "store_id": other})), Fenced),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"to_store_id": 99, "store_id": other})), StoreMismatch),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"cluster_id": "x", "store_id": other})), ClusterMismatch),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"topic_id": U64_MAX, "store_id": other})), TopicMismatch),
        ("ChangeMember", pb.ChangeMemberRequest(**member), InvalidArgument),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"store_id": other, "role": 99})), InvalidArgument),
        ("ChangeMember", pb.ChangeMemberRequest(**(member | {"store_id": 99, "role": 2})), InvalidArgument),
    ):
        await refused(call(getattr(stub(leader), method), request, 15), kind)

    # --- the Raft port

    member = stores[leader].member
    assert member is not None
    raft: Any = raft_pb2_grpc.RaftStub(channels.get(member.raft_endpoint))  # type: ignore[no-untyped-call]

    def hello(**fields: Any) -> raft_pb2.RaftFrame:
        said: dict[str, Any] = {"cluster_id": cluster_id, "from_store_id": 77, "to_store_id": leader}
        return raft_pb2.RaftFrame(hello=raft_pb2.RaftHello(**(said | fields)))

    await refused(stream(raft.Exchange, []), InvalidArgument)
    await refused(stream(raft.Exchange, [raft_pb2.RaftFrame()]), InvalidArgument)
    await refused(stream(raft.Exchange, [hello(to_store_id=99)]), StoreMismatch, expected=99, got=leader)
    await refused(stream(raft.Exchange, [hello(cluster_id="other")]), ClusterMismatch, expected=cluster_id, got="other")
    await refused(stream(raft.Exchange, [hello(from_store_id=0)]), InvalidArgument)
    await refused(stream(raft.Exchange, [hello(from_store_id=leader)]), InvalidArgument)
    silent = raft.Exchange()
    with typed_errors():  # says nothing at all
        await refused(asyncio.wait_for(_read(silent), 15), InvalidArgument)
    deposing = raft_pb2.RaftMessage(
        group=group, term=1 << 60, append_entries=raft_pb2.AppendEntries(prev_log_index=U64_MAX, commit_index=U64_MAX)
    )
    await refused(stream(raft.Exchange, [hello(), raft_pb2.RaftFrame(messages=[deposing])]), StoreUnknown)
    [after] = [p for p in await client.admin.list_partitions(ledger.topic) if p.partition == 0]
    assert max(r.term for r in after.replicas) == max(r.term for r in partition.replicas), "a stranger was believed"


async def _read(call: Any) -> Any:
    with typed_errors():
        return await call.read()


async def test_nonsense_to_a_nameserver(
    cluster: ClusterUnderTest, client: stele.Client, ledger: Ledger, channels: Channels
) -> None:
    stub: Any = nameserver_pb2_grpc.NameserverStub(channels.get(cluster.bootstrap))  # type: ignore[no-untyped-call]
    pb = nameserver_pb2
    before = [t.topic for t in await client.admin.list_topics()], [s.store_id for s in await client.admin.list_stores()]
    for method, request, kind in (
        ("Lookup", pb.LookupRequest(), InvalidArgument),
        ("Lookup", pb.LookupRequest(topic="x" * 1_000_000), InvalidArgument),
        ("Lookup", pb.LookupRequest(topic="bad/absent"), TopicNotFound),
        ("CreateTopic", pb.CreateTopicRequest(), InvalidArgument),
        ("CreateTopic", pb.CreateTopicRequest(topic="bad/y"), InvalidArgument),
        ("CreateTopic", pb.CreateTopicRequest(topic="bad/y", partitions=U32_MAX), InvalidArgument),
        ("CreateTopic", pb.CreateTopicRequest(topic="bad/y", partitions=1, replication=U32_MAX), InvalidArgument),
        ("CreateTopic", pb.CreateTopicRequest(topic="alloc/y", partitions=1), InvalidArgument),
        (
            "CreateTopic",
            pb.CreateTopicRequest(topic="bad/y", partitions=1, retention=Retention(age_ms=1)),
            InvalidArgument,
        ),
        (
            "CreateTopic",
            pb.CreateTopicRequest(topic="bad/y", partitions=1, retention=Retention(size_bytes=U64_MAX)),
            InvalidArgument,
        ),
        ("AlterTopic", pb.AlterTopicRequest(), InvalidArgument),
        ("AlterTopic", pb.AlterTopicRequest(topic="bad/absent", retention=Retention(age_ms=0)), TopicNotFound),
        ("AlterTopic", pb.AlterTopicRequest(topic=ledger.topic, retention=Retention(size_bytes=1)), InvalidArgument),
        ("CreateNamespace", pb.CreateNamespaceRequest(), InvalidArgument),
        (
            "CreateNamespace",
            pb.CreateNamespaceRequest(namespace="y", retention=Retention(age_ms=U64_MAX)),
            InvalidArgument,
        ),
        ("CreateNamespace", pb.CreateNamespaceRequest(namespace="y", bundles=U32_MAX), InvalidArgument),
        ("CreateNamespace", pb.CreateNamespaceRequest(namespace="y", replication=U32_MAX), InvalidArgument),
        ("DeleteTopic", pb.DeleteTopicRequest(topic="/"), InvalidArgument),
        ("DeleteTopic", pb.DeleteTopicRequest(topic="bad/absent"), TopicNotFound),
        ("ListTopics", pb.ListTopicsRequest(namespace="\0"), NamespaceNotFound),
        ("ListPartitions", pb.ListPartitionsRequest(topic="bad/absent"), TopicNotFound),
        ("ListPartitions", pb.ListPartitionsRequest(topic="absent"), InvalidArgument),
        ("ResolveStore", pb.ResolveStoreRequest(), StoreUnknown),
        ("ResolveStore", pb.ResolveStoreRequest(store_id=U64_MAX), StoreUnknown),
        ("RegisterStore", pb.RegisterStoreRequest(), InvalidArgument),
        ("RegisterStore", pb.RegisterStoreRequest(uuid="u", name="../../x"), InvalidArgument),
        ("RegisterStore", pb.RegisterStoreRequest(uuid="u", name="dn9", cluster_id="other"), ClusterMismatch),
        ("RegisterStore", pb.RegisterStoreRequest(uuid="u", name="dn9", store_id=1), StoreMismatch),
        ("RegisterStore", pb.RegisterStoreRequest(uuid="u", name="dn9", store_id=U64_MAX), StoreUnknown),
    ):
        await refused(call(getattr(stub, method), request, 15), kind)
    for since_ms in (-1, -(1 << 63), (1 << 63) - 1):
        async for _ in stub.Events(pb.EventsRequest(since_ms=since_ms)):
            break
    after = [t.topic for t in await client.admin.list_topics()], [s.store_id for s in await client.admin.list_stores()]
    assert after == before


async def test_a_batch_that_no_consumer_can_read_stops_nobody_for_ever(
    client: stele.Client, ledger: Ledger, channels: Channels
) -> None:
    """Its header and checksum are good, its records are not: a broker refuses it.  Where it is stored all the same (a datanode does not
    look at records), the consumer says so, and a seek leads past it."""
    topic = "bad/poison"
    await client.admin.create_topic(topic, partitions=1, replication=3)
    [broker] = await client.admin.list_brokers()
    assert broker.member is not None
    stub: Any = broker_pb2_grpc.BrokerStub(channels.get(broker.member.endpoint))  # type: ignore[no-untyped-call]
    good = make_batch(b"a", b"b")
    poison = with_checksum(good[: batch.HEADER_BYTES] + b"\xff" * (len(good) - batch.HEADER_BYTES))

    async def produced(data: bytes) -> Any:
        request = broker_pb2.ProduceRequest(request_id=1, topic=topic, batch=data)
        return (await stream(stub.Produce, [request]))[-1]

    assert (await produced(make_batch(b"before"))).base_offset == 0
    check_error(from_pb((await produced(poison)).error), BatchCorrupt, {})
    [partition] = await client.admin.list_partitions(topic)
    [leader] = [s for s in await client.admin.list_stores() if s.store_id == partition.leader_store_id]
    assert leader.member is not None
    datanode: Any = datanode_pb2_grpc.DatanodeStub(channels.get(leader.member.endpoint))  # type: ignore[no-untyped-call]
    append = datanode_pb2.AppendRequest(
        request_id=1, group=partition.group, owner_epoch=partition.owner_epoch, batches=[poison]
    )
    [answer] = await stream(datanode.Append, [append])
    assert [r.base_offset for r in answer.results] == [1]
    assert (await produced(make_batch(b"after"))).base_offset == 3
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        first = await consumer.receive(10)
        assert first is not None
        assert first.value == b"before"
        with contextlib.suppress(
            ConnectionBroken
        ):  # the consumer may have met the other one already: nobody knows whether it counts
            await asyncio.wait_for(consumer.ack(first), 20)
        error = await refused(
            asyncio.wait_for(consumer.receive(), 20), BatchCorrupt, topic=topic, partition=0, first=1, last=2
        )
        assert not error.retryable
    await client.admin.seek_subscription(topic, "s", 3)
    async with client.consumer(topic, "s", type="exclusive") as consumer:
        after = await consumer.receive(10)
        assert after is not None
        assert (after.offset, after.value) == (3, b"after")
    await client.admin.delete_topic(topic)
