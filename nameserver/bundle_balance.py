"""Which bundle is moved to even out what brokers have to do.  Pure.

Guarantee: each move makes the sum of the squares of the loads smaller, so that with the same traffic there is an end to them, and leaves
the two brokers so that only a change of traffic brings the bundle back; as few as it takes are moved, and of those that suffice the one
with least traffic, since each costs its topics a short pause.  Without traffic each bundle counts the same, and brokers come to have the
same number of them, or one more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BUNDLE_COST = 1.0  # of a bundle without traffic
BAND = 0.3  # two brokers may differ by a bundle, and by so much of the mean traffic of a broker
SLACK = 0.1  # by so much of a bundle and of that traffic the one that takes may come to have more than the other
RELUCTANT = 2


class OwnerLoads:
    """Who owns what, and what it costs them; ``give`` as it changes."""

    def __init__(self, may_take: Sequence[str], traffic: Mapping[str, float]) -> None:
        self.may_take = may_take
        self._traffic = traffic
        self._owners: dict[str, str] = {}
        self._owned: dict[str, dict[str, None]] = {name: {} for name in may_take}
        self._loads: dict[str, float] = dict.fromkeys(may_take, 0.0)

    def cost(self, bundle: str) -> float:
        return BUNDLE_COST + self._traffic.get(bundle, 0.0)

    def of(self, broker: str) -> float:
        return self._loads.get(broker, 0.0)

    def give(self, bundle: str, broker: str) -> None:
        former = self._owners.get(bundle)
        if former is not None:
            del self._owned[former][bundle]
            self._loads[former] -= self.cost(bundle)
        self._owners[bundle] = broker
        self._owned.setdefault(broker, {})[bundle] = None
        self._loads[broker] = self._loads.get(broker, 0.0) + self.cost(bundle)

    def least(self) -> str:
        """Of those that may be given more."""
        return min(self.may_take, key=lambda b: (self._loads[b], b))

    def to_even(self, reluctance: Mapping[str, int]) -> tuple[str, str] | None:
        """The bundle to move next, and the broker to give it to; None: it is even enough, or nothing that may move makes it more so.
        ``reluctance``: of what may move, the lower the better; from ``RELUCTANT`` on only where its owner has nothing else that may."""
        owned = {broker: self._owned[broker] for broker in self.may_take}
        loads = {
            broker: sum(map(self.cost, names)) for broker, names in owned.items()
        }  # without the errors of many sums
        traffic = sum(self._traffic.get(b, 0.0) for names in owned.values() for b in names) / len(owned)
        band, slack = BUNDLE_COST + BAND * traffic, SLACK * (BUNDLE_COST + traffic)
        least = min(loads, key=lambda b: (loads[b], b))
        for broker in sorted(loads, key=lambda b: (loads[b], b), reverse=True):
            difference = loads[broker] - loads[least]
            if difference <= band * (1 + 1e-9):
                return None
            names = sorted(
                (b for b in owned[broker] if b in reluctance), reverse=True
            )  # of equal ones the last by name
            willing = [b for b in names if reluctance[b] < RELUCTANT] or names
            movable = [b for b in willing if 2 * self.cost(b) <= difference + slack]
            if enough := [b for b in movable if difference - 2 * self.cost(b) <= band]:
                return min(enough, key=lambda b: (reluctance[b], self.cost(b))), least
            if movable:
                return min(movable, key=lambda b: (-self.cost(b), reluctance[b])), least
        return None
