"""How long consumers take to acknowledge.  Pure: time is passed in.

Guarantee: bounded; a delivery counts once, when the last message that was sent with it is acknowledged by the consumer that it was sent
to.  Deliveries past the newest ``DELIVERIES_MAX`` that are out, and what is handed back or delivered to another one, do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from stele.broker.cursor_writes import Range

DELIVERIES_MAX = 256


class DeliveryTimes:
    """Of one consumer."""

    def __init__(self) -> None:
        self._sent_s: dict[int, float] = {}  # offset of the last message of a delivery → when it was sent

    def __len__(self) -> int:
        return len(self._sent_s)

    def sent(self, last: int, now_s: float) -> None:
        self._sent_s.pop(last, None)
        if len(self._sent_s) >= DELIVERIES_MAX:
            del self._sent_s[next(iter(self._sent_s))]
        self._sent_s[last] = now_s

    def acknowledged(self, ranges: Sequence[Range], cumulative: bool, now_s: float) -> list[float]:
        """Seconds, of each delivery whose last message is among ``ranges``; cumulative: of all up to the last of the only one."""
        took_s: list[float] = []
        for first, last in ranges:
            if cumulative or last - first >= len(self._sent_s):
                done = [o for o in self._sent_s if (cumulative or first <= o) and o <= last]
            else:
                done = [o for o in range(first, last + 1) if o in self._sent_s]
            took_s += [now_s - self._sent_s.pop(o) for o in done]
        return took_s

    def returned(self, ranges: Sequence[Range]) -> None:
        """These were handed back."""
        self.acknowledged(ranges, False, 0.0)
