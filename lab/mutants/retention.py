"""Ages and times that believe a clock that is set wrong."""

from __future__ import annotations

from pathlib import Path

from stele.datanode.observed_time import ObservedTime
from stele.datanode.offsets import TimeIndex
from stele.services.clock import SYSTEM, Clock
from stele.services.json_files import read_json, write_json


class AgesByTheWallClock(ObservedTime):
    """The age of a message is what the wall clock says has passed, so that one that is set ahead makes everything old."""

    def __init__(self, path: Path, clock: Clock = SYSTEM) -> None:
        super().__init__(path, clock)
        self._clock = clock

    def now_ms(self) -> int:
        return self._clock.wall_ms()


class CountsTheDowntime(ObservedTime):
    """What the wall clock says has passed while no process ran counts as observed."""

    def __init__(self, path: Path, clock: Clock = SYSTEM) -> None:
        super().__init__(path, clock)
        self._clock = clock
        stopped_ms = (read_json(path) or {}).get("stopped_ms", clock.wall_ms())
        self._recorded_ms += max(0, clock.wall_ms() - stopped_ms)

    def record(self) -> None:
        super().record()
        write_json(self._path, {**(read_json(self._path) or {}), "stopped_ms": self._clock.wall_ms()})


class BelievesEveryTime(TimeIndex):
    """The highest time of any batch hides all that come after it, whoever gave it."""

    def _doubt(self, timestamp_ms: int) -> bool:
        return False
