"""What all producers of a broker together have unanswered there.

Guarantee: while it is ``bytes_max`` or more, no stream is read on: each has at most one request beyond it.
"""

from __future__ import annotations

import asyncio


class ProduceBudget:
    """``take`` what is read, ``give_back`` what is answered, and ``room`` before more is read."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._room = asyncio.Event()

    def take(self, size: int) -> None:
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        self.used_bytes -= size
        self._room.set()

    async def room(self) -> None:
        """Waits until something may be taken."""
        while self.used_bytes >= self.bytes_max:
            self._room.clear()
            await self._room.wait()
