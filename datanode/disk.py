"""How much room the store's disk has, looked at once a second.

Guarantee: below the reserve ``disk_full`` is true, so that producers are refused before the log itself runs out of room
(what is left is for terms, votes and acknowledgements); it becomes false by itself when space returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from datanode.directory import DataDirectory

LOOK_INTERVAL_S = 1.0
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
        self.free_bytes = 0
        self.disk_full = False

    async def look(self) -> bool:
        """Looks now.  True if ``disk_full`` has changed."""
        try:
            self.free_bytes = await asyncio.to_thread(self._free_bytes)
        except OSError as e:
            log.warning("disk_not_measured", path=str(self._path), error=str(e))
            return False
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
            await asyncio.sleep(LOOK_INTERVAL_S)
