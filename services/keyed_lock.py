"""One lock per key.

Guarantee: at most one task at a time is inside ``async with locks.hold(key)``; those that wait for a key enter in the order in which
they came; nobody waits for another key.  There is an entry for a key only while somebody holds it or waits for it, so there are never
more entries than tasks inside ``hold``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class KeyedLock(Generic[KeyT]):
    """For tasks of one event loop."""

    def __init__(self) -> None:
        self._locks: dict[KeyT, tuple[asyncio.Lock, int]] = {}  # with how many tasks hold it or wait for it

    def __contains__(self, key: object) -> bool:
        """Whether somebody holds ``key`` or waits for it."""
        return key in self._locks

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, key: KeyT) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)  # BEFORE waiting: who leaves meanwhile must not take the lock off the list
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
