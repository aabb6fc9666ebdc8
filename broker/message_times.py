"""When the messages of a partition were given their times by their producers, as far as batches passed here.  Pure.

Guarantee: memory is bounded by ``RANGES_MAX`` ranges; a time that is told is that of the message's batch, or earlier by less than the
step, which is a second and grows while there is more to remember.  What is not known is not guessed.
"""

from __future__ import annotations

from stele.broker.ranges import RangeMap

RANGES_MAX = 1_024
STEP_MS = 1_000
STEP_MAX_MS = 3_600_000


class MessageTimes:
    """Of one partition, by offset."""

    def __init__(self) -> None:
        self._step_ms = STEP_MS
        self._known: RangeMap[int] = RangeMap()
        self._newest = (0, 0, 0)  # first offset, offset behind it, time: not in the map yet, since it mostly grows

    def __len__(self) -> int:
        return len(self._known)

    def note(self, first: int, last: int, time_ms: int) -> None:
        """A batch that holds these offsets, and its time."""
        time_ms -= time_ms % self._step_ms
        begun, end, newest_ms = self._newest
        if first == end and time_ms == newest_ms:
            self._newest = begun, last + 1, time_ms
            return
        self._settle()
        self._newest = first, last + 1, time_ms

    def time_ms(self, offset: int) -> int | None:
        begun, end, time_ms = self._newest
        return time_ms if begun <= offset < end else self._known.get(offset)

    def _settle(self) -> None:
        begun, end, time_ms = self._newest
        if begun < end:
            self._known.set(begun, end - 1, time_ms)
        while len(self._known) > RANGES_MAX:
            if self._step_ms >= STEP_MAX_MS:  # times without any order: the lowest half can be read again
                ranges = list(self._known)
                self._known = RangeMap(ranges[len(ranges) // 2 :])
                return
            self._step_ms = step_ms = min(STEP_MAX_MS, self._step_ms * 2)
            self._known = RangeMap((a, b, t - t % step_ms) for a, b, t in self._known)
