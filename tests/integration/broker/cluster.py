"""A small cluster around brokers under test: in-memory datanodes, routing facts written by the test, clients that speak the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from stele.broker.owned_partitions import Build, OwnedPartitions
from stele.broker.server import BrokerServicer
from stele.datanode.partition import PartitionState
from stele.services.batch import BatchRecord, decode, encode
from stele.services.errors import SteleError
from stele.services.pb import broker_pb2 as pb
from stele.services.pb import broker_pb2_grpc, datanode_pb2, nameserver_pb2
from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from stele.services.rpc.status import from_pb
from tests.integration.broker.in_memory_datanodes import Group, InMemoryDatanode
from tests.support.eventually import eventually

TOPIC = "test/orders"
WITHIN_S = 10.0


class BrokerUnderTest:
    """One broker without ZooKeeper: it is told the routing facts by the test."""

    def __init__(self, name: str, cluster: Cluster, credit_bytes: int, build: Build | None) -> None:
        self.name = name
        self._cluster = cluster
        self._credit_bytes = credit_bytes
        self._build = build
        self.paused = False  # hears nothing of what nameservers say
        self.endpoint = ""

    async def start(self) -> None:
        self._channels = Channels()
        self.partitions = self._cluster.serve(
            self.name, self._channels, build=self._build, is_absent=self._cluster.is_absent
        )
        self._server = Server("127.0.0.1", 0)
        self.servicer = BrokerServicer(self.partitions, self._credit_bytes)
        self._server.add(broker_pb2_grpc.add_BrokerServicer_to_server, self.servicer, "stele.v1.Broker")
        self.endpoint = f"127.0.0.1:{await self._server.start()}"

    async def stop(self) -> None:
        await self._server.stop(0)
        await self.partitions.stop()
        await self._channels.close()

    def hear(self) -> None:
        if not self.paused:
            self.partitions.observe(self._cluster.routing())


class Cluster:
    """Three stores, one topic; every partition in one bundle of its own."""

    def __init__(
        self,
        partitions: int = 1,
        make_partition: Callable[[], PartitionState] = PartitionState,
        serve: Callable[..., OwnedPartitions] = OwnedPartitions,
    ) -> None:
        self.serve = serve
        self._first_group = 100
        self.groups = {100 + i: Group(100 + i, (1, 2, 3), make_partition()) for i in range(partitions)}
        self.datanodes = {i: InMemoryDatanode(i, self.groups) for i in (1, 2, 3)}
        self.brokers: dict[str, BrokerUnderTest] = {}
        self.owners = {self.bundle(i): ("br1", 1) for i in range(partitions)}
        self.created = {"test/orders"}  # also what brokers have not heard of
        self.topic_state = "ready"
        self.topic_id = 5
        self.revision = 0
        self._stack = AsyncExitStack()
        self._client = Channels()

    async def __aenter__(self) -> Cluster:
        for datanode in self.datanodes.values():
            await datanode.start()
            self._stack.push_async_callback(datanode.kill)
        self._stack.push_async_callback(self._client.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        for datanode in self.datanodes.values():
            datanode.thaw()
            datanode.hold_acks.set()
        await self._stack.aclose()

    async def broker(
        self, name: str = "br1", credit_bytes: int = 1 << 20, build: Build | None = None
    ) -> BrokerUnderTest:
        broker = self.brokers[name] = BrokerUnderTest(name, self, credit_bytes, build)
        await broker.start()
        self._stack.push_async_callback(broker.stop)
        broker.hear()
        return broker

    async def is_absent(self, topic: str) -> bool:
        """Whether there certainly is no such topic, as a nameserver says that is asked."""
        return topic not in self.created or self.topic_state == "deleting"

    # --- what nameservers say -------------------------------------------------------------------------------------

    @staticmethod
    def bundle(partition: int) -> str:
        return f"test/{partition:08x}-{partition:08x}"

    def routing(self) -> nameserver_pb2.Routing:
        self.revision += 1
        routing = nameserver_pb2.Routing(revision=self.revision, answered_by="ns1", leader_epoch=1)
        for i, datanode in self.datanodes.items():
            member = routing.datanodes.add(name=f"dn{i}", store_id=i, state="ready")
            member.address.endpoint = datanode.endpoint
        for name in self.brokers:
            routing.brokers.add(name=name, state="ready")
        for bundle, (owner, epoch) in self.owners.items():
            routing.bundles.add(bundle=bundle, broker=owner, epoch=epoch)
        topic = routing.topics.add()
        topic.topic.topic, topic.topic.partitions, topic.topic.state = TOPIC, len(self.groups), self.topic_state
        topic.topic.id = self.topic_id
        for i, group in enumerate(self.groups.values()):
            route = topic.partitions.add(partition=i, group=group.id, bundle=self.bundle(i))
            for store_id in group.stores:
                route.replicas.add(store_id=store_id)
        return routing

    def recreate_topic(self) -> None:
        """Another topic of the same name, with groups of its own."""
        self.topic_id += 1
        self._first_group += 100
        made = [Group(self._first_group + i, (1, 2, 3), PartitionState()) for i in range(len(self.groups))]
        self.groups.clear()  # the datanodes hold it, too
        self.groups.update({group.id: group for group in made})
        self.tell()

    def assign(self, broker: str, epoch: int, partition: int = 0) -> None:
        self.owners[self.bundle(partition)] = (broker, epoch)
        self.tell()

    def tell(self) -> None:
        for broker in self.brokers.values():
            broker.hear()

    # --- what stores do -------------------------------------------------------------------------------------------

    def group(self, partition: int = 0) -> Group:
        return self.groups[self._first_group + partition]

    def elect(self, store_id: int, partition: int = 0) -> None:
        self.group(partition).leader = store_id

    @property
    def leader(self) -> InMemoryDatanode:
        return self.datanodes[self.group().leader]

    # --- clients --------------------------------------------------------------------------------------------------

    def stub(self, broker: BrokerUnderTest) -> Any:
        return broker_pb2_grpc.BrokerStub(self._client.get(broker.endpoint))  # type: ignore[no-untyped-call]

    async def producer(self, broker: BrokerUnderTest) -> Producer:
        producer = Producer(self.stub(broker).Produce())
        self._stack.callback(producer.close)
        await producer.begin()
        return producer

    async def consumer(self, broker: BrokerUnderTest, subscription: str = "s", **options: Any) -> Consumer:
        """Raises the error of a refused subscription."""
        consumer = Consumer(self.stub(broker).Subscribe())
        self._stack.callback(consumer.close)
        await consumer.open(subscription, **options)
        return consumer


class Producer:
    """A Produce stream.  ``send`` numbers the messages of each producer id, as a client does."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._sequences: dict[tuple[int, int], int] = {}
        self._next_id = 0
        self.answers: dict[int, pb.ProduceResponse] = {}
        self.order: list[int] = []
        self.credit_bytes = 0

    async def begin(self) -> None:
        first = await asyncio.wait_for(self._call.read(), WITHIN_S)
        self.credit_bytes = first.credit_bytes
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (answer := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            assert answer.request_id not in self.answers, "answered twice"
            self.answers[answer.request_id] = answer
            self.order.append(answer.request_id)

    async def send(
        self, *values: str, producer_id: int = 7, partition: int = 0, topic: str = TOPIC, topic_id: int = 0
    ) -> int:
        key = (producer_id, partition)
        sequence = self._sequences.get(key, 0)
        self._sequences[key] = sequence + len(values)
        data = batch(*values, producer_id=producer_id, sequence=sequence)
        return await self.send_batch(data, partition, topic, topic_id)

    async def send_batch(self, data: bytes, partition: int = 0, topic: str = TOPIC, topic_id: int = 0) -> int:
        self._next_id += 1
        await self._call.write(
            pb.ProduceRequest(request_id=self._next_id, topic=topic, topic_id=topic_id, partition=partition, batch=data)
        )
        return self._next_id

    async def answer(self, request_id: int, within_s: float = WITHIN_S) -> pb.ProduceResponse:
        return await eventually(lambda: self.answers.get(request_id), within_s)

    async def offset(self, request_id: int, within_s: float = WITHIN_S) -> int:
        """Raises the error that the request was answered with."""
        answer = await self.answer(request_id, within_s)
        if (error := from_pb(answer.error)) is not None:
            raise error
        return int(answer.base_offset)

    async def error(self, request_id: int) -> SteleError:
        error = from_pb((await self.answer(request_id)).error)
        assert error is not None, "stored"
        return error

    async def done(self) -> None:
        await self._call.done_writing()

    def close(self) -> None:
        self._call.cancel()


class Consumer:
    """A Subscribe stream; everything that comes is kept."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._next_ack = 0
        self.opened: pb.Opened | None = None
        self.offsets: list[int] = []
        self.values: list[str] = []
        self.redelivered: dict[int, int] = {}  # offset → highest count seen
        self.confirmed: set[int] = set()
        self.refused: dict[int, SteleError] = {}
        self.activity: list[bool] = []
        self.closed: SteleError | None = None
        self.ended = False
        self.batches = 0

    async def open(
        self,
        subscription: str,
        kind: int = pb.EXCLUSIVE,
        credit: int = 1000,
        name: str = "",
        start: str = "earliest",
        offset: int | None = None,
        ack_timeout_ms: int = 0,
        partition: int = 0,
        topic_id: int = 0,
        must_exist: bool = False,
        owner_epoch: int = 0,
    ) -> None:
        request = pb.OpenSubscription(
            topic=TOPIC,
            topic_id=topic_id,
            must_exist=must_exist,
            owner_epoch=owner_epoch,
            partition=partition,
            subscription=subscription,
            type=pb.SubscriptionType.ValueType(kind),
            consumer=name,
            credit=credit,
            ack_timeout_ms=ack_timeout_ms,
        )
        if offset is not None:
            request.offset = offset
        elif start:
            setattr(request, start, True)
        await self._call.write(pb.SubscribeRequest(open=request))
        first = await asyncio.wait_for(self._call.read(), WITHIN_S)
        if first.WhichOneof("response") == "closed":
            error = from_pb(first.closed.error)
            assert error is not None
            raise error
        self.opened = first.opened
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (response := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            match response.WhichOneof("response"):
                case "delivery":
                    self._delivered(response.delivery)
                case "ack_done":
                    error = from_pb(response.ack_done.error)
                    if error is None:
                        self.confirmed.add(response.ack_done.request_id)
                    else:
                        self.refused[response.ack_done.request_id] = error
                case "activity":
                    self.activity.append(response.activity.active)
                case "closed":
                    self.closed = from_pb(response.closed.error)
        self.ended = True

    def _delivered(self, delivery: pb.Delivery) -> None:
        self.batches += 1
        records = decode(delivery.batch)
        for r in delivery.offsets:
            for offset in range(r.first, r.last + 1):
                self.offsets.append(offset)
                self.values.append(records[offset - delivery.base_offset].value.decode())
                if delivery.redelivery_count:
                    self.redelivered[offset] = delivery.redelivery_count

    async def received(self, count: int, within_s: float = WITHIN_S) -> list[str]:
        await eventually(lambda: len(self.offsets) >= count, within_s, describe=lambda: self.offsets)
        return self.values

    async def credit(self, messages: int) -> None:
        await self._call.write(pb.SubscribeRequest(credit=pb.Credit(messages=messages)))

    async def ack(self, *offsets: int, cumulative: bool = False, generation: int | None = None) -> int:
        self._next_ack += 1
        assert self.opened is not None
        ack = pb.Ack(
            request_id=self._next_ack,
            ranges=_ranges(offsets),
            cumulative=cumulative,
            generation=self.opened.generation if generation is None else generation,
        )
        await self._call.write(pb.SubscribeRequest(ack=ack))
        return self._next_ack

    async def acked(self, *offsets: int, cumulative: bool = False) -> None:
        """Acknowledges and waits for the confirmation."""
        request_id = await self.ack(*offsets, cumulative=cumulative)
        await eventually(lambda: request_id in self.confirmed, WITHIN_S)

    async def nack(self, *offsets: int, delay_ms: int = 0) -> None:
        await self._call.write(pb.SubscribeRequest(nack=pb.Nack(ranges=_ranges(offsets), delay_ms=delay_ms)))

    async def receive(self, *offsets: int) -> None:
        """As if its user had these now."""
        await self._call.write(pb.SubscribeRequest(received=pb.Received(ranges=_ranges(offsets))))

    async def leave(self) -> None:
        await self._call.done_writing()
        await eventually(lambda: self.ended, WITHIN_S)

    def close(self) -> None:
        self._call.cancel()


def batch(*values: str, producer_id: int = 7, sequence: int = 0) -> bytes:
    return encode(
        [BatchRecord(value=v.encode(), timestamp_ms=1000 + i) for i, v in enumerate(values)], producer_id, sequence
    )


def _ranges(offsets: Sequence[int]) -> list[datanode_pb2.OffsetRange]:
    return [datanode_pb2.OffsetRange(first=o, last=o) for o in offsets]
