"""The tasks of one part of a process: none is lost, and none dies unnoticed.

Guarantee: a task that was started is referenced until it ends; an exception that it ends with is reported exactly once, to ``on_failed``
(or, without one, to the event loop's exception handler), also while it is being cancelled; after ``cancel`` none of those that ran
before it runs any more.

Every task is one of these.  ``start``: work that ends; ``on_failed`` says what its failure ends (the process, the replica, the calls that
wait).  ``keep``: work that must go on for as long as its owner lives; it begins again after a failure.  The few that are awaited where they
are made stand in a list (``tests/unit/layout/test_tasks.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESTART_PAUSE_S_MIN, RESTART_PAUSE_S_MAX = 0.1, 5.0


class Tasks:
    """``on_failed`` receives the name of a task and what it ended with, other than its cancellation."""

    def __init__(self, on_failed: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_failed = on_failed
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """Runs ``work()`` until it returns.  Each failure is reported to the event loop's exception handler, and ``work`` called
        again after a pause, twice as long each time, RESTART_PAUSE_S_MAX at most: it takes nothing of its former run for granted."""
        return self.start(_kept(work, name), name)

    def __bool__(self) -> bool:
        """Whether any is running."""
        return bool(self._running)

    async def finished(self) -> None:
        """Waits for those that run now; they keep their failures."""
        if self._running:
            await asyncio.wait(set(self._running))

    def cancel_soon(self) -> None:
        """Without waiting, so that a task may do it."""
        for task in self._running:
            task.cancel()

    async def cancel(self) -> None:
        self.cancel_soon()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._on_failed is not None:
            self._on_failed(task.get_name(), error)
        else:
            # Not left to the task's own report: ``cancel`` looks at its outcome, and after that it makes none.
            name = task.get_name()
            task.get_loop().call_exception_handler({"message": f"{name} failed", "exception": error, "task": task})


async def _kept(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    loop = asyncio.get_running_loop()
    pause_s = RESTART_PAUSE_S_MIN
    while True:
        began_s = loop.time()
        try:
            return await work()
        except Exception as e:
            if loop.time() - began_s > RESTART_PAUSE_S_MAX:
                pause_s = RESTART_PAUSE_S_MIN
            loop.call_exception_handler(
                {"message": f"{name} failed, and begins again in {pause_s:g} s", "exception": e}
            )
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, RESTART_PAUSE_S_MAX)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` comes to.  Where who waits for it gives up it goes on, and nobody is left to be told what it fails with."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(unheard)  # a shield looks at no failure any more once who waits has gone
    return await asyncio.shield(task)


def unheard(done: asyncio.Future[Any]) -> None:
    """For ``add_done_callback`` where nobody need wait any more: what it fails with is no news to the event loop."""
    if not done.cancelled():
        done.exception()


class Threads:
    """Work on threads, which ends although who waits for it gives up: ``ended`` waits for all of it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(unheard)
        return await asyncio.shield(running)

    async def ended(self) -> None:
        await asyncio.gather(*self._running, return_exceptions=True)
