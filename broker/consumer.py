"""One consumer's stream: what it is still to be sent.

Guarantee: ``Opened`` first and ``Closed`` last; a message is sent only while it is still out with this consumer. What
waits here is offsets, not bytes: a batch is loaded when the consumer's stream can take it, so a slow consumer holds
one batch in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from stele.broker.cache import StoredBatch
from stele.broker.cursor_writes import Range
from stele.broker.delivery_times import DeliveryTimes
from stele.broker.metrics import BrokerMetrics
from stele.broker.subscription_effects import Deliver
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import SteleError
from stele.services.pb import broker_pb2, datanode_pb2
from stele.services.rpc.status import to_wire

UNCONFIRMED_MAX = 10_000  # acknowledgement requests of one consumer; beyond it its stream is not read


class Source(Protocol):
    """Where a consumer's batches come from."""

    def cached(self, offset: int) -> StoredBatch | None: ...

    async def load(self, offset: int) -> StoredBatch | None:
        """The batch that contains ``offset``; None if it is no longer kept.  Raises MessagesLost."""
        ...


class ConsumerStream:
    """The sending side of a Subscribe stream."""

    def __init__(
        self,
        id: int,
        source: Source,
        held: Callable[[int, int, int], list[Range]],
        return_credit: Callable[[int], None],
        metrics: BrokerMetrics,
        clock: Clock = SYSTEM,
    ) -> None:
        self.id = id
        self._clock, self._times = clock, DeliveryTimes()
        self._source, self._held, self._metrics = source, held, metrics
        self._return_credit = return_credit  # credit for messages that were handed out and are not sent
        self._notices: deque[broker_pb2.SubscribeResponse] = deque()
        self._deliveries: deque[Deliver] = deque()
        self._unconfirmed = 0
        self._wake = asyncio.Event()
        self._unconfirmed_falls = asyncio.Event()
        self._closed: SteleError | None = None
        self._finishing = False

    # --- what is to be sent ---------------------------------------------------------------------------------------

    def opened(self, opened: broker_pb2.Opened) -> None:
        self._notify(broker_pb2.SubscribeResponse(opened=opened))

    def deliver(self, delivery: Deliver) -> None:
        self._deliveries.append(delivery)
        self._wake.set()

    def finish_ack(self, request_id: int, error: SteleError | None = None) -> None:
        done = broker_pb2.AckDone(request_id=request_id, error=to_wire(error) if error is not None else None)
        self._unconfirmed -= 1
        self._unconfirmed_falls.set()
        self._notify(broker_pb2.SubscribeResponse(ack_done=done))

    def acknowledged(self, ranges: list[Range], cumulative: bool) -> None:
        """Counted, whatever comes of it."""
        for took_s in self._times.acknowledged(ranges, cumulative, self._clock.monotonic()):
            self._metrics.delivery_seconds.observe(took_s)

    def returned(self, ranges: list[Range]) -> None:
        self._times.returned(ranges)

    def set_active(self, active: bool) -> None:
        self._notify(broker_pb2.SubscribeResponse(activity=broker_pb2.Activity(active=active)))

    def close(self, error: SteleError) -> None:
        self._closed = self._closed or error
        self._deliveries.clear()
        self._unconfirmed_falls.set()
        self._wake.set()

    def finish(self) -> None:
        """The consumer says nothing more: the stream ends once its acknowledgements are confirmed."""
        self._finishing = True
        self._wake.set()

    async def begin_ack(self) -> None:
        """Counts an acknowledgement request; waits while too many are unconfirmed."""
        while self._unconfirmed >= UNCONFIRMED_MAX and self._closed is None:
            self._unconfirmed_falls.clear()
            await self._unconfirmed_falls.wait()
        self._unconfirmed += 1

    def _notify(self, response: broker_pb2.SubscribeResponse) -> None:
        self._notices.append(response)
        self._wake.set()

    # --- sending --------------------------------------------------------------------------------------------------

    async def responses(self) -> AsyncGenerator[broker_pb2.SubscribeResponse, None]:
        """Ends after ``Closed``."""
        loading: asyncio.Task[StoredBatch | None] | None = None
        try:
            while True:
                while self._notices:
                    yield self._notices.popleft()
                if self._closed is not None:
                    yield broker_pb2.SubscribeResponse(closed=broker_pb2.Closed(error=to_wire(self._closed)))
                    return
                if self._finishing and self._unconfirmed <= 0:
                    return
                batch: StoredBatch | None = None
                if loading is not None and loading.done():
                    loaded, loading = loading, None
                    try:
                        batch = loaded.result()
                    except SteleError as e:  # the consumer decides whether to go on without them
                        self.close(e)
                        continue
                if loading is None and not self._finishing and self._drop_stale():
                    offset = self._deliveries[0].first
                    if batch is None or not batch.base_offset <= offset <= batch.last_offset:
                        batch = self._source.cached(offset)
                    if batch is not None:
                        yield self._delivery(batch)
                        continue
                    # Loaded aside: what can be said without it (confirmations, a close) is not held up.
                    loading = asyncio.get_running_loop().create_task(self._source.load(offset))
                    loading.add_done_callback(lambda _: self._wake.set())
                self._wake.clear()
                if not self._notices and self._closed is None and not (loading is not None and loading.done()):
                    await self._wake.wait()
        finally:
            if loading is not None:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    def _drop_stale(self) -> bool:
        """Drops what is no longer out with this consumer; whether anything is left to send."""
        while self._deliveries:
            head = self._deliveries[0]
            held = self._held(self.id, head.first, head.last)
            if held and held[0][0] == head.first:
                return True
            self._deliveries.popleft()
            self._deliveries.extendleft(Deliver(self.id, a, b, head.redelivery_count) for a, b in reversed(held))
            self._return_credit_of_unsent(head.first, head.last, held)
        return False

    def _return_credit_of_unsent(self, first: int, last: int, held: list[Range]) -> None:
        """The consumer cannot return credit for what it never sees: without this its window would shrink for good."""
        messages = last - first + 1 - sum(b - a + 1 for a, b in held)
        if messages:
            self._return_credit(messages)

    def _delivery(self, batch: StoredBatch) -> broker_pb2.SubscribeResponse:
        """All that is next in line and lies in ``batch``."""
        count = self._deliveries[0].redelivery_count
        delivery = broker_pb2.Delivery(base_offset=batch.base_offset, batch=batch.data, redelivery_count=count)
        messages = 0
        while self._deliveries:
            head = self._deliveries[0]
            if head.redelivery_count != count or not batch.base_offset <= head.first <= batch.last_offset:
                break
            self._deliveries.popleft()
            last = min(head.last, batch.last_offset)
            if last < head.last:
                self._deliveries.appendleft(Deliver(self.id, last + 1, head.last, count))
            held = self._held(self.id, head.first, last)
            self._return_credit_of_unsent(head.first, last, held)
            for a, b in held:
                delivery.offsets.append(datanode_pb2.OffsetRange(first=a, last=b))
                messages += b - a + 1
        if delivery.offsets:
            self._times.sent(delivery.offsets[-1].last, self._clock.monotonic())
        self._metrics.delivered.inc(messages)
        if count:
            self._metrics.redelivered.inc(messages)
        return broker_pb2.SubscribeResponse(delivery=delivery)
