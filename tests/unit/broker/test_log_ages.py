"""How old messages are is known of what passed here, and read where it did not."""

from __future__ import annotations

from typing import Any

import pytest

from stele.broker.cache import BatchCache
from stele.broker.log_reader import LogReader
from stele.broker.metrics import BrokerMetrics
from stele.broker.subscription_metrics import SERIES_MAX, SubscriptionMetrics
from stele.services.batch import BatchRecord, encode, read_header
from stele.services.errors import Unreachable
from stele.services.pb import datanode_pb2
from tests.support.metrics import samples


class Clock:
    ms = 100_000

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return self.ms


class Partition:
    """Holds one batch of ten messages for every ten offsets, each a second after the one before."""

    group = 7
    answers = True

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def fetch(self, offset: int, bytes_max: int, *, is_committed: bool = False) -> datanode_pb2.FetchResponse:
        self.asked.append(offset)
        if not self.answers:
            raise Unreachable("nobody")
        base = offset - offset % 10
        stored = datanode_pb2.StoredBatch(base_offset=base, batch=batch(base // 10 * 1000))
        return datanode_pb2.FetchResponse(batches=[stored], high_watermark=100)


def batch(time_ms: int) -> bytes:
    return encode([BatchRecord(b"x", timestamp_ms=time_ms) for _ in range(10)], producer_id=1, base_sequence=0)


@pytest.fixture
def partition() -> Partition:
    return Partition()


@pytest.fixture
def reader(partition: Partition) -> LogReader:
    return LogReader(partition, BatchCache(), BrokerMetrics(), lambda: None, clock=Clock())  # type: ignore[arg-type]


async def test_what_this_broker_stored_has_a_known_age(reader: LogReader) -> None:
    stored = batch(97_000)
    reader.stored(0, read_header(stored), stored, wanted=False)
    assert [reader.age_s(o) for o in (0, 9, 10)] == [3.0, 3.0, 0.0], "behind the end there is nothing to be late with"


async def test_what_came_before_is_read_once(reader: LogReader, partition: Partition) -> None:
    reader.grow(100)
    assert reader.age_s(23) is None
    assert await reader.learn_age(23) == 98.0
    assert (reader.age_s(25), await reader.learn_age(28)) == (98.0, 98.0)
    assert partition.asked == [23]


async def test_what_nobody_can_read_stays_unknown(reader: LogReader, partition: Partition) -> None:
    reader.grow(100)
    partition.answers = False
    assert await reader.learn_age(23) is None


async def test_a_clock_that_runs_ahead_makes_no_age_below_nothing(reader: LogReader) -> None:
    stored = batch(200_000)
    reader.stored(0, read_header(stored), stored, wanted=False)
    assert reader.age_s(0) == 0.0


class Partitions:
    def __init__(self, *rows: tuple[str, str, int, float | None]) -> None:
        self.rows = rows

    def backlogs(self) -> Any:
        return self.rows


def test_partitions_are_summed_and_the_latest_counts() -> None:
    found = samples(
        SubscriptionMetrics,
        Partitions(("demo/t", "s", 3, 1.5), ("demo/t", "s", 4, 9.0), ("demo/t", "u", 5, None), ("demo/t", "u", 0, 0.0)),
    )
    s, u = (("subscription", "s"), ("topic", "demo/t")), (("subscription", "u"), ("topic", "demo/t"))
    assert found["stele_subscription_backlog_messages"] == {s: 7, u: 5}
    assert found["stele_subscription_lag_seconds"] == {s: 9.0}, "what is not known is absent, and not 0"
    assert found["stele_subscriptions_unlisted"] == {(): 0}


def test_the_list_is_bounded_and_says_so() -> None:
    rows = [("demo/t", f"s{i}", i, 0.0) for i in range(SERIES_MAX + 5)]
    found = samples(SubscriptionMetrics, Partitions(*rows))
    assert len(found["stele_subscription_backlog_messages"]) == SERIES_MAX
    assert min(found["stele_subscription_backlog_messages"].values()) == 5, "the largest backlogs stay"
    assert found["stele_subscriptions_unlisted"] == {(): 5}
