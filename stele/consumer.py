"""Receiving messages of one topic through a subscription.

Guarantee: every message is delivered until it is acknowledged; ``await ack(message)`` returns when the acknowledgement is durable.
Within a partition messages come in order (*exclusive*, *failover*); *shared* spreads them over the consumers.  A broker that goes is
replaced without the user noticing; what may then come twice is a message that was delivered and not acknowledged.

A message belongs to the topic and to the position of the subscription under which it was delivered.  Once somebody moves the subscription
or makes it anew, or the topic is made anew under its name, what came before cannot be acknowledged any more (StaleAck), and what is there
now comes: all that the subscription owes, or everything of the new topic, whose partitions may be others.

When the topic is given more partitions, everything in them comes, whatever ``start`` says, as soon as the consumer hears of them, within
2 s.

Usage, with a ``client`` of ``stele.connect``; the loop goes on for ever, unless it is left::

    async with client.consumer("shop/orders", "billing") as consumer:
        async for message in consumer:
            print(message.value)
            await consumer.ack(message)
            if message.offset == 0:
                break

``async with`` returns once the subscription exists on every partition; without it, the first ``receive`` opens it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from stele import arguments
from stele.broker_calls import over_partitions
from stele.errors import ClientClosed
from stele.forks import Birthplace
from stele.model import Message
from stele.partition_consumer import AckPromise, Listeners, PartitionConsumer, SubscriptionSettings
from stele.routing import Router, TopicRoutes
from stele.services.errors import InternalError, InvalidArgument, StaleAck, SteleError, Timeout, Unreachable
from stele.services.pb import broker_pb2
from stele.services.rpc.channels import Channels
from stele.services.tasks import Tasks, unheard
from stele.services.topics import check_name, parse_topic

ACK_CONFIRM_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 30.0  # to learn the topic's partitions
SEEK_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
CREDIT_MAX = 1_000_000
TYPES = {
    "exclusive": broker_pb2.EXCLUSIVE,
    "failover": broker_pb2.FAILOVER,
    "shared": broker_pb2.SHARED,
}

ON_DAMAGE = ("raise", "skip")

Find = Callable[[str, float], Awaitable[TopicRoutes]]  # topic, timeout
HasBegun = Callable[[str, str], Awaitable[bool]]  # topic, subscription
Seek = Callable[
    [str, int, str, "int | str", "int | None"], Awaitable[int]
]  # topic, partition, subscription, start, timestamp


def check_start(start: int | str) -> int | str:
    """``"earliest"``, ``"latest"`` or an offset.  Raises InvalidArgument."""
    if (isinstance(start, str) and start in ("earliest", "latest")) or (
        isinstance(start, int) and not isinstance(start, bool) and 0 <= start < 1 << 63
    ):
        return start
    raise InvalidArgument(f"{arguments.shown(start)} is no place to start: earliest, latest or an offset from 0 on")


def check_target(to: int | str | None, timestamp_ms: int | None) -> int | str:
    """Where to seek: a place or a time, one of them.  Raises InvalidArgument."""
    if (to is None) == (timestamp_ms is None):
        raise InvalidArgument("give one of: a place to seek to, timestamp_ms")
    if timestamp_ms is not None:
        arguments.whole("timestamp_ms", timestamp_ms, 0, (1 << 63) - 1, "of milliseconds since 1970")
    return check_start(to) if to is not None else "earliest"


class Consumer:
    """Made by ``client.consumer``; see the module's docstring."""

    def __init__(
        self,
        topic: str,
        subscription: str,
        router: Router,
        channels: Channels,
        find: Find,
        has_begun: HasBegun,
        seek: Seek,
        *,
        type: str = "shared",
        start: int | str = "earliest",
        credit: int = 1000,
        ack_timeout_s: float | None = None,
        on_damage: str = "raise",
        name: str = "",
        rng: random.Random | None = None,
        on_closed: Callable[[Consumer], None] = lambda _: None,
    ) -> None:
        parse_topic(topic)
        check_name("subscription", subscription)
        if not isinstance(type, str) or type not in TYPES:
            raise InvalidArgument(f"subscription type {arguments.shown(type)} is not accepted: {', '.join(TYPES)}")
        arguments.whole("credit", credit, 1, CREDIT_MAX, "messages")
        if ack_timeout_s is not None:
            arguments.number("ack_timeout_s", ack_timeout_s, 0.01, 86_400, "of seconds, or None")
        arguments.text("name", name)
        if not isinstance(on_damage, str) or on_damage not in ON_DAMAGE:
            raise arguments.refusal("on_damage", on_damage, ", ".join(ON_DAMAGE))
        self._birthplace = Birthplace()
        self.topic, self.subscription, self.type = topic, subscription, type
        self._settings = SubscriptionSettings(
            topic=topic,
            subscription=subscription,
            type=TYPES[type],
            name=name or f"{socket.gethostname()}-{os.getpid()}-{(rng or random).randrange(1 << 16):04x}",
            start=check_start(start),
            ack_timeout_ms=int((ack_timeout_s or 0) * 1000),
            skips_damage=on_damage == "skip",
        )
        self._credit = credit
        self._router, self._channels = router, channels
        self._find, self._has_begun, self._seek = find, has_begun, seek
        self._rng = rng or random.Random()
        self._on_closed = on_closed
        self._topic_id = 0
        self._partitions: list[PartitionConsumer] = []
        self._leaving = Tasks(self._broken)  # partitions of a former topic of the name
        self._starting = Tasks(self._broken)
        self._ready: deque[PartitionConsumer] = deque()
        self._arrived = asyncio.Event()
        self._opening: asyncio.Lock = asyncio.Lock()
        self._end_watch: Callable[[], None] = lambda: None
        self._failure: SteleError | None = None
        self._closed = False

    # --- receiving ------------------------------------------------------------------------------------------------

    async def open(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Returns once the subscription exists on every partition of the topic.  Raises what makes that impossible, and past
        ``timeout_s`` what stood in the way: the consumer goes on trying, and may be opened again."""
        arguments.timeout_s(timeout_s)
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._open(timeout_s)
        except TimeoutError:
            raise self._not_opened(timeout_s) from None

    def _not_opened(self, timeout_s: float) -> SteleError:
        within = f"within {timeout_s:g} s"
        for p in self._partitions:
            if not p.opened.is_set():
                if p.trouble is None or not p.trouble.definite:
                    why = f": {p.trouble}" if p.trouble is not None else ""
                    return Timeout(f"{self.topic}-{p.partition} was not opened {within}{why}", timeout_s=timeout_s)
                return Unreachable(
                    f"{self.topic}-{p.partition} was not opened {within}: {p.trouble}", last=p.trouble.reason
                )
        return Timeout(f"the partitions of {self.topic} were not learned {within}", timeout_s=timeout_s)

    async def _open(self, timeout_s: float) -> None:
        async with self._opening:
            if not self._partitions:
                self._check_open()
                routes = await self._find(self.topic, timeout_s)
                begun = self._settings.start == "earliest" or await self._has_begun(self.topic, self.subscription)
                self._check_open()  # it may have been closed meanwhile, and nobody would end what begins here
                self._follow(routes, begun)
                self._end_watch = self._router.watch(self.topic, self._guarded_moved)
        topic_id, left = self._topic_id, list(self._partitions)
        while left:
            if topic_id != self._topic_id:
                topic_id, left = self._topic_id, list(self._partitions)
            p = left.pop(0)
            while not p.opened.is_set() and topic_id == self._topic_id:
                self._check_open()
                self._arrived.clear()
                waiting = [asyncio.ensure_future(p.opened.wait()), asyncio.ensure_future(self._arrived.wait())]
                try:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in waiting:
                        task.cancel()
            self._arrived.set()

    def _follow(self, routes: TopicRoutes, begun: bool) -> None:
        """From now on the partitions of this topic.  ``begun``: the subscription is there, so that what it lacks was added to the topic
        later, and all of it came after it."""
        self._topic_id, self._partitions = routes.topic_id, []
        self._add_partitions(routes, dataclasses.replace(self._settings, start="earliest") if begun else self._settings)

    def _add_partitions(self, routes: TopicRoutes, settings: SubscriptionSettings) -> None:
        """Those that are not there yet; all of them share the credit."""
        listeners = Listeners(self._mark_ready, functools.partial(self._failed, routes.topic_id))
        window = max(1, self._credit // len(routes.partitions))
        for p in self._partitions:
            p.narrow(window)
        added = [
            PartitionConsumer(
                routes.topic_id,
                r.partition,
                settings,
                window,
                self._router,
                self._channels,
                listeners,
                self._rng,
            )
            for r in routes.partitions[len(self._partitions) :]
        ]
        # A new list: whoever goes through the former one is not led on.
        self._partitions = [*self._partitions, *added]
        for p in added:
            if p.partition or settings.start == "earliest":
                p.start()
            else:
                self._starting.start(self._start_last(p, added[1:]))

    async def _start_last(self, first: PartitionConsumer, others: list[PartitionConsumer]) -> None:
        """The subscription counts as begun once it is on the first partition: by then it is on all others that there are now."""
        for p in others:
            await p.opened.wait()
        first.start()

    async def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None when there was none within ``timeout_s``.  Raises terminal errors alone: MessagesLost and BatchCorrupt
        (facts ``partition``, ``first``, ``last``) where messages cannot be read, unless the consumer skips them."""
        if timeout_s is not None:
            arguments.timeout_s(timeout_s)
        message = self._take()
        if message is not None:
            return message
        if timeout_s is not None and timeout_s <= 0 and self._partitions:
            # Not a timeout of 0: one that is over at once swallows a cancellation that came just before it.
            await asyncio.sleep(0)
            return self._take()
        try:
            async with asyncio.timeout(timeout_s):
                if not self._partitions:
                    await self.open()
                while (message := self._take()) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
                return message
        except TimeoutError:
            return None

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Message]:
        while not self._closed:
            try:
                message = await self.receive()
            except ClientClosed:
                return
            if message is not None:
                yield message

    # --- acknowledging --------------------------------------------------------------------------------------------

    async def ack(self, message: Message) -> None:
        """Returns when the acknowledgement is durable.  Raises Timeout when that is not known within 30 s: it may come again; StaleAck
        for a message from before a seek, or of a former topic or subscription of the name."""
        await self._confirmed(self.ack_nowait(message))

    def ack_nowait(self, message: Message) -> AckPromise:
        """Acknowledges without waiting; the future is done when it is durable."""
        promise = self._partition_of(message).ack(message, cumulative=False)
        promise.add_done_callback(unheard)
        return promise

    async def ack_cumulative(self, message: Message) -> None:
        """Acknowledges this message and every earlier one of its partition (not for *shared*)."""
        if self.type == "shared":
            raise InvalidArgument(
                "cumulative acknowledgement is for exclusive and failover subscriptions, this one is shared"
            )
        promise = self._partition_of(message).ack(message, cumulative=True)
        promise.add_done_callback(unheard)
        await self._confirmed(promise)

    def nack(self, message: Message, delay_s: float = 0.0) -> None:
        """Hands a message back: it is delivered again, not before ``delay_s``, and behind what comes meanwhile: each time that it is
        handed back it waits longer, a tenth of a second at first, twice as long each time, a minute at most."""
        _check_message(message)
        arguments.number("delay_s", delay_s, 0, 86_400, "of seconds")
        if self._topic_id == message.topic_id or message.topic != self.topic:
            self._partition_of(message).nack(message, delay_s)

    async def flush(self) -> None:
        """Returns when every acknowledgement so far is durable.  Raises Timeout when that is not known within 30 s."""
        self._birthplace.check(f"the consumer of {self.topic}")
        try:
            async with asyncio.timeout(ACK_CONFIRM_TIMEOUT_S):
                for p in self._partitions:
                    while p.buffer.unconfirmed:
                        self._check_open(even_closed=True)
                        await asyncio.sleep(0.005)
        except TimeoutError:
            raise Timeout(
                "acknowledgements were not confirmed, their messages may come again", timeout_s=ACK_CONFIRM_TIMEOUT_S
            ) from None

    # --- going elsewhere ------------------------------------------------------------------------------------------

    async def seek(
        self, to: int | str | None = None, *, timestamp_ms: int | None = None, partition: int | None = None
    ) -> None:
        """Moves the subscription, for all of its consumers: to ``"earliest"``, ``"latest"``, an offset, or a time (the place found
        may be a second or so early, never late).  Everything from there on is delivered, acknowledged or not.  Without
        ``partition``: on every partition."""
        start = check_target(to, timestamp_ms)
        if partition is not None:
            arguments.whole("partition", partition, 0, (1 << 31) - 1)
        self._check_open()
        if not self._partitions:
            await self.open()
        chosen = [p for p in self._partitions if partition is None or p.partition == partition]
        if not chosen:
            raise InvalidArgument(f"{self.topic} has partitions 0 to {len(self._partitions) - 1}, not {partition}")
        with over_partitions(self.topic) as changed:
            try:
                for p in chosen:
                    await p.stop()
                    p.opened.clear()
                async with asyncio.timeout(SEEK_TIMEOUT_S):
                    for p in chosen:
                        await self._seek(self.topic, p.partition, self.subscription, start, timestamp_ms)
                        changed.append(p.partition)
            except TimeoutError:
                raise Timeout(
                    "the subscription may not have been moved on every partition", timeout_s=SEEK_TIMEOUT_S
                ) from None
            finally:
                for p in chosen:
                    if p in self._partitions and not self._closed:
                        p.start()
            await self.open()

    async def close(self) -> None:
        """Waits a few seconds for acknowledgements under way, then leaves; what is not acknowledged is delivered to others."""
        self._birthplace.check(f"the consumer of {self.topic}")
        if self._closed:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
        except (TimeoutError, SteleError):
            pass
        finally:
            self._closed = True
            self._on_closed(self)
            self._end_watch()
            self._arrived.set()
            await self._starting.cancel()
            await asyncio.gather(self._leaving.finished(), *(p.stop() for p in self._partitions))
            # Not ClientClosed: that is definite, and one that was sent may count all the same.
            closed = f"the consumer of {self.topic} was closed before the acknowledgement was confirmed, its message may come again"
            for p in self._partitions:
                p.forget(Timeout(closed, timeout_s=CLOSE_TIMEOUT_S))

    async def __aenter__(self) -> Consumer:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def began_at(self) -> dict[int, int]:
        """Where the subscription begins, on each partition where this consumer made it: at ``start``, or at the first message that
        is kept where that is later."""
        return {p.partition: p.began_at for p in self._partitions if p.began_at is not None}

    @property
    def skipped(self) -> int:
        """With ``on_damage="skip"``: messages that nobody could read and that were passed over."""
        return sum(p.skipped for p in self._partitions)

    @property
    def active_partitions(self) -> list[int]:
        """*failover*: the partitions that this consumer is served from; otherwise all that are connected."""
        return [p.partition for p in self._partitions if p.active]

    # --- inside ---------------------------------------------------------------------------------------------------

    def _take(self) -> Message | None:
        """Partitions with messages take turns."""
        while self._ready:
            p = self._ready[0]
            message = p.take()
            self._ready.rotate(-1)
            if message is None or not p.buffer.buffered:
                self._ready.remove(p)
                p.is_ready = False
            if message is not None:
                return message
        self._check_open()
        return None

    def _mark_ready(self, p: PartitionConsumer) -> None:
        if not p.is_ready and p.topic_id == self._topic_id:
            p.is_ready = True
            self._ready.append(p)
        self._arrived.set()

    def _failed(self, topic_id: int, error: SteleError) -> None:
        if topic_id == self._topic_id:
            self._failure = self._failure or error
            self._arrived.set()

    def _check_open(self, even_closed: bool = False) -> None:
        self._birthplace.check(f"the consumer of {self.topic}")
        if self._failure is not None:
            raise self._failure
        if self._closed and not even_closed:
            raise ClientClosed(f"the consumer of {self.topic} is closed")

    def _guarded_moved(self, routes: TopicRoutes) -> None:
        try:
            self._moved(routes)
        except Exception as e:
            self._broken("routing", e)

    def _broken(self, what: str, error: BaseException) -> None:
        """A fault of this program: whoever waits for this consumer is told."""
        self._failed(self._topic_id, InternalError(f"the consumer of {self.topic} failed in {what}: {error!r}"))

    def _moved(self, routes: TopicRoutes) -> None:
        if routes.topic_id != self._topic_id:
            self._leave_for(routes)
            return
        if len(routes.partitions) > len(self._partitions) and not self._closed and self._failure is None:
            # All of what is in them came after this consumer, wherever that had begun.
            self._add_partitions(routes, dataclasses.replace(self._settings, start="earliest"))
        for p, route in zip(self._partitions, routes.partitions, strict=False):
            p.moved(route)

    def _leave_for(self, routes: TopicRoutes) -> None:
        """The topic was made anew: all of it came after this consumer, wherever that had begun."""
        if self._closed or self._failure is not None:
            return
        former, self._settings = self._partitions, dataclasses.replace(self._settings, start="earliest")
        self._starting.cancel_soon()
        self._ready.clear()
        for p in former:
            p.forget(StaleAck(f"topic {self.topic} was made anew before the acknowledgement was durable"))
            self._leaving.start(p.stop())
        self._follow(routes, begun=True)
        self._arrived.set()

    def _partition_of(self, message: Message) -> PartitionConsumer:
        _check_message(message)
        self._check_open()
        if message.topic == self.topic and self._partitions and message.topic_id != self._topic_id:
            raise StaleAck(
                f"topic {self.topic} was made anew since the message was delivered",
                topic_id=message.topic_id,
                current=self._topic_id,
            )
        if message.topic != self.topic or message.partition >= len(self._partitions):
            raise InvalidArgument(
                f"the message is of {message.topic}-{message.partition}, the consumer of {self.topic}"
            )
        return self._partitions[message.partition]

    async def _confirmed(self, promise: AckPromise) -> None:
        try:
            async with asyncio.timeout(ACK_CONFIRM_TIMEOUT_S):
                await asyncio.shield(promise)
        except TimeoutError:
            raise Timeout(
                "the acknowledgement was not confirmed, the message may come again", timeout_s=ACK_CONFIRM_TIMEOUT_S
            ) from None


def _check_message(message: object) -> None:
    if not isinstance(message, Message):
        raise arguments.refusal("message", message, "a Message that this consumer received")
