"""How much room the store's disk has, looked at once a second.

Guarantee: below the reserve ``disk_full`` is true, so that producers are refused before the log itself runs out of room
(what is left is for terms, votes and acknowledgements); it becomes false by itself when space returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from stele.datanode.directory import DataDirectory

LOOK_INTERVAL_S = 1.0
LOOK_AGAIN_S = 0.1  # after an append was refused
LEADER_BYTES_MIN = 64 << 10
SHORT_FACTOR = 2.0  # of the reserve: above it, so that nobody is refused for the sake of what is deleted
RETURN_FACTOR = 1.05  # full until this much of the reserve is free again, so that the answer does not flicker

log = structlog.get_logger()


class Disk:
    """``free_bytes`` may be given for tests; it blocks and runs on a thread."""

    def __init__(
        self, directory: DataDirectory, reserve_bytes: int, free_bytes: Callable[[], int] | None = None
    ) -> None:
        self._free_bytes = free_bytes or directory.free_bytes
        self._reserve_bytes = reserve_bytes
        self._path = directory.path
        self._taken_bytes = 0  # by appends since the last look
        self._look_now = asyncio.Event()
        self.free_bytes = 0
        self.disk_full = False

    def take(self, size: int) -> bool:
        """Whether an append of ``size`` bytes may be begun.  Counts them, so that a burst between two looks does not
        fill the disk."""
        if self.disk_full or self.free_bytes - self._taken_bytes - size < self._reserve_bytes:
            self._look_now.set()
            return False
        self._taken_bytes += size
        return True

    def has_room_to_lead(self) -> bool:
        """Whether terms, votes and entries of leaders can still be written.  Measured now; asked once per election."""
        try:
            return self._free_bytes() >= max(self._reserve_bytes // 2, LEADER_BYTES_MIN)
        except OSError:
            return True

    @property
    def is_short(self) -> bool:
        """Whether what can be given up had better be: soon producers will be refused."""
        return self.disk_full or self.free_bytes < self._reserve_bytes * SHORT_FACTOR

    async def look(self) -> bool:
        """Looks now.  True if ``disk_full`` has changed."""
        before = self._taken_bytes
        try:
            self.free_bytes = await asyncio.to_thread(self._free_bytes)
        except OSError as e:
            log.warning("disk_not_measured", path=str(self._path), error=str(e))
            return False
        # What was taken before this look but not written yet is missed by it; the margin below the reserve is for that.
        self._taken_bytes -= before
        limit = self._reserve_bytes * (RETURN_FACTOR if self.disk_full else 1.0)
        was, self.disk_full = self.disk_full, self.free_bytes < limit
        if was == self.disk_full:
            return False
        log.warning(
            "disk_full" if self.disk_full else "disk_has_room", free_bytes=self.free_bytes, path=str(self._path)
        )
        return True

    async def watch(self, changed: Callable[[], None]) -> None:
        """Looks for ever."""
        while True:
            if await self.look():
                changed()
            self._look_now.clear()
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._look_now.wait()
                    await asyncio.sleep(LOOK_AGAIN_S)
            except TimeoutError:
                pass
