"""What a broker says of appends that are refused: what lasts, or comes and goes with every append, is not said again and again."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from stele.broker import produce as produce_module
from stele.broker.metrics import BrokerMetrics
from stele.broker.pipeline import Pipeline, Result, StoredAt
from stele.broker.produce import PartitionProducer
from stele.services.backoff import Backoff
from stele.services.batch import BatchHeader
from stele.services.errors import NotLeader, Overloaded, SteleError
from stele.services.pb import datanode_pb2
from stele.services.rarely import SAID_EVERY_S


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Partition:
    """Answers each append with the next of ``errors``, None: stored."""

    clock: Clock
    errors: list[SteleError | None]
    group = 7
    leader = 1
    appended: int = 0

    async def find_leader(self) -> int:
        return self.leader

    def failed(self, store_id: int, error: SteleError) -> None:
        pass

    def append(self, batches: tuple[bytes, ...]) -> asyncio.Future[datanode_pb2.AppendResponse]:
        done: asyncio.Future[datanode_pb2.AppendResponse] = asyncio.get_running_loop().create_future()
        self.clock.now_s += 0.2
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            done.set_exception(error)
            return done
        results = [datanode_pb2.AppendResult(base_offset=self.appended) for _ in batches]
        self.appended += len(batches)
        done.set_result(datanode_pb2.AppendResponse(results=results))
        return done


@dataclass
class Offered:
    header: BatchHeader
    batch: bytes = b"a"
    result: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, result: Result) -> None:
        self.result.set_result(result)


async def _produce(errors: list[SteleError | None], appends: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is logged while ``appends`` are offered, one after the other."""
    monkeypatch.setattr(produce_module, "RECOVER_AGAIN", Backoff(first_s=0.0, max_s=0.0))
    clock = Clock()
    producer = PartitionProducer(
        Partition(clock, errors),  # type: ignore[arg-type]
        Pipeline(inflight_max=1),
        on_stored=lambda *_: None,
        on_deposed=lambda error: None,
        on_failed=lambda name, error: None,
        metrics=BrokerMetrics(),
        clock=clock,  # type: ignore[arg-type]
    )
    with capture_logs() as logged:
        for number in range(appends):
            offered = Offered(
                BatchHeader(length=1, record_count=1, producer_id=7, base_sequence=number, timestamp_ms=0)
            )
            producer.offer(offered)
            assert isinstance(await offered.result, StoredAt)
    await producer.stop()
    return logged


async def test_that_appends_are_refused_now_and_again_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    appends = 1000
    errors = [error for _ in range(appends) for error in (Overloaded("full"), None)]
    logged = await _produce(errors, appends, monkeypatch)
    lasted_s = 2 * appends * 0.2
    assert [line["event"] for line in logged] == ["append_recovering"] * int(lasted_s / SAID_EVERY_S + 1)
    assert sum(line["times"] for line in logged) <= appends


async def test_that_appends_are_refused_for_another_reason_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [Overloaded("full"), NotLeader("follows"), None, Overloaded("full"), NotLeader("follows"), None]
    logged = await _produce(errors, 3, monkeypatch)
    assert Counter(line["reason"] for line in logged) == {"OVERLOADED": 1, "NOT_LEADER": 1}
