"""Turns for many groups on one loop: a group runs when something happened to it or its next deadline has come.

No thread and no timer per group: one heap of deadlines, one timer for the earliest, one ``call_soon`` for everything that was woken.
All messages that are waiting are delivered before any group looks at the clock (H14): deliveries wake groups, turns follow.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from stele.services.clock import SYSTEM, Clock
from stele.services.pb import raft_pb2 as pb

FLUSH_THREADS = 4
TURNS_MAX = 128  # in one round; a thousand groups that wake at once leave room for what arrives between


class Turned(Protocol):
    """What the ticker turns: a group."""

    group_id: int

    def step(self) -> float: ...


class Ticker:
    """``send(to, message)`` hands a message to the transport; ``sent`` is called once after each round of turns."""

    def __init__(
        self,
        send: Callable[[int, pb.RaftMessage], None],
        sent: Callable[[], None],
        clock: Clock = SYSTEM,
        flush_threads: int = FLUSH_THREADS,
    ) -> None:
        self.send = send
        self._sent = sent
        self.now = clock.monotonic
        self.flush_threads = ThreadPoolExecutor(flush_threads, thread_name_prefix="flush")
        self._woken: dict[Turned, None] = {}
        self._scheduled = False
        self._deadlines: list[tuple[float, int, Turned]] = []
        self._due: dict[Turned, float] = {}
        self._queued: dict[Turned, float] = {}  # the one entry of each group in the heap that counts
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._count = 0
        self._closed = False

    def flush(self) -> None:
        """Lets what was sent outside of a turn leave: a group's last words."""
        self._sent()

    def wake(self, group: Turned) -> None:
        """Gives ``group`` a turn in this round of the loop."""
        if self._closed:
            return
        self._woken[group] = None
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def forget(self, group: Turned) -> None:
        """``group`` gets no further turn."""
        self._woken.pop(group, None)
        self._due.pop(group, None)
        self._queued.pop(group, None)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._woken.clear()
        self._due.clear()
        self._queued.clear()
        self._deadlines.clear()
        self.flush_threads.shutdown(wait=False)

    def _round(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        woken = list(self._woken)
        self._woken = dict.fromkeys(woken[TURNS_MAX:])
        for group in woken[:TURNS_MAX]:
            self._schedule(group, group.step())
        self._sent()
        self._arm()
        if self._woken and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def _schedule(self, group: Turned, due: float) -> None:
        if due == float("inf"):
            self._due.pop(group, None)
            return
        self._due[group] = due
        queued = self._queued.get(group)
        if queued is None or due < queued:  # a later deadline is found out when the earlier one comes
            self._push(group, due)

    def _push(self, group: Turned, due: float) -> None:
        self._queued[group] = due
        self._count += 1
        heapq.heappush(self._deadlines, (due, self._count, group))

    def _arm(self) -> None:
        if not self._deadlines:
            return
        at = self._deadlines[0][0]
        if self._timer is not None and self._timer_at <= at and not self._timer.cancelled():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self.now()), self._deadline)

    def _deadline(self) -> None:
        self._timer = None
        now = self.now() + 0.0005
        while self._deadlines and self._deadlines[0][0] <= now:
            at, _, group = heapq.heappop(self._deadlines)
            if self._queued.get(group) != at:  # an earlier one was queued since
                continue
            del self._queued[group]
            due = self._due.get(group)
            if due is not None and due <= now:
                del self._due[group]
                self.wake(group)
            elif due is not None:
                self._push(group, due)
        self._arm()
