"""How often a registration may be written (R5.8).

Guarantee: the first write after a quiet time goes out at once; writes that follow one another are at least a doubling pause apart, up
to ``PAUSE_S_MAX``.  Whoever keeps undoing a registration does not set the pace at which it is put back.
"""

from __future__ import annotations

import asyncio

from stele.services.clock import SYSTEM, Clock

PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.5  # below the second within which a lost registration has to be back (R5.7)
QUIET_S = 2.0


def next_pause(pause_s: float, since_last_s: float) -> float:
    """The least time between the last write and the next one.  Pure."""
    return 0.0 if since_last_s > QUIET_S else min(PAUSE_S_MAX, max(PAUSE_S_MIN, pause_s * 2))


class Pace:
    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._last = float("-inf")

    async def keep(self) -> None:
        """Returns when the next write may go out."""
        since = self._clock.monotonic() - self._last
        self._pause_s = next_pause(self._pause_s, since)
        await asyncio.sleep(max(0.0, self._pause_s - since))
        self._last = self._clock.monotonic()
