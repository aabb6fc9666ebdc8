"""Virtual time: what happens next, in one fixed order.

Guarantee: events happen by time, and those of one moment in the order in which they were asked for; nothing else decides.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


class Scheduler:
    """``now`` is in seconds since the run began."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0
        self._end = 0.0
        self._done: Callable[[], bool] | None = None

    def at(self, when: float, event: Callable[..., object], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._count, event, arguments))

    def after(self, delay_s: float, event: Callable[..., object], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, event, arguments))

    def pass_to(self, when: float) -> bool:
        """For an event that would go on at ``when`` by another one: if nothing happens up to then, it becomes now, and it may go on.
        As if it had asked for that event, and cheaper."""
        if when > self._end or (self._heap and self._heap[0][0] <= when):
            return False
        if self._done is not None and self._done():
            return False
        self.now = when
        self.events += 1
        return True

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> None:
        """Lets events happen up to ``end``, until ``stop``, or until ``done`` says so, which is asked after each of them."""
        heap, pop = self._heap, heapq.heappop
        self._end, self._done = end, done
        while heap and heap[0][0] <= self._end:
            self.now, _, event, arguments = pop(heap)
            self.events += 1
            event(*arguments)
            if done is not None and done():
                return
        if self._end == end:
            self.now = max(self.now, end)

    def stop(self) -> None:
        """No event after this one happens in ``run_until``."""
        self._end = -math.inf
