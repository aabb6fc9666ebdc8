"""The sending side of a consumer's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stele.broker import consumer as module
from stele.broker.cache import StoredBatch
from stele.broker.consumer import ConsumerStream
from stele.broker.cursor_writes import Range
from stele.broker.metrics import BrokerMetrics
from stele.broker.subscription_effects import Deliver
from stele.services.errors import NotOwner
from stele.services.pb import broker_pb2


class Log:
    """Batches of ten offsets; those below ``cached_below`` are in memory."""

    def __init__(self) -> None:
        self.cached_below = 1 << 30
        self.loaded: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.given_back: list[int] = []
        self.taken: set[int] = set()  # offsets that are no longer the consumer's

    def cached(self, offset: int) -> StoredBatch | None:
        return self.batch(offset) if offset < self.cached_below else None

    async def load(self, offset: int) -> StoredBatch | None:
        self.loaded.append(offset)
        await self.gate.wait()
        return self.batch(offset)

    def held(self, consumer: int, first: int, last: int) -> list[Range]:
        return [(o, o) for o in range(first, last + 1) if o not in self.taken]

    def batch(self, offset: int) -> StoredBatch:
        base = offset - offset % 10
        return StoredBatch(base, base + 9, b"bytes")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def stream(log: Log) -> ConsumerStream:
    return ConsumerStream(1, log, log.held, log.given_back.append, BrokerMetrics())


async def take(responses: AsyncIterator[broker_pb2.SubscribeResponse]) -> broker_pb2.SubscribeResponse:
    return await asyncio.wait_for(anext(responses), 2)


def offsets(response: broker_pb2.SubscribeResponse) -> list[int]:
    return [o for r in response.delivery.offsets for o in range(r.first, r.last + 1)]


async def test_credit_for_what_is_not_sent_is_given_back(log: Log, stream: ConsumerStream) -> None:
    """A consumer returns credit for what it received; what was dropped on the way would otherwise be lost to its window."""
    log.taken = {3, 4, 8}
    stream.deliver(Deliver(1, 3, 4, 0))
    stream.deliver(Deliver(1, 5, 9, 0))
    assert offsets(await take(stream.responses())) == [5, 6, 7, 9]
    assert sum(log.given_back) == 3


async def test_from_sending_to_the_acknowledgement_is_timed(log: Log) -> None:
    metrics = BrokerMetrics()
    stream = ConsumerStream(1, log, log.held, log.given_back.append, metrics)
    stream.deliver(Deliver(1, 0, 9, 0))
    responses = stream.responses()
    await take(responses)
    stream.acknowledged([(0, 8)], False)
    assert metrics.delivery_seconds._sum.get() == 0
    stream.acknowledged([(9, 9)], False)
    assert metrics.delivery_seconds._sum.get() > 0
    await responses.aclose()


async def test_one_delivery_per_batch_however_it_was_handed_out(log: Log, stream: ConsumerStream) -> None:
    stream.deliver(Deliver(1, 3, 5, 0))
    stream.deliver(Deliver(1, 6, 13, 0))
    stream.deliver(Deliver(1, 14, 14, 1))
    responses = stream.responses()
    assert offsets(await take(responses)) == [3, 4, 5, 6, 7, 8, 9]
    assert offsets(await take(responses)) == [10, 11, 12, 13]
    last = await take(responses)
    assert (offsets(last), last.delivery.redelivery_count, last.delivery.base_offset) == ([14], 1, 10)
    await responses.aclose()


async def test_what_is_no_longer_the_consumers_is_not_sent(log: Log, stream: ConsumerStream) -> None:
    stream.deliver(Deliver(1, 0, 9, 0))
    stream.deliver(Deliver(1, 20, 25, 0))
    log.taken = {0, 1, 4, *range(20, 26)}
    stream.set_active(True)
    responses = stream.responses()
    assert (await take(responses)).activity.active
    assert offsets(await take(responses)) == [2, 3, 5, 6, 7, 8, 9]
    stream.finish_ack(1)
    assert (await take(responses)).ack_done.request_id == 1
    await responses.aclose()


async def test_a_slow_read_does_not_hold_up_confirmations_or_a_close(log: Log, stream: ConsumerStream) -> None:
    log.cached_below = 0
    log.gate.clear()
    stream.deliver(Deliver(1, 0, 1, 0))
    responses = stream.responses()
    waiting = asyncio.ensure_future(take(responses))
    await asyncio.sleep(0)
    stream.finish_ack(7)
    assert (await waiting).ack_done.request_id == 7
    waiting = asyncio.ensure_future(take(responses))
    log.gate.set()
    assert offsets(await waiting) == [0, 1]
    log.gate.clear()
    stream.deliver(Deliver(1, 10, 11, 0))
    waiting = asyncio.ensure_future(take(responses))
    await asyncio.sleep(0.01)
    stream.close(NotOwner("moved"))
    assert (await waiting).closed.error.reason == "NOT_OWNER"
    with pytest.raises(StopAsyncIteration):
        await take(responses)


async def test_one_batch_in_memory_at_a_time(log: Log, stream: ConsumerStream) -> None:
    log.cached_below = 0
    stream.deliver(Deliver(1, 0, 99, 0))
    responses = stream.responses()
    await take(responses)
    await asyncio.sleep(0.01)
    assert log.loaded == [0], "the next one is loaded when this one has been taken"
    await responses.aclose()


async def test_too_many_unconfirmed_acks_hold_the_reader_back(
    stream: ConsumerStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNCONFIRMED_MAX", 2)
    await stream.begin_ack()
    await stream.begin_ack()
    third = asyncio.ensure_future(stream.begin_ack())
    await asyncio.sleep(0.01)
    assert not third.done()
    stream.finish_ack(1)
    await asyncio.wait_for(third, 2)


async def test_finishing_waits_for_confirmations_and_sends_no_more_messages(stream: ConsumerStream) -> None:
    await stream.begin_ack()
    stream.finish()
    stream.deliver(Deliver(1, 0, 5, 0))
    responses = stream.responses()
    waiting = asyncio.ensure_future(take(responses))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    stream.finish_ack(1)
    assert (await waiting).ack_done.request_id == 1
    with pytest.raises(StopAsyncIteration):
        await take(responses)
