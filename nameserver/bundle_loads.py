"""What bundles cost the brokers that own them, from what brokers say went through.  Pure.

Guarantee: a rate is what was counted between two words of one owner under one epoch, divided by the time that passed between them on this
process's monotonic clock, and smoothed; a bundle that has not been heard of twice under its owner keeps the rate that it had.  What nobody
has said is not taken for nothing: ``knows`` says whose words there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

HALF_LIFE_S = 30.0  # of what was, when something else is
MESSAGES_PER_S = 100.0  # these, or so many KiB, cost as much as a bundle does by being there
BYTES_PER_MESSAGE = 1024.0  # bytes that cost as much as one message more


@dataclass(frozen=True, slots=True)
class Counted:
    """What went through a bundle since its broker owns it under ``epoch``."""

    epoch: int
    messages: int
    bytes: int


class BundleLoads:
    """``heard`` for each word of a broker; ``costs`` for whoever assigns."""

    def __init__(self) -> None:
        self._before: dict[Hashable, tuple[float, Mapping[str, Counted]]] = {}
        self._twice: set[Hashable] = set()
        self._costs: dict[str, float] = {}

    def heard(self, broker: Hashable, counted: Mapping[str, Counted], now_s: float) -> None:
        """``broker``: one incarnation of one; ``now_s``: when, on a clock that never goes back."""
        if broker in self._before:
            then_s, before = self._before[broker]
            if now_s <= then_s:
                return
            self._twice.add(broker)
            for bundle, now in counted.items():
                then = before.get(bundle)
                if then is not None and then.epoch == now.epoch:
                    self._smooth(bundle, then, now, now_s - then_s)
        self._before[broker] = (now_s, dict(counted))

    def _smooth(self, bundle: str, then: Counted, now: Counted, passed_s: float) -> None:
        messages = max(0, now.messages - then.messages) + max(0, now.bytes - then.bytes) / BYTES_PER_MESSAGE
        rate = messages / passed_s / MESSAGES_PER_S
        known = self._costs.get(bundle)
        kept = 0.5 ** (passed_s / HALF_LIFE_S) if known is not None else 0.0
        self._costs[bundle] = (known or 0.0) * kept + rate * (1 - kept)

    def has_none(self, broker: Hashable) -> None:
        """It cannot say, since it is of an earlier version: what it owns counts as idle."""
        self._twice.add(broker)

    def knows(self, broker: Hashable) -> bool:
        """Whether what the broker owns has been measured, so that it does not only seem to be idle."""
        return broker in self._twice

    def keep(self, brokers: set[Hashable], bundles: Mapping[str, object]) -> None:
        """Forgets all others."""
        self._before = {b: said for b, said in self._before.items() if b in brokers}
        self._twice &= brokers
        self._costs = {b: cost for b, cost in self._costs.items() if b in bundles}

    @property
    def costs(self) -> Mapping[str, float]:
        """Of each bundle beside what it costs by being there, which is 1; idle: 0."""
        return self._costs
