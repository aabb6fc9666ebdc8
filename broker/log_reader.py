"""Reading one partition's stored batches, for all its subscriptions.

Guarantee: what is read is committed; bytes in memory are bounded by the broker's cache and one read ahead per
partition. A replica that does not answer, is damaged, or lags behind what is known to be committed, is passed over for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog

from stele.broker.cache import BatchCache, StoredBatch
from stele.broker.message_times import MessageTimes
from stele.broker.metrics import BrokerMetrics
from stele.broker.partition_client import PartitionClient
from stele.services.backoff import Backoff
from stele.services.batch import BatchHeader, read_header
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import InvalidArgument, MessagesLost, OffsetOutOfRange, SteleError
from stele.services.pb import datanode_pb2

READ_BYTES = 1 << 20  # of one read ahead
READ_AGAIN = Backoff(first_s=0.1, max_s=0.5)
ATTEMPTS_SILENT = 10  # after which a read that still fails is told of, once

_log = structlog.get_logger()


class LogReader:
    """``end`` and ``log_start`` only grow; ``on_grown`` is called after each change."""

    def __init__(
        self,
        partition: PartitionClient,
        cache: BatchCache,
        metrics: BrokerMetrics,
        on_grown: Callable[[], None],
        rng: random.Random | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock, self._times = clock, MessageTimes()
        self._partition, self._cache, self._metrics = partition, cache, metrics
        self._on_grown = on_grown
        self._rng = rng or random.Random()
        self._reading = asyncio.Lock()  # one read ahead at a time: who comes next finds it in the cache
        self.end = 0  # offset after the last committed message that is known
        self.log_start = 0

    def grow(self, end: int, log_start: int = 0) -> None:
        if end > self.end or log_start > self.log_start:
            self.end, self.log_start = max(self.end, end), max(self.log_start, log_start)
            self._on_grown()

    def stored(self, base_offset: int, header: BatchHeader, batch: bytes | None, wanted: bool) -> None:
        """This broker appended a batch; if it is ``wanted`` and at hand, nobody need read it."""
        last = base_offset + header.record_count - 1
        self._times.note(base_offset, last, header.timestamp_ms)
        if wanted and batch is not None:
            self._cache.put(self._partition.group, StoredBatch(base_offset, last, batch))
        self.grow(last + 1)

    def age_s(self, offset: int) -> float | None:
        """By the time that its producer gave it; for people.  0: there is no such message; None: it did not pass here."""
        if offset >= self.end:
            return 0.0
        time_ms = self._times.time_ms(offset)
        return max(0.0, (self._clock.wall_ms() - time_ms) / 1000) if time_ms is not None else None

    async def learn_age(self, offset: int) -> float | None:
        """The same, read from a replica where need be; None: none could."""
        if (known := self.age_s(offset)) is not None:
            return known
        with contextlib.suppress(SteleError):
            for stored in (await self._partition.fetch(offset, 1, is_committed=True)).batches:
                self._note(stored)
        return self.age_s(offset)

    async def poll_end(self) -> None:
        """Asks a replica where the log ends now.  Raises SteleError."""
        try:
            response = await self._partition.fetch(self.end, 1)
        except OffsetOutOfRange as e:
            self._trimmed(e)
            return
        self._cache_batches(response)
        self.grow(response.high_watermark, response.log_start_offset)

    def cached(self, offset: int) -> StoredBatch | None:
        batch = self._cache.get(self._partition.group, offset)
        if batch is not None:
            self._metrics.cached.inc()
        return batch

    async def load(self, offset: int) -> StoredBatch | None:
        """The batch that contains ``offset``, with what follows read ahead; None once it is no longer kept.  Tries until then.  Raises
        MessagesLost where no replica can read it."""
        attempts = 0
        while True:
            async with self._reading:
                if (batch := self._cache.get(self._partition.group, offset)) is not None:
                    return batch
                try:
                    response = await self._partition.fetch(offset, READ_BYTES, is_committed=True)
                    self._metrics.fetched.inc()
                    found = self._cache_batches(response)
                    self.grow(response.high_watermark, response.log_start_offset)
                    batch = next((b for b in found if b.base_offset <= offset <= b.last_offset), None)
                    if batch is not None or offset < self.log_start:
                        return batch
                except OffsetOutOfRange as e:
                    self._trimmed(e)
                    if offset < self.log_start:
                        return None
                except MessagesLost as e:
                    _log.error("messages_lost", group=self._partition.group, **e.facts)
                    self._metrics.lost.inc()
                    raise
                except InvalidArgument as e:
                    _log.error("read_refused", group=self._partition.group, offset=offset, error=e.message)
                except SteleError as e:
                    say = _log.warning if attempts == ATTEMPTS_SILENT else _log.debug
                    say("read_failed", group=self._partition.group, offset=offset, reason=e.reason, error=e.message)
            attempts += 1
            await asyncio.sleep(READ_AGAIN.after(attempts, self._rng))

    def _trimmed(self, error: OffsetOutOfRange) -> None:
        """A replica says where the log begins now; it does not end before that."""
        earliest = error.facts.get("earliest", "")
        if earliest.isdigit():
            self.grow(int(earliest), int(earliest))

    def _cache_batches(self, response: datanode_pb2.FetchResponse) -> list[StoredBatch]:
        found = []
        for stored in response.batches:
            batch = StoredBatch(stored.base_offset, self._note(stored), stored.batch)
            self._cache.put(self._partition.group, batch)
            found.append(batch)
        return found

    def _note(self, stored: datanode_pb2.StoredBatch) -> int:
        """The offset of its last message."""
        header = read_header(stored.batch, verify=False)
        last = stored.base_offset + header.record_count - 1
        self._times.note(stored.base_offset, last, header.timestamp_ms)
        return last
