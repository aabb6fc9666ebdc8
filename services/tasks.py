"""The tasks of one part of a process: none is lost, and none dies unnoticed.

Guarantee: a task that was started is referenced until it ends; an exception that it ends with is reported exactly once, to ``on_failed``
(or, without one, to the event loop's exception handler), also while it is being cancelled; after ``cancel`` none of those that ran
before it runs any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


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
