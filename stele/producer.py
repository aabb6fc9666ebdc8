"""Sending messages to one topic.

Guarantee: ``send`` returns when the message is on stable storage of a majority of its partition's replicas.  With the default idempotent
producer it is stored exactly once, in the order of ``send`` calls per partition, whatever single process dies meanwhile.

An error says whether the message is *definitely* not stored (``error.definite``) or may be.  After an indefinite one the partition's
sequence cannot be continued: messages that were on their way behind it fail as indefinite too, and later ones go out under a new
producer id.  Sending a message again after an indefinite error may store it twice.

Usage::

    async with client.producer("shop/orders") as producer:
        result = await producer.send(b"...", key=b"customer-7")

Memory is bounded by ``buffer_bytes_max``: ``send`` and ``enqueue`` wait for room, ``send_nowait`` raises Overloaded.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

from stele.batching import (
    INFLIGHT_BATCHES_MAX,
    GivenUp,
    PartitionBatches,
    ProducerBatch,
    StickyPartitioner,
    check_record,
    new_producer_id,
    partition_of_key,
)
from stele.buffer_limit import BufferLimit
from stele.errors import ClientClosed, SendTimedOut
from stele.model import SendResult
from stele.partition_sender import NOT_FOUND_MAX, PartitionSender, Surroundings
from stele.produce_stream import ProduceStream, ProduceStreams
from stele.routing import Router, TopicRoutes
from stele.services.batch import BatchRecord
from stele.services.errors import InvalidArgument, Overloaded, PartitionNotFound, SteleError, TopicNotFound
from stele.services.library_log import LibraryLog
from stele.services.topics import parse_topic

SWEEP_INTERVAL_S = 0.1
STALL_S = 1.0  # an unanswered attempt this old makes the producer look the topic up again
LOOKUP_PAUSE_S = 0.2
_MESSAGE_MEMORY_BYTES = 300  # what a waiting message costs besides its bytes

Promise = asyncio.Future[SendResult]


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
        for name, low, high in (
            ("linger_ms", 0, 10_000),
            ("batch_bytes_max", 1, 1024 * 1024),
            ("send_timeout_s", 0.01, 3600),
            ("buffer_bytes_max", 1024, 1 << 34),
            ("inflight_batches_max", 1, INFLIGHT_BATCHES_MAX),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidArgument(f"{name} {getattr(self, name)} is not accepted: {low} to {high}")


@dataclass(frozen=True, slots=True)
class _Taken:
    """A message that has its room, not yet in a batch."""

    record: BatchRecord
    size: int
    partition: int | None
    promise: Promise
    deadline_s: float


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
        on_closed: Callable[[Producer], None] = lambda _: None,
    ) -> None:
        parse_topic(topic)
        self.topic = topic
        self.settings = settings
        self._router, self._streams = router, streams
        self._rng = rng or random.Random()
        self._on_closed = on_closed
        self._limit = BufferLimit(settings.buffer_bytes_max)
        self._unanswered = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._staged: deque[_Taken] = deque()  # until the topic's partitions are known
        self._senders: list[PartitionSender] = []
        self._sticky: StickyPartitioner | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._end_watch: Callable[[], None] = lambda: None
        self._closed = False
        self._log = LibraryLog("producer")

    # --- sending --------------------------------------------------------------------------------------------------

    async def send(
        self,
        value: bytes,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        partition: int | None = None,
    ) -> SendResult:
        """Stores one message and returns where.  Raises SteleError: MessageTooLarge, TopicNotFound, Timeout (may be stored), …"""
        return await (await self.enqueue(value, key, headers, partition))

    async def enqueue(
        self,
        value: bytes,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        partition: int | None = None,
    ) -> Promise:
        """Takes the message as soon as there is room for it; the future it returns holds the result."""
        record, size = self._record(value, key, headers)
        await self._limit.acquire(size + _MESSAGE_MEMORY_BYTES)
        return self._accept(record, size, partition)

    def send_nowait(
        self,
        value: bytes,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        partition: int | None = None,
    ) -> Promise:
        """Takes the message at once; the future it returns holds the result.  Raises Overloaded when the buffer is full."""
        record, size = self._record(value, key, headers)
        if not self._limit.try_acquire(size + _MESSAGE_MEMORY_BYTES):
            limit = self._limit.bytes_max
            raise Overloaded(
                f"the producer's buffer of {limit} bytes is full: await send or enqueue instead", limit=limit
            )
        return self._accept(record, size, partition)

    async def flush(self) -> None:
        """Returns when every message taken so far is answered; failures stay with their futures."""
        for sender in self._senders:
            sender.seal()
        await self._idle.wait()

    async def close(self) -> None:
        """Flushes, then takes nothing more."""
        if not self._closed:
            self._closed = True
            try:
                await self.flush()
            finally:
                await self.abort()

    async def abort(self) -> None:
        """Takes nothing more and fails what is unanswered."""
        self._closed = True
        self._on_closed(self)
        self._end_watch()
        error = ClientClosed(f"the producer of {self.topic} was closed")
        self._limit.refuse_all(error)
        self._fail_everything(error)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Producer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.close() if kind is None else self.abort())

    # --- taking ---------------------------------------------------------------------------------------------------

    def _record(self, value: bytes, key: bytes | None, headers: Mapping[str, bytes] | None) -> tuple[BatchRecord, int]:
        if self._closed:
            raise ClientClosed(f"the producer of {self.topic} is closed")
        record = BatchRecord(value, key, dict(headers) if headers else {}, time.time_ns() // 1_000_000)
        return record, check_record(record)

    def _accept(self, record: BatchRecord, size: int, partition: int | None) -> Promise:
        """Its room is taken already."""
        loop = asyncio.get_running_loop()
        promise: Promise = loop.create_future()
        taken = _Taken(record, size, partition, promise, loop.time() + self.settings.send_timeout_s)
        self._unanswered += 1
        self._idle.clear()
        if self._closed:
            self._fail(taken, ClientClosed(f"the producer of {self.topic} was closed"))
        elif self._senders:
            self._assign(taken)
        else:
            if not self._staged:
                self._spawn(self._begin())
            self._staged.append(taken)
        return promise

    def _assign(self, taken: _Taken) -> None:
        if taken.partition is not None:
            chosen = taken.partition
            if not 0 <= chosen < len(self._senders):
                has = f"{self.topic} has partitions 0 to {len(self._senders) - 1}"
                self._fail(taken, PartitionNotFound(f"{has}, not {chosen}", partition=chosen))
                return
        elif taken.record.key is not None:
            chosen = partition_of_key(taken.record.key, len(self._senders))
        else:
            assert self._sticky is not None
            chosen = self._sticky.current
        self._senders[chosen].add(taken.record, taken.size, taken.promise, taken.deadline_s)

    def _sealed(self, partition: int) -> None:
        if self._sticky is not None and self._sticky.current == partition:
            self._sticky.advance(lambda p: self._senders[p].is_stalled)

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
                while self._staged and self._staged[0].deadline_s <= loop.time():
                    self._fail(
                        self._staged.popleft(), SendTimedOut(f"not sent before the send timeout: {e}", last=e.reason)
                    )
            await asyncio.sleep(LOOKUP_PAUSE_S)

    def _open(self, routes: TopicRoutes) -> None:
        around = Surroundings(
            topic=self.topic,
            linger_s=self.settings.linger_ms / 1000,
            rng=self._rng,
            stream_to=self._stream_to,
            spawn=self._spawn,
            stored=self._stored,
            given_up=self._given_up,
            sealed=self._sealed,
        )
        for route in routes.partitions:
            batches = PartitionBatches(
                self._identity, self.settings.batch_bytes_max, self.settings.inflight_batches_max
            )
            self._senders.append(PartitionSender(route.partition, batches, around))
        self._sticky = StickyPartitioner(len(self._senders), self._rng)
        self._end_watch = self._router.watch(self.topic, self._moved)
        self._spawn(self._sweep())
        while self._staged:
            self._assign(self._staged.popleft())

    def _identity(self) -> int:
        return new_producer_id(self._rng) if self.settings.idempotent else 0

    def _moved(self, routes: TopicRoutes) -> None:
        for sender, route in zip(self._senders, routes.partitions, strict=False):
            sender.moved(route.endpoint)

    async def _stream_to(self, partition: int, anew: bool) -> ProduceStream | None:
        routes = await (self._router.refresh(self.topic) if anew else self._router.routes(self.topic))
        if partition >= len(routes.partitions):
            raise PartitionNotFound(f"{self.topic} has {len(routes.partitions)} partitions now", partition=partition)
        endpoint = routes.partitions[partition].endpoint
        return self._streams.get(endpoint) if endpoint else None

    async def _sweep(self) -> None:
        """Deadlines and silence of every partition, on one timer."""
        loop = asyncio.get_running_loop()
        looked_up_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now_s = loop.time()
            oldest_s = min(sender.batches.oldest_sent_s() for sender in self._senders)
            for sender in self._senders:
                sender.sweep(now_s)
            if now_s - oldest_s > STALL_S and now_s - looked_up_s > STALL_S:
                looked_up_s = now_s
                self._spawn(self._look_up())

    async def _look_up(self) -> None:
        try:
            await self._router.refresh(self.topic)
        except SteleError as e:
            self._log.debug("refresh_failed", topic=self.topic, reason=e.reason)

    # --- results --------------------------------------------------------------------------------------------------

    def _stored(self, partition: int, batch: ProducerBatch, base_offset: int) -> None:
        for i, promise in enumerate(cast("list[Promise]", batch.promises)):
            if not promise.done():
                promise.set_result(SendResult(partition, base_offset + i))
        self._release(len(batch.promises), batch.records_bytes)

    def _given_up(self, given_up: Iterable[GivenUp]) -> None:
        for g in given_up:
            self._log.debug("batch_failed", topic=self.topic, messages=len(g.batch.records), reason=g.error.reason)
            for promise in cast("list[Promise]", g.batch.promises):
                if not promise.done():
                    promise.set_exception(g.error)
            self._release(len(g.batch.promises), g.batch.records_bytes)

    def _fail(self, taken: _Taken, error: SteleError) -> None:
        if not taken.promise.done():
            taken.promise.set_exception(error)
        self._release(1, taken.size)

    def _fail_everything(self, error: SteleError) -> None:
        for sender in self._senders:
            sender.fail_all(error)
        while self._staged:
            self._fail(self._staged.popleft(), error)

    def _release(self, messages: int, size: int) -> None:
        self._unanswered -= messages
        self._limit.release(size + messages * _MESSAGE_MEMORY_BYTES)
        if not self._unanswered:
            self._idle.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"producer {self.topic}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
