"""How often something that happens without end is said.  Pure: the time is given.

Guarantee: the first time at once, then at most once in ``SAID_EVERY_S``; none is lost from the count.
"""

from __future__ import annotations

from typing import Final

SAID_EVERY_S: Final = 60.0


class Rarely:
    """One thing that might be said without end."""

    __slots__ = ("_count", "_said_at")

    def __init__(self) -> None:
        self._count = 0
        self._said_at = float("-inf")

    def times(self, now: float) -> int:
        """It has happened once more, at ``now`` in monotonic seconds: how often since it was said last, to be said now; 0: not now."""
        self._count += 1
        if now - self._said_at < SAID_EVERY_S:
            return 0
        times, self._count, self._said_at = self._count, 0, now
        return times
