"""Turns: a thousand groups on one loop, asleep and all awake at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from stele.services.raft.ticker import TURNS_MAX, Ticker
from tests.support.eventually import eventually

NEVER = float("inf")


class Sleeper:
    """A group that has a deadline only while ``every_s`` is set."""

    def __init__(self, group_id: int, ticker: Ticker, every_s: float | None = None) -> None:
        self.group_id = group_id
        self.ticker = ticker
        self.every_s = every_s
        self.turns = 0
        self.on_turn: Callable[[], None] = lambda: None

    def step(self) -> float:
        self.turns += 1
        self.on_turn()
        return NEVER if self.every_s is None else self.ticker.now() + self.every_s


@asynccontextmanager
async def ticking() -> AsyncIterator[tuple[Ticker, list[int]]]:
    """A ticker, and the sizes of its rounds."""
    rounds: list[int] = []
    ticker = Ticker(lambda to, message: None, lambda: rounds.append(0))
    try:
        yield ticker, rounds
    finally:
        ticker.close()


async def test_groups_that_sleep_cost_nothing() -> None:
    async with ticking() as (ticker, rounds):
        groups = [Sleeper(i, ticker, every_s=0.02) for i in range(1000)]
        for group in groups:
            ticker.wake(group)
        await eventually(lambda: all(g.turns >= 3 for g in groups))
        for group in groups:
            group.every_s = None
        await eventually(lambda: not (ticker._deadlines or ticker._due or ticker._queued or ticker._woken))
        assert ticker._timer is None
        before = [g.turns for g in groups], len(rounds)
        await asyncio.sleep(0.2)
        assert ([g.turns for g in groups], len(rounds)) == before


async def test_one_that_is_awake_does_not_turn_the_sleeping() -> None:
    async with ticking() as (ticker, _):
        sleeping = [Sleeper(i, ticker) for i in range(1000)]
        awake = Sleeper(1000, ticker, every_s=0.005)
        for group in (*sleeping, awake):
            ticker.wake(group)
        await eventually(lambda: awake.turns >= 30)
        assert {g.turns for g in sleeping} == {1}
        assert len(ticker._deadlines) <= 2


async def test_a_thousand_that_wake_at_once_leave_room_for_what_arrives_between() -> None:
    async with ticking() as (ticker, rounds):
        groups = [Sleeper(i, ticker) for i in range(1000)]
        for group in groups:
            group.on_turn = lambda: rounds.__setitem__(-1, rounds[-1] + 1) if rounds else rounds.append(1)
        others = 0

        def other() -> None:
            nonlocal others
            others += 1
            if any(not g.turns for g in groups):
                asyncio.get_running_loop().call_soon(other)

        for group in groups:
            ticker.wake(group)
        asyncio.get_running_loop().call_soon(other)
        await eventually(lambda: all(g.turns == 1 for g in groups))
        assert max(rounds) <= TURNS_MAX
        assert others >= len(groups) // TURNS_MAX


async def test_those_that_wait_for_their_turn_come_before_those_woken_again() -> None:
    async with ticking() as (ticker, _):
        order: list[int] = []
        groups = [Sleeper(i, ticker) for i in range(TURNS_MAX + 10)]
        for group in groups:
            group.on_turn = lambda g=group: order.append(g.group_id)  # type: ignore[misc]
        first = groups[0]
        first.on_turn = lambda: (order.append(0), ticker.wake(first) if order.count(0) == 1 else None)[0]
        for group in groups:
            ticker.wake(group)
        await eventually(lambda: order.count(0) == 2)
        assert order == [*range(TURNS_MAX + 10), 0]


async def test_a_group_that_is_forgotten_while_it_waits_gets_no_turn() -> None:
    async with ticking() as (ticker, _):
        groups = [Sleeper(i, ticker) for i in range(2 * TURNS_MAX)]
        last = groups[-1]
        groups[0].on_turn = lambda: ticker.forget(last)
        for group in groups:
            ticker.wake(group)
        await eventually(lambda: groups[-2].turns == 1)
        await asyncio.sleep(0)
        assert last.turns == 0


async def test_last_words_leave_without_a_turn() -> None:
    async with ticking() as (ticker, rounds):
        ticker.flush()
        assert rounds == [0]
