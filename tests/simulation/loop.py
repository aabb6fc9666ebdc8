"""The event loop of one simulated process: asyncio's semantics under virtual time.

Guarantee: what is ready runs in asyncio's order; a process that died runs nothing more, one that is paused runs nothing until it is
resumed; time is the process's own clock, which drifts and jumps.  Work for threads runs at a later moment of its own, and its
result arrives later still: a crash can come before, between and after the two.

A *fuse* ends the process after a given number of effects (a handle that ran, a message that was sent, a disk operation), so that a
crash comes between any two of them.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import sys
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tests.simulation.scheduler import Scheduler

ITERATION_S = 20e-6  # what one turn of the loop takes
CLOCK_RESOLUTION_S = 1e-6
SLOWEST_S = 2.0  # of one piece of work on a thread
T = TypeVar("T")


class SimulatedHandle:
    """What ``call_soon`` and ``call_at`` give back."""

    __slots__ = ("_arguments", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self, callback: Callable[..., object], arguments: tuple[Any, ...], context: Context | None, when: float = 0.0
    ) -> None:
        self._callback = callback
        self._arguments = arguments
        self._context = context
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


@contextmanager
def generators_closed() -> Iterator[None]:
    """Meanwhile an asynchronous generator that nobody holds any more is closed by a task of the loop that began it, as asyncio's do."""
    loops: WeakKeyDictionary[AsyncGenerator[Any, Any], asyncio.AbstractEventLoop] = WeakKeyDictionary()

    def first(generator: AsyncGenerator[Any, Any]) -> None:
        loop = asyncio_events._get_running_loop()
        if loop is not None:
            loops[generator] = loop

    def last(generator: AsyncGenerator[Any, Any]) -> None:
        loop = loops.pop(generator, None)
        if loop is not None and not loop.is_closed():
            loop.call_soon(loop.create_task, generator.aclose())

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(first, last)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*before)


class Latency:
    """How long threads wait for a processor and for the disk, drawn anew for each piece of work."""

    def __init__(self, rng: random.Random, mean_s: float = 0.001, slow_share: float = 0.02) -> None:
        self._rng = rng
        self.mean_s = mean_s
        self.slow_share = slow_share
        self.factor = 1.0

    def draw(self) -> float:
        rng = self._rng
        if self.slow_share and rng.random() < self.slow_share:
            return min(rng.uniform(0.02, 0.6) * self.factor, SLOWEST_S)
        return min(rng.expovariate(1.0) * self.mean_s * self.factor, SLOWEST_S)


class SimulatedLoop(asyncio.AbstractEventLoop):
    """``after_handle`` is called after each handle if given, ``worked`` after each piece of work on a thread; ``failed`` with what a
    callback raised and nobody caught; ``died`` when the fuse has burnt down."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        latency: Latency,
        after_handle: Callable[[], None] | None,
        failed: Callable[[BaseException | str], None],
        died: Callable[[], None],
        worked: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._rng = rng
        self._latency = latency
        self._after_handle = after_handle
        self._failed = failed
        self._died = died
        self._worked = worked
        self._ready: deque[SimulatedHandle] = deque()
        self._inbox: deque[SimulatedHandle] = deque()
        self._timers: list[tuple[float, int, SimulatedHandle]] = []
        self._timer_count = 0
        self._armed_at = float("inf")
        self._arming = 0
        self._running = False
        self.dead = False
        self.paused = False
        self.fuse: int | None = None
        self._drift = 1.0
        self._local_base = rng.uniform(0, 1000)
        self._base = scheduler.now

    # --- the clock ----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._local_base + (self._scheduler.now - self._base) * self._drift

    def set_drift(self, drift: float) -> None:
        self._local_base, self._base = self.time(), self._scheduler.now
        self._drift = drift
        self._armed_at = float("inf")
        self._arm()

    def jump(self, seconds: float) -> None:
        """The clock leaps forward, as after a suspended machine."""
        self._local_base += seconds
        self._armed_at = float("inf")
        self._arm()

    # --- life ---------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        self.paused = True
        self._arming += 1
        self._armed_at = float("inf")

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self._arm()

    def end(self) -> None:
        """Nothing of this process runs any more."""
        self.dead = True
        self._arming += 1

    def effect(self) -> bool:
        """One more effect is about to be had.  False: the process is dead, or dies here, and does not have it."""
        if self.dead:
            return False
        if self.fuse is not None:
            if self.fuse <= 0:
                self._died()
                return False
            self.fuse -= 1
        return True

    # --- scheduling ---------------------------------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        handle = SimulatedHandle(callback, args, context)
        if not self.dead:
            self._ready.append(handle)
            if not self._running and not self.paused:
                self._arm()
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        handle = SimulatedHandle(callback, args, context, when)
        if not self.dead:
            self._timer_count += 1
            heapq.heappush(self._timers, (when, self._timer_count, handle))
            if not self._running and not self.paused:
                self._arm()
        return handle

    def arrive(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Something from outside: a frame, a request, the end of a thread's work.  It waits while the process is paused."""
        if not self.dead:
            self._inbox.append(SimulatedHandle(callback, arguments, None))
            if not self._running and not self.paused:
                self._arm()

    def _arm(self) -> None:
        """Sees to a turn when one is due: soon if something is ready, else at the earliest timer."""
        if self.dead or self.paused:
            return
        now = self._scheduler.now
        if self._ready or self._inbox:
            at = now + ITERATION_S
        elif self._timers:
            at = self._base + (self._timers[0][0] - self._local_base) / self._drift
            if at < now + ITERATION_S:
                at = now + ITERATION_S
        else:
            return
        if at < self._armed_at:
            self._armed_at = at
            self._arming += 1
            self._scheduler.at(at, self._turn, self._arming)

    def _turn(self, arming: int) -> None:
        if arming != self._arming or self.dead or self.paused:
            return
        self._armed_at = float("inf")
        ready, inbox, timers, scheduler = self._ready, self._inbox, self._timers, self._scheduler
        after_handle = self._after_handle
        self._running = True
        asyncio_events._set_running_loop(self)
        try:
            while True:
                if timers:
                    self._take_due()
                left = len(ready)  # what becomes ready meanwhile waits for the next turn
                while True:
                    if left:
                        left -= 1
                        handle = ready.popleft()
                    elif inbox:
                        handle = inbox.popleft()
                    else:
                        break
                    if handle._cancelled:
                        continue
                    if self.fuse is not None and not self.effect():
                        if self.dead or self.paused:
                            return
                        continue
                    context = handle._context
                    try:
                        if context is None:
                            handle._callback(*handle._arguments)
                        else:
                            context.run(handle._callback, *handle._arguments)
                    except Exception as e:
                        if not self.dead:
                            self._failed(e)
                    if after_handle is not None and not self.dead:
                        after_handle()
                    if self.dead or self.paused:
                        return
                if not ready or not scheduler.pass_to(scheduler.now + ITERATION_S):
                    break
        finally:
            asyncio_events._set_running_loop(None)
            self._running = False
        self._arm()

    def _take_due(self) -> None:
        """What timers are due is ready."""
        timers, inbox = self._timers, self._inbox
        now = self.time() + CLOCK_RESOLUTION_S
        if timers[0][0] <= now:
            if inbox and self._rng.random() < 0.5:  # either order is possible: a frame takes several hops to its reader
                self._ready.extend(inbox)
                inbox.clear()
            while timers and timers[0][0] <= now:
                self._ready.append(heapq.heappop(timers)[2])

    # --- what asyncio asks of a loop ------------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.Future(loop=self)
        if self.effect():
            latency = self._latency
            self._scheduler.after(latency.draw(), self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.paused and not self.dead:  # its threads stand still too
            self._inbox.append(SimulatedHandle(self._scheduler.after, (0.0, self._work, future, func, args), None))
            return
        if not self.effect():
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = func(*args)
        except Exception as e:
            error = e
        self._worked()
        self._scheduler.after(self._latency.draw(), self.arrive, self._settle, future, result, error)

    @staticmethod
    def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        if context is None:
            task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=str(name))
        else:
            task = asyncio.Task(coro, loop=self, name=str(name), context=context)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self._failed(context.get("exception") or str(context.get("message")))

    def _timer_handle_cancelled(self, handle: object) -> None:
        """Nothing: a cancelled timer is skipped when its time comes."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead
