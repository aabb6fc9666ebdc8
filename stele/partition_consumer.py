"""One partition of a consumer: a Subscribe stream that is opened again for as long as the consumer lives.

Guarantee: the stream is always open, being opened, or waiting a bounded time to be opened; what ends it for good is a definite, terminal
refusal, which is handed to the consumer.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc

from stele.delivery_buffer import AckRequest, DeliveryBuffer, OffsetRange, join, read_delivery
from stele.model import Message
from stele.retry import backoff_s, may_retry
from stele.routing import Route, Router
from stele.services.errors import (
    BatchCorrupt,
    ConnectionBroken,
    ConsumerBusy,
    InternalError,
    MessagesLost,
    StaleAck,
    SteleError,
    SubscriptionNotFound,
    SubscriptionReset,
    Timeout,
    TopicNotFound,
    TopicReplaced,
    Unreachable,
)
from stele.services.library_log import LibraryLog
from stele.services.pb import broker_pb2, broker_pb2_grpc, datanode_pb2
from stele.services.rpc.channels import Channels
from stele.services.rpc.status import from_pb, typed_errors
from stele.services.tasks import Tasks, unheard

CONNECT_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 10.0  # the broker may have to find the partition's leader first
BUSY_GRACE_S = 2.0  # an exclusive subscription's last consumer may be noticed as gone a little late
BUSY_GRACE_AGAIN_S = 15.0  # and so may this consumer's own broken stream
NOT_FOUND_MAX = 3
RECEIVED_JOIN_S = (
    0.02  # how long what the user received waits to be told, at most; so much later its ack timeout begins
)
UNREADABLE_MAX = 3  # deliveries of the same bytes: on their way they may have been spoilt once

AckPromise = asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class SubscriptionSettings:
    """How every partition of a consumer is opened."""

    topic: str
    subscription: str
    type: int  # broker_pb2.SubscriptionType
    name: str
    start: int | str  # an offset, "earliest" or "latest"
    ack_timeout_ms: int
    skips_damage: bool = False  # messages that nobody can read are acknowledged and passed over, not an error


@dataclass(frozen=True, slots=True)
class Listeners:
    """What a partition tells its consumer."""

    arrived: Callable[[PartitionConsumer], None]
    failed: Callable[[SteleError], None]


class PartitionConsumer:
    """One partition's part of a consumer: ``start``, then ``take`` messages and ``ack`` or ``nack`` them, ``stop``.

    Guarantee: an acknowledgement stays until it is confirmed, over any number of streams; its promise then has its result, or the
    error that ended the partition (``forget``, a terminal refusal), or StaleAck once the subscription was moved or made anew.  It is
    a partition of the topic with the id ``topic_id`` and of no other of that name.  At most ``window`` messages wait here to
    be taken.  ``listeners`` are called on the event loop: when messages have come, and once when the
    partition is over for good.
    """

    def __init__(
        self,
        topic_id: int,
        partition: int,
        settings: SubscriptionSettings,
        window: int,
        router: Router,
        channels: Channels,
        listeners: Listeners,
        rng: random.Random,
    ) -> None:
        self.topic_id = topic_id
        self.partition = partition
        self.buffer: DeliveryBuffer[AckPromise] = DeliveryBuffer()
        self.is_ready = False  # it stands in the consumer's line of partitions with messages
        self.active = False
        self.began_at: int | None = None  # where the subscription begins, if this consumer made it
        self.skipped = 0  # messages that nobody could read
        self.opened = asyncio.Event()
        self.trouble: SteleError | None = None  # why its stream is not open
        self._settings = settings
        self._window = window
        self._router, self._channels = router, channels
        self._listeners = listeners
        self._rng = rng
        self._endpoint = ""
        self._credit_to_return = 0
        self._received: list[
            int
        ] = []  # by the user, and not yet told to the broker, which counts the ack timeout from then
        self._telling: asyncio.TimerHandle | None = None
        self._nacks: deque[broker_pb2.Nack] = deque()
        self._wake = asyncio.Event()
        self._call: Any = None
        self._broken: Exception | None = None  # a fault of this program in what writes to the stream
        self._ever_opened = False
        self._tasks = Tasks(self._task_failed)
        self._task: asyncio.Task[None] | None = None
        self._log = LibraryLog("consumer")

    def narrow(self, window: int) -> None:
        """So many messages at most wait here from now on, once those that are there or on their way have been taken."""
        self._credit_to_return -= self._window - window
        self._window = window

    def start(self) -> None:
        if self._task is None:
            self._task = self._tasks.start(self._run(), f"consume {self._settings.topic}-{self.partition}")

    async def stop(self) -> None:
        """Ends the stream; acknowledgements stay until it is started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- what the user does ---------------------------------------------------------------------------------------

    def take(self) -> Message | None:
        message = self.buffer.take()
        if message is not None:
            self._return_credit(1)
            self._tell_received([message.offset])
        return message

    def _tell_received(self, offsets: list[int]) -> None:
        if self._settings.ack_timeout_ms and offsets:
            self._received += offsets
            if self._telling is None:
                join_s = min(RECEIVED_JOIN_S, self._settings.ack_timeout_ms / 4000)
                self._telling = asyncio.get_running_loop().call_later(join_s, self._wake.set)

    def ack(self, message: Message, cumulative: bool) -> AckPromise:
        promise: AckPromise = asyncio.get_running_loop().create_future()
        offset = message.offset
        try:
            self.buffer.check(message.generation)
        except StaleAck as e:
            promise.set_exception(e)
            return promise
        if cumulative:
            before = self.buffer.buffered
            self.buffer.ack_cumulative(offset, promise)
            self._return_credit(before - self.buffer.buffered)
        else:
            before = self.buffer.buffered
            self.buffer.ack(offset, promise)
            self._return_credit(before - self.buffer.buffered)
        self._wake.set()
        return promise

    def nack(self, message: Message, delay_s: float) -> None:
        if message.generation != self.buffer.generation:
            return  # it comes again anyway
        offset = message.offset
        self.buffer.nack(offset)
        ranges = [datanode_pb2.OffsetRange(first=offset, last=offset)]
        self._nacks.append(broker_pb2.Nack(ranges=ranges, delay_ms=int(delay_s * 1000)))
        self._wake.set()

    def forget(self, error: SteleError) -> None:
        """Nothing of what came and was acknowledged so far counts any more."""
        self._nacks.clear()
        for promise in self.buffer.reset():
            _fail(promise, error)

    def moved(self, route: Route) -> None:
        """The partition's broker is at this endpoint now; a stream to another one is given up."""
        if route.endpoint and self._endpoint and route.endpoint != self._endpoint and self._call is not None:
            self._call.cancel()

    # --- the stream -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures, not_found, unreadable = 0, 0, 0
        loop = asyncio.get_running_loop()
        busy_since_s: float | None = None
        while True:
            try:
                await asyncio.sleep(backoff_s(failures, self._rng))
                await self._stream(await self._route(failures > 0))
                error: SteleError = ConnectionBroken("the broker ended the stream")
            except SteleError as e:
                error = e
            if isinstance(error, SubscriptionReset):
                # At once: what waits here to be received comes again, and not behind itself.
                self.forget(_stale(error))
            if self.opened.is_set():
                failures, not_found, busy_since_s = 0, 0, None
            self.opened.clear()
            self.active = False
            failures += 1
            not_found = not_found + 1 if isinstance(error, TopicNotFound) else 0
            unreadable = unreadable + 1 if isinstance(error, BatchCorrupt) else 0
            if isinstance(error, ConsumerBusy):
                busy_since_s = busy_since_s if busy_since_s is not None else loop.time()
                grace_s = BUSY_GRACE_AGAIN_S if self._ever_opened else BUSY_GRACE_S
                is_over = loop.time() - busy_since_s > grace_s
            elif isinstance(error, MessagesLost | BatchCorrupt):
                is_over = isinstance(error, MessagesLost) or unreadable >= UNREADABLE_MAX
                if is_over and self._settings.skips_damage and self._skip(error):
                    failures, unreadable, is_over = 0, 0, False
            else:
                is_over = not may_retry(error) and not 0 < not_found < NOT_FOUND_MAX
            if is_over:
                self._end(error)
                return
            self.trouble = error
            self._log.debug(
                "subscription_broken", topic=self._settings.topic, partition=self.partition, reason=error.reason
            )

    def _task_failed(self, name: str, error: BaseException) -> None:
        """Whatever depends on this partition must hear of it."""
        self._log.error("partition_failed", error, topic=self._settings.topic, partition=self.partition)
        self._end(InternalError(f"consuming {self._settings.topic}-{self.partition} failed: {error!r}"))

    def _skip(self, error: MessagesLost | BatchCorrupt) -> bool:
        """Acknowledges what ``error`` says cannot be read: then nobody is given it again.  False if it does not say."""
        first, last = error.facts.get("first", ""), error.facts.get("last", "")
        if not first.isdigit() or not last.isdigit():
            return False
        self._log.warning(
            "messages_skipped",
            topic=self._settings.topic,
            partition=self.partition,
            first=first,
            last=last,
            reason=error.reason,
        )
        for offset in range(int(first), int(last) + 1):
            promise: AckPromise = asyncio.get_running_loop().create_future()
            promise.add_done_callback(unheard)
            self.buffer.ack(offset, promise)
            self.skipped += 1
        return True

    def _end(self, error: SteleError) -> None:
        """For good.  What became of acknowledgements under way is not known, unless nothing is left of what they are about."""
        self._listeners.failed(error)
        if error.definite and not isinstance(error, TopicNotFound | SubscriptionNotFound):
            error = ConnectionBroken(f"the acknowledgement was not confirmed: {error}", last=error.reason)
        for promise in self.buffer.give_up():
            _fail(promise, error)

    async def _route(self, anew: bool) -> Route:
        topic = self._settings.topic
        routes = await (self._router.refresh(topic) if anew else self._router.routes(topic))
        if routes.topic_id != self.topic_id:
            raise TopicReplaced(f"{topic} was made anew", expected=self.topic_id, got=routes.topic_id)
        route = routes.of(self.partition)
        if not route.endpoint:
            raise Unreachable(f"{topic}-{self.partition} has no broker at the moment")
        return route

    async def _stream(self, route: Route) -> None:
        """One stream, from opening to its end."""
        channel = await self._channels.connected(route.endpoint, CONNECT_TIMEOUT_S)
        call = broker_pb2_grpc.BrokerStub(channel).Subscribe()  # type: ignore[no-untyped-call]
        writer: asyncio.Task[None] | None = None
        self._call, self._endpoint = call, route.endpoint
        try:
            await self._open(call, route.owner_epoch)
            writer = self._tasks.start(self._write(call), "write")
            while True:
                self._receive(await _read(call, route.endpoint))
        except SteleError:
            if self._broken is not None:
                raise self._broken from None
            raise
        finally:
            self._call, self._endpoint = None, ""
            call.cancel()
            if writer is not None:
                writer.cancel()

    async def _open(self, call: Any, owner_epoch: int) -> None:
        s = self._settings
        # Acknowledgements that were not confirmed go first, the credit after them: what is acknowledged does not come again.
        credit = 0 if self.buffer.unconfirmed else self._window
        request = broker_pb2.OpenSubscription(
            topic=s.topic,
            partition=self.partition,
            subscription=s.subscription,
            type=cast(Any, s.type),
            consumer=s.name,
            credit=credit,
            ack_timeout_ms=s.ack_timeout_ms,
            topic_id=self.topic_id,
            must_exist=self._ever_opened,
            owner_epoch=owner_epoch,
        )
        set_start(request, s.start)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                with typed_errors():
                    await call.write(broker_pb2.SubscribeRequest(open=request))
                response = await _read(call, self._endpoint)
        except TimeoutError:
            raise Timeout(f"{self._endpoint} did not open the subscription", timeout_s=OPEN_TIMEOUT_S) from None
        except asyncio.InvalidStateError:
            raise ConnectionBroken(f"{self._endpoint} ended the stream") from None
        if response.WhichOneof("response") == "closed":
            raise from_pb(response.closed.error) or ConnectionBroken(f"{self._endpoint} ended the stream")
        # Only now: what was buffered comes again on this stream, acknowledgements not yet confirmed are repeated on it.
        stale = _stale(f"{s.topic}-{self.partition} was opened anew")
        for promise in self.buffer.opened(response.opened.generation):
            _fail(promise, stale)
        self._nacks.clear()
        self._received.clear()
        self._credit_to_return = self._window - credit
        self.active = response.opened.active
        if response.opened.created:
            self.began_at = response.opened.position
        self._ever_opened = True
        self.opened.set()
        self._wake.set()

    def _receive(self, response: broker_pb2.SubscribeResponse) -> None:
        match response.WhichOneof("response"):
            case "delivery":
                d = response.delivery
                ranges = [(r.first, r.last) for r in d.offsets]
                messages, lost = read_delivery(
                    self._settings.topic,
                    self.partition,
                    d.base_offset,
                    d.batch,
                    ranges,
                    d.redelivery_count,
                    self.topic_id,
                    self.buffer.generation or 0,
                )
                self._tell_received(self.buffer.held_of(messages))
                self._return_credit(self.buffer.delivered(messages))
                if self.buffer.buffered:
                    self._listeners.arrived(self)
                if lost is not None:  # AFTER what stands before it was taken in
                    raise lost
            case "ack_done":
                error = from_pb(response.ack_done.error)
                if error is None:
                    self._confirm(self.buffer.confirmed(response.ack_done.request_id))
                elif (refused := self.buffer.refused(response.ack_done.request_id, error)) is not None:
                    for promise in refused.promises:
                        _fail(promise, error)
                elif error.retryable or not error.definite:
                    asyncio.get_running_loop().call_later(backoff_s(9, self._rng), self._wake.set)
            case "activity":
                self.active = response.activity.active
            case "closed":
                raise from_pb(response.closed.error) or ConnectionBroken("the broker ended the stream")
            case _:
                pass

    async def _write(self, call: Any) -> None:
        """Acknowledgements and credit, as they come; those of one turn together."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                with typed_errors():
                    self._telling = None
                    if self._received:
                        # BEFORE what is handed back: that is not out with this consumer any more.
                        received, self._received = self._received, []
                        ranges = [datanode_pb2.OffsetRange(first=a, last=b) for a, b in join(received)]
                        await call.write(broker_pb2.SubscribeRequest(received=broker_pb2.Received(ranges=ranges)))
                    while self._nacks:
                        await call.write(broker_pb2.SubscribeRequest(nack=self._nacks.popleft()))
                    while (request := self.buffer.next_request()) is not None:
                        await call.write(broker_pb2.SubscribeRequest(ack=_ack(request, self.buffer.generation or 0)))
                    if self._credit_to_return >= max(1, self._window // 2):
                        credit = broker_pb2.Credit(messages=self._credit_to_return)
                        self._credit_to_return = 0
                        await call.write(broker_pb2.SubscribeRequest(credit=credit))
            except (SteleError, asyncio.InvalidStateError):
                return  # the reader learns why
            except Exception as e:
                self._broken = e
                call.cancel()  # the reader would wait for ever for what is never written
                return

    def _return_credit(self, messages: int) -> None:
        """So many messages less are in the consumer's window."""
        self._credit_to_return += messages
        if self._credit_to_return >= max(1, self._window // 2):
            self._wake.set()

    def _confirm(self, request: AckRequest[AckPromise] | None) -> None:
        for promise in request.promises if request is not None else ():
            if not promise.done():
                promise.set_result(None)


def set_start(request: Any, start: int | str) -> None:
    """Fills the ``start`` of a request: an offset, "earliest" or "latest"."""
    if start == "earliest":
        request.earliest = True
    elif start == "latest":
        request.latest = True
    else:
        request.offset = int(start)


async def _read(call: Any, endpoint: str) -> broker_pb2.SubscribeResponse:
    with typed_errors():
        response = await call.read()
    if response is grpc.aio.EOF:  # type: ignore[attr-defined]
        raise ConnectionBroken(f"{endpoint} ended the stream")
    return cast(broker_pb2.SubscribeResponse, response)


def _ack(request: AckRequest[AckPromise], generation: int) -> broker_pb2.Ack:
    ranges: list[OffsetRange] = request.ranges
    return broker_pb2.Ack(
        request_id=request.request_id,
        ranges=[datanode_pb2.OffsetRange(first=a, last=b) for a, b in ranges],
        cumulative=request.cumulative,
        generation=generation,
    )


def _stale(why: object) -> StaleAck:
    return StaleAck(f"the subscription was moved or made anew before the acknowledgement was durable: {why}")


def _fail(promise: AckPromise, error: SteleError) -> None:
    if not promise.done():
        promise.set_exception(error)
