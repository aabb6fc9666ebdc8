"""How long to wait before the next attempt.  Pure: the count of failures and the randomness are given.

Guarantee: without a failure no wait; then a wait that grows from ``first_s`` by ``factor`` and has a cap, each time between half
and the whole of it, so that those who lost the same peer do not come back as one.

Usage: ``await asyncio.sleep(REDIAL.after(failures, rng))`` with ``REDIAL = Backoff(first_s=0.05, max_s=1.0)`` in the module that
waits.  Who counts and when the count begins anew is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

from stele.services.rng import Rng

STEPS_MAX = 64  # beyond it every backoff is at its cap; more would leave the range of a float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped, exponential, jittered."""

    first_s: float
    max_s: float
    factor: float = 2.0

    def ceiling_s(self, failures: int) -> float:
        """The longest that ``after`` waits."""
        if failures <= 0:
            return 0.0
        return min(self.max_s, self.first_s * self.factor ** min(failures - 1, STEPS_MAX))

    def after(self, failures: int, rng: Rng) -> float:
        """Seconds to wait after ``failures`` failures in a row."""
        return self.ceiling_s(failures) * rng.uniform(0.5, 1.0)
