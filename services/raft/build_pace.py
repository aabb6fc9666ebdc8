"""How fast a store sends to replicas that are being built: learners, and whoever is given a snapshot.  Pure: the time comes with each call.

Guarantee: within any time t no more than ``bytes_per_s`` x (t + BURST_S) is sent to them, and what was asked for last, once more; what
voters are sent of the log is neither counted nor held up.  A learner whose group is written to faster than that does not catch up.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.5  # what was not sent may be sent later, for as long


class BuildPace:
    """One per store.  ``bytes_per_s`` 0: no bound."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_at_s = 0.0  # when all that was sent is paid for, at that rate

    def wait_s(self, now_s: float) -> float:
        """Until more may be sent; 0: at once."""
        return max(0.0, self._paid_at_s - now_s) if self._bytes_per_s else 0.0

    def may_send(self, now_s: float) -> bool:
        return self.wait_s(now_s) == 0.0

    def took(self, size: int, now_s: float) -> None:
        """So much was sent, or will be as soon as it may."""
        if self._bytes_per_s:
            self._paid_at_s = max(self._paid_at_s, now_s - BURST_S) + size / self._bytes_per_s
