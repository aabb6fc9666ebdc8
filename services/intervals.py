"""Sets of ids, such as those whose owner is gone for good (R2.2, R3.6).  Pure.

Guarantee: membership is exact for ever, and the size grows with the number of gaps, not with the number of members: a cluster that has
buried ten thousand stores in a row remembers them as one interval.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stele.services.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """A set of whole numbers.  Immutable; ``intervals`` holds (first, last) pairs, both included: sorted, disjoint, non-adjacent."""

    intervals: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(pairs: Iterable[Sequence[int]]) -> IntervalSet:
        """The set that ``pairs`` of (first, last) cover, in any order and overlapping or not."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted((int(p[0]), int(p[1])) for p in pairs):
            if last < first:
                raise InvalidArgument(f"an interval ends at or after its start, not {first}..{last}")
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return IntervalSet(tuple(merged))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.intervals, number, key=lambda i: i[0]) - 1
        return at >= 0 and number <= self.intervals[at][1]

    def add(self, number: int) -> IntervalSet:
        """The set with ``number`` in it as well."""
        return self if number in self else IntervalSet.of((*self.intervals, (number, number)))

    def pairs(self) -> list[list[int]]:
        """The intervals as JSON writes them."""
        return [list(i) for i in self.intervals]
