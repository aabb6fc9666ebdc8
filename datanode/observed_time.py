"""How much time a store has seen pass: what the age of its messages is measured in.

Guarantee: what passes between two readings is never more than the monotonic clocks of the store's processes have seen pass between
them, over any number of restarts.  No wall clock has a part in it, so none that is set wrong makes anything old.

What is not known to have passed does not count, and so keeps messages longer: the time during which no process of the store ran, and of
a process that crashed what it had not recorded yet, ``RECORD_INTERVAL_S`` at most.  The number means something in this store alone;
another one is told how much of it has passed since (services/raft/snapshot_offer.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import structlog

from stele.services.clock import SYSTEM, Clock
from stele.services.errors import StorageFailed
from stele.services.json_files import write_json
from stele.services.topics import RETENTION_MS_MAX

FORMAT = 1
RECORD_INTERVAL_S = 60.0
BEGIN_MS = RETENTION_MS_MAX  # so that what a new store is told to be old can be older than the store

log = structlog.get_logger()


class ObservedTime:
    """``path`` is read at construction (StorageFailed); ``await time.keep()`` for as long as the process runs, and ``record`` at its end.
    What touches the disk blocks: on a thread."""

    def __init__(self, path: Path, clock: Clock = SYSTEM) -> None:
        self._path = path
        self._monotonic = clock.monotonic
        self._begin_s = self._monotonic()
        self._recorded_ms = self._load()

    def _load(self) -> int:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return BEGIN_MS
        except OSError as e:  # what cannot be read for a moment is not gone
            raise StorageFailed(f"{self._path}: {e.strerror or e}", path=self._path) from e
        with contextlib.suppress(ValueError):
            found = json.loads(content)
            observed_ms = (
                found.get("observed_ms") if isinstance(found, dict) and found.get("format") == FORMAT else None
            )
            if isinstance(observed_ms, int) and observed_ms >= BEGIN_MS:
                return observed_ms
        # To begin anew makes everything young: what the snapshots say lies ahead, and counts as now.
        log.warning("observed_time_unreadable", path=str(self._path))
        return BEGIN_MS

    def now_ms(self) -> int:
        return self._recorded_ms + int((self._monotonic() - self._begin_s) * 1000)

    async def keep(self) -> None:
        """Records what has passed, every now and then."""
        while True:
            await asyncio.sleep(RECORD_INTERVAL_S)
            await asyncio.to_thread(self.record)

    def record(self) -> None:
        """Durable when it returns; a disk that takes nothing only loses what it would have told the next process."""
        try:
            write_json(self._path, {"observed_ms": self.now_ms(), "format": FORMAT})
        except OSError as e:
            log.warning("observed_time_not_recorded", path=str(self._path), error=e.strerror or str(e))
