"""Reading one partition's stored batches, for all its subscriptions.

Guarantee: what is read is committed; bytes in memory are bounded by the broker's cache and one read ahead per
partition. A replica that does not answer, is damaged, or lags behind what is known to be committed, is passed over for another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from stele.broker.cache import BatchCache, StoredBatch
from stele.broker.metrics import BrokerMetrics
from stele.broker.partition_client import PartitionClient
from stele.services.backoff import Backoff
from stele.services.batch import BatchHeader, read_header
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
    ) -> None:
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
        if wanted and batch is not None:
            self._cache.put(self._partition.group, StoredBatch(base_offset, last, batch))
        self.grow(last + 1)

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
            count = read_header(stored.batch, verify=False).record_count
            batch = StoredBatch(stored.base_offset, stored.base_offset + count - 1, stored.batch)
            self._cache.put(self._partition.group, batch)
            found.append(batch)
        return found
