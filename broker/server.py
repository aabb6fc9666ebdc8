"""The broker's gRPC service (proto/stele/v1/broker.proto).

Guarantee: every call ends in an answer or a typed error. On streams errors are messages: a refused batch does not end
the stream of the others, and a refused or ended subscription says why in ``Closed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from stele.broker.consumer import ConsumerStream
from stele.broker.cursor_writes import Range
from stele.broker.cursors import start_of
from stele.broker.dispatch import Dispatch
from stele.broker.owned_partitions import OwnedPartition, OwnedPartitions
from stele.broker.produce import Produced, ProduceSession
from stele.broker.produce_budget import ProduceBudget
from stele.broker.subscription import SubscriptionType
from stele.services.batch import check
from stele.services.errors import InvalidArgument, MessageTooLarge, SteleError
from stele.services.pb import broker_pb2 as pb
from stele.services.pb import broker_pb2_grpc, datanode_pb2
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.status import to_wire
from stele.services.rpc.streams import while_reading
from stele.services.topics import check_name, parse_topic

BATCH_BYTES_MAX = MESSAGE_BYTES_MAX // 2
PRODUCE_BYTES_MAX = 256 << 20
CONSUMER_NAME_CHARS_MAX = 128
ACK_RANGES_MAX = 10_000


class BrokerServicer(broker_pb2_grpc.BrokerServicer):
    """Serves what ``partitions`` owns."""

    def __init__(
        self, partitions: OwnedPartitions, produce_credit_bytes: int, produce_bytes_max: int = PRODUCE_BYTES_MAX
    ) -> None:
        self._partitions = partitions
        self._produce_credit_bytes = produce_credit_bytes
        self._budget = ProduceBudget(produce_bytes_max)

    # --- producing ------------------------------------------------------------------------------------------------

    async def Produce(
        self, request_iterator: AsyncIterator[pb.ProduceRequest], context: Any
    ) -> AsyncGenerator[pb.ProduceResponse, None]:
        yield pb.ProduceResponse(credit_bytes=self._produce_credit_bytes)
        session = ProduceSession(self._produce_credit_bytes, self._budget, self._partitions.metrics)
        async with aclosing(session.run(request_iterator, lambda r: self._produce(r, session))) as answers:
            async for answer in answers:
                yield answer

    async def _produce(self, request: pb.ProduceRequest, session: ProduceSession) -> None:
        batch, read_s = request.batch, session.now()
        refusal: SteleError | None = session.charge(len(batch))
        try:
            header = check(batch)  # BEFORE it is stored: one that cannot be read would stop whoever consumes it
            owned = self._partitions.get(request.topic, request.partition, request.topic_id)
            if owned is None:
                owned = await self._partitions.find(request.topic, request.partition, request.topic_id)
        except SteleError as e:
            session.answer(request.request_id, len(batch), e, read_s)
            return
        if len(batch) > BATCH_BYTES_MAX:
            refusal = MessageTooLarge(
                f"a batch of {len(batch)} bytes; accepted: up to {BATCH_BYTES_MAX}", bytes_max=BATCH_BYTES_MAX
            )
        produced = Produced(session, request.request_id, batch, header, read_s)
        if refusal is not None:
            owned.producer.refuse(produced, refusal)
        else:
            owned.producer.offer(produced)
        await self._budget.room()  # only then is the stream read on

    # --- consuming ------------------------------------------------------------------------------------------------

    async def Subscribe(
        self, request_iterator: AsyncIterator[pb.SubscribeRequest], context: Any
    ) -> AsyncGenerator[pb.SubscribeResponse, None]:
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None:
            return
        subscription = first.open.subscription
        try:
            _check_open(first)
            owned = await self._opened(
                first.open.topic, first.open.partition, first.open.owner_epoch, first.open.topic_id
            )
            stream = await owned.dispatch.subscribe(first.open)
        except SteleError as e:
            yield pb.SubscribeResponse(closed=pb.Closed(error=to_wire(e)))
            return
        reading = _read_subscribe(requests, owned.dispatch, subscription, stream)
        try:
            async with aclosing(while_reading(stream.responses(), reading)) as responses:
                async for response in responses:
                    if response.HasField("delivery"):
                        delivery = response.delivery
                        messages = sum(r.last - r.first + 1 for r in delivery.offsets)
                        owned.traffic.count(messages, len(delivery.batch))
                    yield response
        finally:
            owned.dispatch.leave(subscription, stream.id)

    async def _opened(self, topic: str, partition: int, owner_epoch: int, topic_id: int = 0) -> OwnedPartition:
        owned = await self._partitions.find(topic, partition, topic_id, owner_epoch)
        await owned.opened()
        return owned

    # --- subscriptions --------------------------------------------------------------------------------------------

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: Any
    ) -> pb.ListSubscriptionsResponse:
        """Without ``partitions``: of those that this broker owns."""
        parse_topic(request.topic)
        if request.topic not in self._partitions.routes.partitions:
            await self._partitions.find(request.topic, 0)  # a moment for a topic that is new; else TopicNotFound
        wanted = list(request.partitions) or [r.partition for r in self._partitions.routes_of(request.topic)]
        owned = await asyncio.gather(*(self._opened(request.topic, p, request.owner_epoch) for p in wanted))
        found = await asyncio.gather(*(s.dispatch.list() for s in owned))
        return pb.ListSubscriptionsResponse(subscriptions=[s for infos in found for s in infos])

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: Any
    ) -> pb.CreateSubscriptionResponse:
        name = check_name("subscription", request.subscription)
        owned = await self._opened(request.topic, request.partition, request.owner_epoch)
        return pb.CreateSubscriptionResponse(created=await owned.dispatch.create(name, start_of(request)))

    async def DeleteSubscription(
        self, request: pb.DeleteSubscriptionRequest, context: Any
    ) -> pb.DeleteSubscriptionResponse:
        name = check_name("subscription", request.subscription)
        owned = await self._opened(request.topic, request.partition, request.owner_epoch)
        return pb.DeleteSubscriptionResponse(existed=await owned.dispatch.delete(name))

    async def SeekSubscription(self, request: pb.SeekSubscriptionRequest, context: Any) -> pb.SeekSubscriptionResponse:
        name = check_name("subscription", request.subscription)
        owned = await self._opened(request.topic, request.partition, request.owner_epoch)
        return pb.SeekSubscriptionResponse(position=await owned.dispatch.seek(name, _target_of(request)))

    # --- what goes through ----------------------------------------------------------------------------------------

    async def GetTraffic(self, request: pb.GetTrafficRequest, context: Any) -> pb.GetTrafficResponse:
        return pb.GetTrafficResponse(
            bundles=[
                pb.BundleTraffic(bundle=bundle, epoch=epoch, messages=counted.messages, bytes=counted.bytes)
                for bundle, (epoch, counted) in self._partitions.traffic().items()
            ]
        )


async def _read_subscribe(
    requests: AsyncIterator[pb.SubscribeRequest], dispatch: Dispatch, subscription: str, stream: ConsumerStream
) -> None:
    try:
        async for request in requests:
            match request.WhichOneof("request"):
                case "credit":
                    dispatch.credit(subscription, stream.id, request.credit.messages)
                case "ack":
                    ack = request.ack
                    await stream.begin_ack()
                    if len(ack.ranges) > ACK_RANGES_MAX:
                        error = InvalidArgument(f"{len(ack.ranges)} ranges; accepted: up to {ACK_RANGES_MAX}")
                        stream.finish_ack(ack.request_id, error)
                    else:
                        dispatch.ack(subscription, stream.id, ack)
                case "nack":
                    nack = request.nack
                    dispatch.nack(subscription, stream.id, _ranges(nack.ranges), nack.delay_ms / 1000)
                case "received":
                    dispatch.received(subscription, stream.id, _ranges(request.received.ranges))
                case _:
                    stream.close(InvalidArgument("a subscription is opened once, by the first request of its stream"))
    finally:
        stream.finish()


def _ranges(ranges: Any) -> list[Range]:
    return [(r.first, r.last) for r in ranges]


def _check_open(request: pb.SubscribeRequest) -> None:
    if request.WhichOneof("request") != "open":
        raise InvalidArgument("the first request of a subscription is `open`")
    check_name("subscription", request.open.subscription)
    if int(request.open.type) not in set(map(int, SubscriptionType)):
        raise InvalidArgument("the type of a subscription is exclusive, failover or shared")
    if len(request.open.consumer) > CONSUMER_NAME_CHARS_MAX:
        raise InvalidArgument(f"a consumer's name has up to {CONSUMER_NAME_CHARS_MAX} characters")


def _target_of(request: pb.SeekSubscriptionRequest) -> datanode_pb2.ResetCursorRequest:
    match request.WhichOneof("start"):
        case "offset":
            return datanode_pb2.ResetCursorRequest(offset=request.offset)
        case "earliest":
            return datanode_pb2.ResetCursorRequest(earliest=True)
        case "latest":
            return datanode_pb2.ResetCursorRequest(latest=True)
        case "timestamp_ms":
            return datanode_pb2.ResetCursorRequest(timestamp_ms=request.timestamp_ms)
    raise InvalidArgument("where to seek is missing: an offset, earliest, latest or a timestamp")
