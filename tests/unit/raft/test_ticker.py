"""Turns come when they are due, and waiting for them costs no more the longer it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.raft.ticker import Ticker


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 0


class Stepped:
    """Answers each turn with what ``next_turn`` says."""

    group_id = 1

    def __init__(self, next_turn: Callable[[], float]) -> None:
        self.turns = 0
        self._next_turn = next_turn

    def step(self) -> float:
        self.turns += 1
        return self._next_turn()


async def test_a_deadline_that_comes_and_goes_is_kept_once() -> None:
    """A busy leader has a nearer deadline after each commit and a farther one after each message."""
    clock = Clock()
    ticker = Ticker(lambda to, message: None, lambda: None, clock)
    nearer = False

    def next_turn() -> float:
        nonlocal nearer
        nearer = not nearer
        return clock.now + (0.01 if nearer else 0.15)

    group = Stepped(next_turn)
    for _ in range(3_000):
        ticker.wake(group)
        await asyncio.sleep(0)
        clock.now += 0.001
        ticker._deadline()
    assert group.turns >= 3_000
    assert len(ticker._deadlines) <= 20
    ticker.close()


async def test_a_group_is_turned_at_its_deadline_and_not_after_it_is_forgotten() -> None:
    clock = Clock()
    ticker = Ticker(lambda to, message: None, lambda: None, clock)
    group = Stepped(lambda: clock.now + 1.0)
    ticker.wake(group)
    await asyncio.sleep(0)
    for step_s, turns in ((0.5, 1), (0.5, 2), (0.9, 2), (0.2, 3)):
        clock.now += step_s
        ticker._deadline()
        await asyncio.sleep(0)
        assert group.turns == turns
    ticker.forget(group)
    clock.now += 10
    ticker._deadline()
    await asyncio.sleep(0)
    assert group.turns == 3
    ticker.close()


async def test_a_group_without_a_deadline_waits_to_be_woken() -> None:
    clock = Clock()
    ticker = Ticker(lambda to, message: None, lambda: None, clock)
    group = Stepped(lambda: float("inf"))
    ticker.wake(group)
    await asyncio.sleep(0)
    clock.now += 100
    ticker._deadline()
    await asyncio.sleep(0)
    assert group.turns == 1
    ticker.wake(group)
    await asyncio.sleep(0)
    assert group.turns == 2
    ticker.close()
