"""Calls of the SDK that are under way: each ends by its deadline and a second, or the run ends.

Guarantee: a call is watched from its beginning, so one that hangs for ever is noticed as soon as it is late.  Time during which its client
stood still does not count.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from tests.simulation.checks import Violation

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.world import World

T = TypeVar("T")
GRACE_S = 1.0


class _Call:
    __slots__ = ("began_at", "guest", "over", "stopped_s", "what", "within_s")

    def __init__(self, guest: Guest, what: str, within_s: float) -> None:
        self.guest, self.what, self.within_s = guest, what, within_s
        self.began_at, self.stopped_s = guest.world.now, guest.stopped_s
        self.over = False

    @property
    def took_s(self) -> float:
        """By a clock that stands still with its client."""
        return self.guest.world.now - self.began_at - (self.guest.stopped_s - self.stopped_s)

    @property
    def left_s(self) -> float:
        return self.within_s + GRACE_S - self.took_s


class Calls:
    """``await within(…)`` makes a call; ``look`` is asked a few times a second."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due: list[tuple[float, int, _Call]] = []  # a heap: when it is late at the earliest
        self.made: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}  # of each: the largest part of its time that one took

    async def within(self, guest: Guest, what: str, call: Awaitable[T], within_s: float) -> T:
        """What the call comes to, which it does within ``within_s`` and a second more."""
        watched = _Call(guest, what, within_s)
        self.made[what] += 1
        heapq.heappush(self._due, (self._world.now + watched.left_s, self.made.total(), watched))
        try:
            return await call
        finally:
            watched.over = True
            self.slowest[what] = max(self.slowest.get(what, 0.0), watched.took_s / max(within_s, GRACE_S))
            if watched.left_s < 0:
                self._late(watched, f"took {watched.took_s:.3f} s")

    def look(self) -> None:
        due = self._due
        while due and due[0][0] < self._world.now:
            _, number, call = heapq.heappop(due)
            if call.over:
                continue
            if call.left_s < 0:
                self._late(call, f"is under way after {call.took_s:.3f} s")
            else:  # its client stood still meanwhile
                heapq.heappush(due, (self._world.now + call.left_s, number, call))

    def _late(self, call: _Call, how: str) -> None:
        text = f"{call.what} at {call.guest.host} {how} of {call.within_s:g} s"
        self._world.unhandled(call.guest, Violation("deadline", text))
