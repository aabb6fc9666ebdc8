"""Bounded memory for messages on their way.

Guarantee: at most ``bytes_max`` are taken at once (a single larger piece is let in alone); all go on in the order of asking, also past one
that was granted its bytes a moment ago and has not gone on yet.
"""

from __future__ import annotations

import asyncio
from collections import deque


class BufferLimit:
    """``await limit.acquire(n)`` or ``limit.try_acquire(n)``, then ``limit.release(n)``; all in bytes.

    ``acquire`` raises what ``refuse_all`` is given while it waits.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._granted = 0  # of those that waited, how many have their bytes and have not gone on yet
        self._unused = asyncio.Event()
        self._unused.set()

    def try_acquire(self, size: int) -> bool:
        if self._waiting or self._granted or not self._fits(size):
            return False
        self._use(size)
        return True

    async def acquire(self, size: int) -> None:
        if self.try_acquire(size):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._granted -= 1
                self.release(size)  # it was granted in the same turn
            raise
        self._granted -= 1
        self._grant()  # those who came while only the order was in their way

    def release(self, size: int) -> None:
        self.used_bytes -= size
        self._grant()
        if not self.used_bytes:
            self._unused.set()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            wanted, waiter = self._waiting.popleft()
            if not waiter.done():
                self._use(wanted)
                self._granted += 1
                waiter.set_result(None)

    async def unused(self) -> None:
        """Returns when everything that was acquired is released."""
        await self._unused.wait()

    def refuse_all(self, error: Exception) -> None:
        """Nobody who waits gets in any more."""
        while self._waiting:
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def _use(self, size: int) -> None:
        self.used_bytes += size
        self._unused.clear()

    def _fits(self, size: int) -> bool:
        return not self.used_bytes or self.used_bytes + size <= self.bytes_max
