"""How much goes through the bundles that this broker owns.  Pure.

Guarantee: counts only grow while a bundle is owned under one epoch, and begin anew under the next one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Messages and bytes, stored and delivered alike."""

    messages: int = 0
    bytes: int = 0

    def count(self, messages: int, size: int) -> None:
        self.messages += messages
        self.bytes += size


class TrafficOfBundles:
    """``of(bundle, epoch)`` for whoever counts; ``total(owned)`` for whoever asks."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, Traffic]] = {}

    def of(self, bundle: str, epoch: int) -> Traffic:
        known = self._counted.get(bundle)
        if known is None or known[0] != epoch:
            known = self._counted[bundle] = (epoch, Traffic())
        return known[1]

    def total(self, owned: dict[str, int]) -> dict[str, tuple[int, Traffic]]:
        """Epoch and counts of each bundle in ``owned`` (its epoch by bundle); what is owned no more is forgotten."""
        self._counted = {b: known for b, known in self._counted.items() if owned.get(b) == known[0]}
        return {bundle: (epoch, self.of(bundle, epoch)) for bundle, epoch in owned.items()}
