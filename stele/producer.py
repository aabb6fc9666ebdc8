"""Sending messages to one topic.

Guarantee: ``send`` returns when the message is on stable storage of a majority of its partition's replicas.  With the default idempotent
producer it is stored exactly once, in the order of ``send`` calls per partition, whatever single process dies meanwhile.

An error says whether the message is *definitely* not stored (``error.definite``) or may be.  After an indefinite one the partition's
sequence cannot be continued: messages that were on their way behind it fail as indefinite too, and later ones begin a new producer epoch:
as soon as one of them is stored, what failed before is stored already, or never will be.  Sending a message again after an indefinite
error may store it twice.

A producer sends to whichever topic has the name.  When the topic is deleted and made anew, what cannot have been stored in the former one
goes to the new one, to the partition that a new producer would choose, in order; what may have been stored in the former one fails as
indefinite.  In between, while there is no topic, messages fail with TopicNotFound.

When the topic is given more partitions, the producer uses them as soon as it hears of them, within 2 s.  A key's messages may go to another
partition from then on: those before the change and those after it are in order, each among themselves.

Usage, with a ``client`` of ``stele.connect``::

    async with client.producer("shop/orders") as producer:
        result = await producer.send(b"two of the red ones", key=b"customer-7")
        print(result.partition, result.offset)

Memory is bounded by ``buffer_bytes_max``: ``send`` and ``enqueue`` wait for room, ``send_nowait`` raises Overloaded.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from stele import arguments
from stele.batching import (
    INFLIGHT_BATCHES_MAX,
    MESSAGE_MEMORY_BYTES,
    PartitionBatches,
    StickyPartitioner,
    check_record,
    new_producer_id,
    partition_of_key,
)
from stele.buffer_limit import BufferLimit
from stele.errors import ClientClosed, SendTimedOut
from stele.forks import Birthplace
from stele.model import SendResult
from stele.partition_sender import NOT_FOUND_MAX, OutgoingMessage, PartitionSender, Promise
from stele.produce_streams import ProduceStreams
from stele.routing import Router, TopicRoutes
from stele.services.batch import TIMESTAMP_MS_MAX, BatchRecord
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    InternalError,
    Overloaded,
    PartitionNotFound,
    SteleError,
    TopicNotFound,
    TopicReplaced,
)
from stele.services.library_log import LibraryLog
from stele.services.tasks import Tasks, unheard
from stele.services.topics import parse_topic

SWEEP_INTERVAL_S = 0.1
STALL_S = 1.0  # an unanswered attempt this old makes the producer look the topic up again
LOOKUP_PAUSE_S = 0.2
PARTITIONS_MAX = 1 << 31

Octets = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """Bounds of a producer, units in the names."""

    linger_ms: float = 5.0
    batch_bytes_max: int = 64 * 1024
    send_timeout_s: float = 30.0
    buffer_bytes_max: int = 32 * 1024 * 1024
    inflight_batches_max: int = INFLIGHT_BATCHES_MAX
    idempotent: bool = True  # False: a retry may store a message twice

    def __post_init__(self) -> None:
        arguments.number("linger_ms", self.linger_ms, 0, 10_000)
        arguments.number("send_timeout_s", self.send_timeout_s, 0.01, 3600)
        arguments.whole("batch_bytes_max", self.batch_bytes_max, 1, 1024 * 1024)
        arguments.whole("buffer_bytes_max", self.buffer_bytes_max, 1024, 1 << 34)
        arguments.whole("inflight_batches_max", self.inflight_batches_max, 1, INFLIGHT_BATCHES_MAX)
        arguments.flag("idempotent", self.idempotent)


class Producer:
    """Made by ``client.producer``; see the module's docstring."""

    def __init__(
        self,
        topic: str,
        router: Router,
        streams: ProduceStreams,
        settings: ProducerSettings,
        *,
        rng: random.Random | None = None,
        clock: Clock = SYSTEM,
        on_closed: Callable[[Producer], None] = lambda _: None,
    ) -> None:
        parse_topic(topic)
        self._birthplace = Birthplace()
        self.topic = topic
        self.settings = settings
        self._router, self._streams = router, streams
        self._rng = rng or random.Random()
        self._clock = clock
        self._on_closed = on_closed
        self._limit = BufferLimit(settings.buffer_bytes_max)
        self._staged: deque[OutgoingMessage] = deque()  # until the topic's partitions are known and have senders
        self._routes: TopicRoutes | None = None
        self._senders: list[PartitionSender] = []  # of the topic that has the name now
        self._former: list[PartitionSender] = []  # of its predecessor, while some of theirs is unanswered
        self._sticky: StickyPartitioner | None = None
        self._sticky_sealed = 0  # batches of the sticky partition that were complete when it was chosen
        self._tasks = Tasks(self._broken)
        self._end_watch: Callable[[], None] = lambda: None
        self._closed = False
        self._failure: InternalError | None = None  # a fault of this program: nothing is sent any more
        self._log = LibraryLog("producer")

    # --- sending --------------------------------------------------------------------------------------------------

    def send(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> Coroutine[Any, Any, SendResult]:
        """``await`` it: stores one message and returns where.  What it is given is checked and copied at the call, and may be changed
        after it.  Raises SteleError: InvalidArgument, MessageTooLarge, TopicNotFound, Timeout (may be stored), …"""
        record, size = self._record(value, key, headers, partition)

        async def stored() -> SendResult:
            return await (await self._taken(record, size, partition))

        return stored()

    def enqueue(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> Coroutine[Any, Any, Promise]:
        """``await`` it: takes the message as soon as there is room for it; the future that it returns holds the result.  Checked and
        copied at the call, as by ``send``.  Raises SendTimedOut when there is no room within ``send_timeout_s``."""
        record, size = self._record(value, key, headers, partition)

        return self._taken(record, size, partition)

    def send_nowait(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> Promise:
        """Takes the message at once; the future it returns holds the result.  Raises Overloaded when the buffer is full."""
        record, size = self._record(value, key, headers, partition)
        if not self._limit.try_acquire(size + MESSAGE_MEMORY_BYTES):
            limit = self._limit.bytes_max
            raise Overloaded(
                f"the producer's buffer of {limit} bytes is full: await send or enqueue instead", limit=limit
            )
        return self._accept(record, size, partition, self._deadline_s())

    async def flush(self) -> None:
        """Returns when every message taken so far is answered, whatever is sent meanwhile; failures stay with their futures."""
        self._birthplace.check(f"the producer of {self.topic}")
        self._send_now()
        taken = [outgoing.promise for sender in [*self._former, *self._senders] for outgoing in sender.unanswered()]
        taken += [outgoing.promise for outgoing in self._staged]
        for promise in taken:  # mostly in the order in which they are answered, a batch at once
            if not promise.done():
                await asyncio.wait([promise])

    async def close(self) -> None:
        """Takes nothing more, and returns when every message taken so far is answered."""
        if not self._closed:
            self._birthplace.check(f"the producer of {self.topic}")
            self._closed = True
            try:
                self._send_now()
                await self._limit.unused()  # all that is unanswered has its bytes there
            finally:
                await self.abort()

    async def abort(self) -> None:
        """Takes nothing more and fails what is unanswered."""
        self._birthplace.check(f"the producer of {self.topic}")
        self._closed = True
        self._on_closed(self)
        self._end_watch()
        error = ClientClosed(f"the producer of {self.topic} was closed")
        self._limit.refuse_all(error)
        self._fail_everything(error)
        await asyncio.gather(self._tasks.cancel(), *(sender.close() for sender in [*self._former, *self._senders]))

    async def __aenter__(self) -> Producer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.close() if kind is None else self.abort())

    # --- taking ---------------------------------------------------------------------------------------------------

    def _record(
        self,
        value: Octets,
        key: Octets | None,
        headers: Mapping[str, Octets] | None,
        partition: int | None,
    ) -> tuple[BatchRecord, int]:
        self._birthplace.check(f"the producer of {self.topic}")
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ClientClosed(f"the producer of {self.topic} is closed")
        if partition is not None:
            arguments.whole("partition", partition, 0, PARTITIONS_MAX - 1)
        record = BatchRecord(
            arguments.octets("value", value),
            arguments.octets("key", key) if key is not None else None,
            arguments.headers(headers),
            min(max(self._clock.wall_ms(), 0), TIMESTAMP_MS_MAX),
        )
        return record, check_record(record)

    async def _taken(self, record: BatchRecord, size: int, partition: int | None) -> Promise:
        deadline_s = self._deadline_s()  # BEFORE it waits for room: that is part of its time
        if not self._limit.try_acquire(size + MESSAGE_MEMORY_BYTES):
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._limit.acquire(size + MESSAGE_MEMORY_BYTES)
            except TimeoutError:
                limit = self._limit.bytes_max
                raise SendTimedOut(
                    f"no room in the producer's buffer of {limit} bytes before the send timeout"
                ) from None
        return self._accept(record, size, partition, deadline_s)

    def _deadline_s(self) -> float:
        """Of what is given now, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.send_timeout_s

    def _accept(self, record: BatchRecord, size: int, partition: int | None, deadline_s: float) -> Promise:
        """Its memory is acquired already."""
        loop = asyncio.get_running_loop()
        promise: Promise = loop.create_future()
        promise.add_done_callback(unheard)
        outgoing = OutgoingMessage(record, size, partition, promise, deadline_s)
        if self._failure is not None:
            self._fail(outgoing, self._failure)
        elif self._closed:
            self._fail(outgoing, ClientClosed(f"the producer of {self.topic} was closed"))
        elif self._senders:
            self._assign(outgoing)
        else:
            if self._routes is None and not self._staged:
                self._tasks.start(self._begin())
            self._staged.append(outgoing)
        return promise

    def _send_now(self) -> None:
        """What waits for company waits no more."""
        for sender in self._senders:
            sender.flush()

    def _assign(self, outgoing: OutgoingMessage) -> None:
        if outgoing.partition is not None:
            chosen = outgoing.partition
            if not 0 <= chosen < len(self._senders):
                has = f"{self.topic} has partitions 0 to {len(self._senders) - 1}"
                self._fail(outgoing, PartitionNotFound(f"{has}, not {chosen}", partition=chosen))
                return
        elif outgoing.record.key is not None:
            chosen = partition_of_key(outgoing.record.key, len(self._senders))
        else:
            chosen = self._sticky_partition()
        self._senders[chosen].add(outgoing)

    def _sticky_partition(self) -> int:
        """The same until a batch of it is complete, then the next that is not stalled."""
        sticky = self._sticky
        assert sticky is not None
        if self._senders[sticky.current].sealed_batches != self._sticky_sealed:
            sticky.advance(lambda p: self._senders[p].is_stalled)
            self._sticky_sealed = self._senders[sticky.current].sealed_batches
        return sticky.current

    # --- the topic ------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Learns the topic's partitions, then hands out what was staged meanwhile."""
        loop = asyncio.get_running_loop()
        not_found = 0
        while self._staged:
            try:
                self._open(await self._router.refresh(self.topic))
                return
            except SteleError as e:
                not_found = not_found + 1 if isinstance(e, TopicNotFound) else 0
                if e.definite and not e.retryable and not 0 < not_found < NOT_FOUND_MAX:
                    self._fail_everything(e)
                    return
                self._expire_staged(loop.time(), e)
            await asyncio.sleep(LOOKUP_PAUSE_S)

    def _expire_staged(self, now_s: float, why: SteleError) -> None:
        late = [outgoing for outgoing in self._staged if outgoing.deadline_s <= now_s]
        if late:
            self._staged = deque(outgoing for outgoing in self._staged if outgoing.deadline_s > now_s)
            error = SendTimedOut(f"not sent before the send timeout: {why}", last=why.reason)
            for outgoing in late:
                self._fail(outgoing, error)

    def _open(self, routes: TopicRoutes) -> None:
        self._build_senders(routes)
        self._end_watch = self._router.watch(self.topic, self._guarded_moved)
        self._tasks.start(self._sweep())

    def _build_senders(self, routes: TopicRoutes) -> None:
        """For a topic's partitions; they are given what was staged."""
        self._routes = routes
        self._add_senders(routes)
        self._sticky, self._sticky_sealed = StickyPartitioner(len(self._senders), self._rng), 0
        while self._staged:
            self._assign(self._staged.popleft())

    def _add_senders(self, routes: TopicRoutes) -> None:
        """For the partitions that have none."""
        settings = self.settings
        for route in routes.partitions[len(self._senders) :]:
            producer_id = new_producer_id(self._rng) if settings.idempotent else 0
            batches = PartitionBatches[OutgoingMessage](
                producer_id, settings.batch_bytes_max, settings.inflight_batches_max
            )
            sender = PartitionSender(
                self.topic,
                routes.topic_id,
                route.partition,
                batches,
                self._router,
                self._streams,
                self._limit,
                linger_s=settings.linger_ms / 1000,
                rng=self._rng,
                on_broken=self._broken,
            )
            self._senders.append(sender)

    def _guarded_moved(self, routes: TopicRoutes) -> None:
        try:
            self._moved(routes)
        except Exception as e:
            self._broken("routing", e)

    def _moved(self, routes: TopicRoutes) -> None:
        known, self._routes = self._routes, routes
        assert known is not None
        if known.topic_id != routes.topic_id:
            if not self._former:
                self._former, self._senders = self._senders, []
                self._tasks.start(self._leave_former_topic())
            return
        if not self._former and len(routes.partitions) > len(self._senders):
            self._add_senders(routes)
            if self._sticky is not None:
                self._sticky.grow(len(self._senders))
        for sender, route in zip(self._senders, routes.partitions, strict=False):
            sender.moved(route.endpoint)

    async def _leave_former_topic(self) -> None:
        """What was not stored there goes to the topic that has the name now; meanwhile everything is staged."""
        anew = self._made_anew()
        await asyncio.gather(*(self._stage_again(sender, anew) for sender in self._former))
        former, self._former = self._former, []
        assert self._routes is not None
        self._build_senders(self._routes)
        for sender in self._senders:
            sender.flush()  # it has waited for company before
        await asyncio.gather(*(sender.close() for sender in former))

    async def _stage_again(self, sender: PartitionSender, anew: TopicReplaced) -> None:
        """Each partition's in their order, and before what came later: so messages of one key stay in theirs."""
        self._staged.extendleft(reversed(await sender.retire(anew)))

    def _made_anew(self) -> TopicReplaced:
        return TopicReplaced(f"topic {self.topic} was deleted and made anew", topic=self.topic)

    async def _sweep(self) -> None:
        """Deadlines and silence of every partition, on one timer."""
        loop = asyncio.get_running_loop()
        looked_up_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now_s = loop.time()
            self._expire_staged(now_s, self._made_anew())
            oldest_s = min((sender.oldest_sent_s() for sender in self._senders), default=now_s)
            for sender in self._former:
                sender.expire(now_s)
            for sender in self._senders:
                sender.sweep(now_s)
            if now_s - oldest_s > STALL_S and now_s - looked_up_s > STALL_S:
                looked_up_s = now_s
                self._tasks.start(self._look_up())

    async def _look_up(self) -> None:
        try:
            await self._router.refresh(self.topic)
        except SteleError as e:
            self._log.debug("refresh_failed", topic=self.topic, reason=e.reason)

    def _broken(self, what: str, error: BaseException) -> None:
        """A fault in what runs for this producer: whatever depends on it fails, now, and so does what is sent from here on."""
        self._log.error("producer_failed", error, topic=self.topic, part=what)
        self._failure = self._failure or InternalError(f"the producer of {self.topic} failed in {what}: {error!r}")
        self._end_watch()
        for sender in [*self._former, *self._senders]:
            sender.abandon(self._failure)
        while self._staged:
            self._fail(self._staged.popleft(), self._failure)
        self._limit.refuse_all(self._failure)
        self._tasks.cancel_soon()

    # --- failing --------------------------------------------------------------------------------------------------

    def _fail(self, outgoing: OutgoingMessage, error: SteleError) -> None:
        if not outgoing.promise.done():
            outgoing.promise.set_exception(error)
        self._limit.release(outgoing.size + MESSAGE_MEMORY_BYTES)

    def _fail_everything(self, error: SteleError) -> None:
        for sender in [*self._former, *self._senders]:
            sender.fail_all(error)
        while self._staged:
            self._fail(self._staged.popleft(), error)
