"""Carries the messages of one partition to its broker: the shell around stele/batching.py.

Guarantee: every message that is added gets its result, or an error that says whether it may be stored, not much later than its deadline.
After every event the partition is either idle, waiting for answers with a bound, or waiting to look its route up again.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stele.batching import GivenUp, PartitionBatches, ProducerBatch
from stele.buffer_limit import BufferLimit
from stele.model import SendResult
from stele.produce_streams import ProduceStream, ProduceStreams
from stele.retry import backoff_s
from stele.routing import Router
from stele.services.batch import BatchRecord
from stele.services.errors import InternalError, NotOwner, SteleError, TopicNotFound, TopicReplaced, Unreachable
from stele.services.library_log import LibraryLog
from stele.services.pb import broker_pb2
from stele.services.rpc.status import from_pb
from stele.services.tasks import Tasks

ATTEMPT_TIMEOUT_S = 8.0  # an attempt unanswered for so long is written off together with its stream
NOT_FOUND_MAX = 3  # lookups in a row that know no such topic

Promise = asyncio.Future[SendResult]


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingMessage:
    """A message whose memory is acquired."""

    record: BatchRecord
    size: int
    partition: int | None  # the one that was asked for
    promise: Promise
    deadline_s: float  # on the loop's clock


class PartitionSender:
    """The way of one partition's messages, a partition of the topic with the id ``topic_id`` and of no other of that name.

    ``add`` takes a message whose memory was acquired from ``limit``; it is released there when the message has its result.  A batch
    leaves when it is full or ``linger_s`` old.  Where to, ``router`` says; what carries it there are the client's ``streams``.  The
    results are the promises' own: SendResult; SendTimedOut or Timeout past the deadline; a definite, terminal refusal of the broker or of
    the nameserver (TopicNotFound, …); what ``fail_all`` is given.
    """

    def __init__(
        self,
        topic: str,
        topic_id: int,
        partition: int,
        batches: PartitionBatches[OutgoingMessage],
        router: Router,
        streams: ProduceStreams,
        limit: BufferLimit,
        *,
        linger_s: float,
        rng: random.Random,
        on_broken: Callable[[str, BaseException], None],
    ) -> None:
        self.topic, self.topic_id, self.partition = topic, topic_id, partition
        self._batches = batches
        self._router, self._streams, self._limit = router, streams, limit
        self._linger_s, self._rng = linger_s, rng
        self._stream: ProduceStream | None = None
        self._routing = False
        self._retired = False
        self._unanswered = 0  # attempts
        self._answer = asyncio.Event()  # set at each answer
        self._failures = 0  # in a row, of attempts and of lookups
        self._linger: asyncio.TimerHandle | asyncio.Handle | None = None
        self._on_broken = on_broken
        self._tasks = Tasks(on_broken)
        self._log = LibraryLog("producer")

    @property
    def is_stalled(self) -> bool:
        """Its broker does not take messages at the moment."""
        return self._failures > 0

    @property
    def sealed_batches(self) -> int:
        """How many batches were complete so far."""
        return self._batches.sealed_batches

    def oldest_sent_s(self) -> float:
        """When the oldest unanswered attempt was sent, on the loop's clock; infinity: none is unanswered."""
        return self._batches.oldest_sent_s()

    def add(self, outgoing: OutgoingMessage) -> None:
        """Takes one message."""
        begun, sealed = self._batches.add(outgoing.record, outgoing.size, outgoing, outgoing.deadline_s)
        if sealed:
            self._stop_lingering()
            self._send()
        if begun and self._batches.has_open:
            self._begin_lingering()

    def flush(self) -> None:
        """What was added so far goes out now."""
        self._stop_lingering()
        self._batches.seal()
        self._send()

    def moved(self, endpoint: str) -> None:
        """The partition's broker is at ``endpoint`` now ("": nowhere)."""
        if self._stream is None or self._routing or not endpoint or endpoint == self._stream.endpoint:
            return
        self._stream = None
        self._batches.rewind(NotOwner("the partition moved to another broker"))
        self._send()

    def sweep(self, now_s: float) -> None:
        """Deadlines and silence; to be called a few times a second."""
        if self._batches.oldest_sent_s() < now_s - ATTEMPT_TIMEOUT_S and self._stream is not None:
            self._log.warning("broker_silent", topic=self.topic, partition=self.partition, broker=self._stream.endpoint)
            silent, self._stream = self._stream, None
            # Written off BEFORE its stream is closed: what the closing then fails is nobody's attempt any more.
            self._batches.rewind(Unreachable(f"{silent.endpoint} did not answer within {ATTEMPT_TIMEOUT_S:g} s"))
            self._tasks.start(silent.close())
        self.expire(now_s)
        if not self._batches.has_open:
            self._stop_lingering()
        self._send()

    def expire(self, now_s: float) -> None:
        """What is past its deadline fails, also of a sender that is being retired."""
        self._fail(self._batches.expire(now_s))

    def fail_all(self, error: SteleError) -> None:
        """Every message that has no result yet fails with what ``error`` is for it."""
        self._stop_lingering()
        self._fail(self._batches.fail_all(error))

    def unanswered(self) -> Iterator[OutgoingMessage]:
        """What was added and has no result, in order."""
        return self._batches.unanswered()

    async def retire(self, error: SteleError) -> list[OutgoingMessage]:
        """Sends nothing more.  What cannot have been stored, in order, once all that was sent is answered, or a bounded time has
        passed; what may have been fails with what ``error`` is for it."""
        self._retired = True
        self._stop_lingering()
        with suppress(TimeoutError):
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                while self._unanswered:
                    self._answer.clear()
                    await self._answer.wait()
        unsent, given_up = self._batches.retire(error)
        self._fail(given_up)
        return unsent

    async def close(self) -> None:
        """Ends what runs for it; what has no result is for ``fail_all``."""
        await self._tasks.cancel()

    def abandon(self, error: SteleError) -> None:
        """After a fault of this program: whatever has no result fails with ``error``."""
        self._retired = True
        self._stop_lingering()
        self._fail([GivenUp(g.batch, error) for g in self._batches.abandon()])
        self._tasks.cancel_soon()

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """What the event loop calls: a fault in it has nobody else to be told to."""
        try:
            step(*arguments)
        except Exception as e:
            self._on_broken(f"{self.topic}-{self.partition}", e)

    # --- sending --------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Sends what may be sent."""
        if self._routing or self._retired or not self._batches.has_work:
            return
        stream = self._stream
        if stream is None or stream.closed:
            self._find_route()
            return
        now_s = asyncio.get_running_loop().time()
        while (batch := self._batches.next_to_send(now_s)) is not None:
            request = broker_pb2.ProduceRequest(
                topic=self.topic, topic_id=self.topic_id, partition=self.partition, batch=batch.encoded
            )
            self._unanswered += 1
            done = functools.partial(self._answered_guarded, batch, batch.attempt)
            stream.send(request).add_done_callback(done)

    def _answered_guarded(
        self, batch: ProducerBatch[OutgoingMessage], attempt: int, answer: asyncio.Future[broker_pb2.ProduceResponse]
    ) -> None:
        try:
            self._answered(batch, attempt, answer)
        except Exception as e:
            what = f"{self.topic}-{self.partition}"
            self._on_broken(what, e)
            self._fail([GivenUp(batch, InternalError(f"the answer for {what} was not understood: {e!r}"))])

    def _answered(
        self, batch: ProducerBatch[OutgoingMessage], attempt: int, answer: asyncio.Future[broker_pb2.ProduceResponse]
    ) -> None:
        self._unanswered -= 1
        self._answer.set()
        failure = answer.exception()
        if failure is not None and not isinstance(failure, SteleError):
            raise failure
        error = failure if failure is not None else from_pb(answer.result().error)
        if error is None:
            self._failures = 0
            if self._batches.stored(attempt) is batch or self._batches.stored_late(batch):
                self._succeed(batch, answer.result().base_offset)
            self._send()
            return
        self._batches.refused_late(batch, attempt, error)
        again, given_up = self._batches.refused(attempt, error)
        self._fail(given_up)
        if again:
            self._failures += 1
            self._find_route()

    def _find_route(self) -> None:
        if not self._routing and not self._retired and self._batches.has_work:
            self._routing = True
            self._tasks.start(self._route(), f"route {self.topic}-{self.partition}")

    async def _route(self) -> None:
        """Looks the partition up until it has a broker, then sends."""
        not_found = 0
        try:
            while self._batches.has_work and not self._retired:
                await asyncio.sleep(backoff_s(self._failures, self._rng))
                try:
                    stream = await self._look_up(anew=self._failures > 0)
                except SteleError as e:
                    not_found = not_found + 1 if isinstance(e, TopicNotFound) else 0
                    if e.definite and not e.retryable and not 0 < not_found < NOT_FOUND_MAX:
                        self.fail_all(e)
                        return
                    stream = None
                if stream is not None and not stream.closed:
                    self._stream = stream
                    return
                self._failures += 1
        finally:
            self._routing = False
            self._send()

    async def _look_up(self, anew: bool) -> ProduceStream | None:
        routes = await (self._router.refresh(self.topic) if anew else self._router.routes(self.topic))
        if routes.topic_id != self.topic_id:
            # Whoever holds this sender is told by the router, too, and puts another one in its place.
            raise TopicReplaced(f"{self.topic} was made anew", expected=self.topic_id, got=routes.topic_id)
        endpoint = routes.of(self.partition).endpoint
        return self._streams.get(endpoint) if endpoint else None

    # --- results --------------------------------------------------------------------------------------------------

    def _succeed(self, batch: ProducerBatch[OutgoingMessage], base_offset: int) -> None:
        for i, outgoing in enumerate(batch.promises):
            if not outgoing.promise.done():
                outgoing.promise.set_result(SendResult(self.partition, base_offset + i))
        self._settle(batch)

    def _fail(self, given_up: list[GivenUp[OutgoingMessage]]) -> None:
        for g in given_up:
            self._log.debug("batch_failed", topic=self.topic, messages=len(g.batch.records), reason=g.error.reason)
            for outgoing in g.batch.promises:
                if not outgoing.promise.done():
                    outgoing.promise.set_exception(g.error)
            self._settle(g.batch)

    def _settle(self, batch: ProducerBatch[OutgoingMessage]) -> None:
        if not batch.settled:
            batch.settled = True
            self._limit.release(batch.memory_bytes)

    # --- lingering ------------------------------------------------------------------------------------------------

    def _begin_lingering(self) -> None:
        loop = asyncio.get_running_loop()
        due = functools.partial(self._guarded, self.flush)
        self._linger = loop.call_later(self._linger_s, due) if self._linger_s > 0 else loop.call_soon(due)

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
