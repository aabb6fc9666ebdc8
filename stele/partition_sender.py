"""Carries the batches of one partition to its broker: the thin shell around stele/batching.py.

Guarantee: after every event the partition is either idle, waiting for answers with a bound, or waiting to look its route up again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from stele.batching import GivenUp, PartitionBatches, ProducerBatch
from stele.produce_stream import ProduceStream
from stele.retry import backoff_s
from stele.services.batch import BatchRecord
from stele.services.errors import NotOwner, SteleError, TopicNotFound, Unreachable
from stele.services.library_log import LibraryLog

ATTEMPT_TIMEOUT_S = 8.0  # an attempt unanswered for so long is written off together with its stream
NOT_FOUND_MAX = 3  # lookups in a row that know no such topic


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sender is given by its producer."""

    topic: str
    linger_s: float
    rng: random.Random
    stream_to: Callable[[int, bool], Coroutine[Any, Any, ProduceStream | None]]  # (partition, look up anew)
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    stored: Callable[[int, ProducerBatch, int], None]  # (partition, batch, base offset)
    given_up: Callable[[list[GivenUp]], None]
    sealed: Callable[[int], None]  # the open batch of this partition is complete


class PartitionSender:
    def __init__(self, partition: int, batches: PartitionBatches, around: Surroundings) -> None:
        self.partition = partition
        self.batches = batches
        self._around = around
        self._stream: ProduceStream | None = None
        self._routing = False
        self._failures = 0
        self._linger: asyncio.TimerHandle | asyncio.Handle | None = None
        self._log = LibraryLog("producer")

    @property
    def is_stalled(self) -> bool:
        """Its broker does not take messages at the moment."""
        return self._failures > 0

    def add(self, record: BatchRecord, size: int, promise: object, deadline_s: float) -> None:
        begun, sealed = self.batches.add(record, size, promise, deadline_s)
        if sealed:
            self._stop_lingering()
            self._around.sealed(self.partition)
            self.pump()
        if begun and self.batches.has_open:
            self._begin_lingering()

    def seal(self) -> None:
        """What was added so far goes out now."""
        self._stop_lingering()
        if self.batches.has_open:
            self.batches.seal()
            self._around.sealed(self.partition)
        self.pump()

    def pump(self) -> None:
        """Sends what may be sent."""
        if self._routing or not self.batches.has_work:
            return
        stream = self._stream
        if stream is None or stream.closed:
            self._find_route()
            return
        now_s = asyncio.get_running_loop().time()
        while (batch := self.batches.next_to_send(now_s)) is not None:
            stream.submit(self._around.topic, self.partition, batch.encoded, self._answer_to(batch, batch.attempt))

    def moved(self, endpoint: str) -> None:
        """The partition's broker is at ``endpoint`` now ("": nowhere)."""
        if self._stream is None or self._routing or not endpoint or endpoint == self._stream.endpoint:
            return
        self._stream = None
        self.batches.rewind(NotOwner("the partition moved to another broker"))
        self.pump()

    def sweep(self, now_s: float) -> None:
        """Deadlines and silence."""
        if self.batches.oldest_sent_s() < now_s - ATTEMPT_TIMEOUT_S and self._stream is not None:
            self._log.warning(
                "broker_silent", topic=self._around.topic, partition=self.partition, broker=self._stream.endpoint
            )
            silent, self._stream = self._stream, None
            self.batches.rewind(Unreachable(f"{silent.endpoint} did not answer within {ATTEMPT_TIMEOUT_S:g} s"))
            self._around.spawn(silent.close())
        given_up = self.batches.expire(now_s)
        if not self.batches.has_open:
            self._stop_lingering()
        if given_up:
            self._around.given_up(given_up)
        self.pump()

    def fail_all(self, error: SteleError) -> None:
        self._stop_lingering()
        self._around.given_up(self.batches.fail_all(error))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _answer_to(self, batch: ProducerBatch, attempt: int) -> Callable[[int, SteleError | None], None]:
        def answered(base_offset: int, error: SteleError | None) -> None:
            if error is None:
                self._failures = 0
                if self.batches.stored(attempt) is batch or self.batches.stored_late(batch):
                    self._around.stored(self.partition, batch, base_offset)
                self.pump()
                return
            again, given_up = self.batches.refused(attempt, error)
            if given_up:
                self._around.given_up(given_up)
            if again:
                self._failures += 1
                self._find_route()

        return answered

    def _find_route(self) -> None:
        if not self._routing and self.batches.has_work:
            self._routing = True
            self._around.spawn(self._route())

    async def _route(self) -> None:
        """Looks the partition up until it has a broker, then sends."""
        not_found = 0
        try:
            while self.batches.has_work:
                await asyncio.sleep(backoff_s(self._failures, self._around.rng))
                try:
                    stream = await self._around.stream_to(self.partition, self._failures > 0)
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
            self.pump()

    def _begin_lingering(self) -> None:
        loop = asyncio.get_running_loop()
        linger_s = self._around.linger_s
        self._linger = loop.call_later(linger_s, self.seal) if linger_s > 0 else loop.call_soon(self.seal)

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
