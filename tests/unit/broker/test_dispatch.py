"""What a broker says of its subscriptions: what lasts, or comes and goes with every message, is not said again and again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from stele.broker import dispatch as dispatch_module
from stele.broker import subscription as core
from stele.broker.cache import BatchCache
from stele.broker.dispatch import Dispatch, _LiveSubscription
from stele.broker.metrics import BrokerMetrics
from stele.broker.subscription import Subscription, SubscriptionType
from stele.broker.subscription_effects import PersistAcks
from stele.services.errors import DiskFull, Overloaded, SteleError
from stele.services.pb import datanode_pb2

CONSUMER = 1


class Partition:
    group = 7
    route = SimpleNamespace(topic="ns/t", partition=0, topic_id=1)

    def __init__(self) -> None:
        self.answers: list[SteleError | datanode_pb2.CursorResponse] = []

    async def call(self, method: str, request: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, SteleError):
            raise answer
        return answer


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def partition() -> Partition:
    return Partition()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatch(partition: Partition, clock: Clock) -> Dispatch:
    return Dispatch(
        partition,  # type: ignore[arg-type]
        BatchCache(),
        ack_flush_interval_s=0.01,
        on_deposed=lambda error: None,
        on_failed=lambda name, error: None,
        metrics=BrokerMetrics(),
        clock=clock,  # type: ignore[arg-type]
    )


def _live(dispatch: Dispatch, **given: Any) -> _LiveSubscription:
    live = dispatch._live["s"] = _LiveSubscription(Subscription("s", 0, **given))
    return live


async def test_that_acknowledgements_wait_for_room_is_said_once_a_minute(
    dispatch: Dispatch, partition: Partition, clock: Clock
) -> None:
    live = _live(dispatch, end=10)
    with capture_logs() as logged:
        for _ in range(125):
            partition.answers.append(Overloaded("no room"))
            await dispatch._persist(live, PersistAcks(((0, 0),), 0, ()))
            clock.now_s += 1.0
    assert [line["event"] for line in logged] == ["acks_wait_for_room"] * 3


async def test_acknowledgements_that_meet_a_full_group_are_written_soon_again(
    dispatch: Dispatch, partition: Partition
) -> None:
    """It is full of what is about to be applied; a cursor that is full of holes for long is asked ever more rarely."""
    live, waits = _live(dispatch, end=10), []
    for answer in [*[Overloaded("no room")] * 20, datanode_pb2.CursorResponse(), Overloaded("no room")]:
        partition.answers.append(answer)
        await dispatch._persist(live, PersistAcks(((0, 0),), 0, ()))
        if live.flush is not None:
            waits.append(live.flush.when() - asyncio.get_running_loop().time())
            live.flush.cancel()
            live.flush = None
    assert waits[0] < 0.1
    assert 0.4 < waits[19] <= 1.0
    assert waits[20] < 0.1


async def test_that_acknowledgements_wait_for_space_is_said_once_a_minute(
    dispatch: Dispatch, partition: Partition, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "DISK_FULL_RETRY_S", 0.0)
    live = _live(dispatch, end=10)
    partition.answers = [*[DiskFull("full")] * 20, datanode_pb2.CursorResponse()]
    with capture_logs() as logged:
        await dispatch._persist(live, PersistAcks(((0, 0),), 0, ()))
    assert [line["event"] for line in logged] == ["acks_wait_for_space"]


async def test_a_subscription_at_the_edge_of_crowded_says_so_once(
    dispatch: Dispatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "RANGES_MAX", 20)
    live = _live(dispatch, end=0)
    live.core.add_consumer(CONSUMER, "c", SubscriptionType.SHARED, 1000, 0, 0.0)
    with capture_logs() as logged:
        for turn in range(50):  # every other message is handed back: a range of its own each
            dispatch._carry_out(live, live.core.available(2 * turn + 2, 0.0))
            dispatch._carry_out(live, live.core.ack(CONSUMER, turn, [(2 * turn, 2 * turn)], False, 0, 0.0))
            if live.core.is_crowded:
                oldest = next(iter(live.core.pending))[0]
                dispatch._carry_out(live, live.core.ack(CONSUMER, turn, [(oldest, oldest)], False, 0, 0.0))
        assert [line["event"] for line in logged] == ["subscription_crowded"]
        dispatch._carry_out(live, live.core.ack(CONSUMER, 99, [(0, live.core.end - 1)], False, 0, 0.0))
    assert [line["event"] for line in logged] == ["subscription_crowded", "subscription_flows"]
    dispatch.close(SteleError("over"))
