"""Sets of offsets as disjoint ranges.  Pure.

Guarantee: memory grows with the number of ranges, never with the number of offsets; neighbours with equal values are one range.
All bounds are included, as on the wire.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class RangeMap(Generic[V]):
    """Offsets mapped to values.  ``count`` is the number of offsets, ``len()`` the number of ranges."""

    __slots__ = ("_firsts", "_lasts", "_values", "count")

    def __init__(self, items: Iterable[tuple[int, int, V]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._values: list[V] = []
        self.count = 0
        for first, last, value in items:
            self.set(first, last, value)

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return iter(list(zip(self._firsts, self._lasts, self._values, strict=True)))

    def __contains__(self, offset: int) -> bool:
        i = bisect_left(self._lasts, offset)
        return i < len(self._firsts) and self._firsts[i] <= offset

    def head(self) -> tuple[int, int, V] | None:
        """The lowest range."""
        return (self._firsts[0], self._lasts[0], self._values[0]) if self._firsts else None

    def get(self, offset: int) -> V | None:
        i = bisect_left(self._lasts, offset)
        return self._values[i] if i < len(self._firsts) and self._firsts[i] <= offset else None

    def overlapping(self, first: int, last: int) -> list[tuple[int, int, V]]:
        """The ranges of which a part lies in ``first..last``, whole."""
        found: list[tuple[int, int, V]] = []
        i = bisect_left(self._lasts, first)
        while i < len(self._firsts) and self._firsts[i] <= last:
            found.append((self._firsts[i], self._lasts[i], self._values[i]))
            i += 1
        return found

    def within(self, first: int, last: int) -> list[tuple[int, int, V]]:
        """What is mapped in ``first..last``, clipped to it."""
        return [(max(first, a), min(last, b), v) for a, b, v in self.overlapping(first, last)]

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """What is not mapped in ``first..last``."""
        found: list[tuple[int, int]] = []
        for taken_first, taken_last, _ in self.within(first, last):
            if first < taken_first:
                found.append((first, taken_first - 1))
            first = taken_last + 1
        if first <= last:
            found.append((first, last))
        return found

    def next_free(self, offset: int) -> int:
        """The lowest offset at or above ``offset`` that is not mapped."""
        i = bisect_left(self._lasts, offset)
        while i < len(self._firsts) and self._firsts[i] <= offset:
            offset = self._lasts[i] + 1
            i += 1
        return offset

    def next_taken(self, offset: int) -> int | None:
        """The lowest mapped offset at or above ``offset``."""
        i = bisect_left(self._lasts, offset)
        return max(offset, self._firsts[i]) if i < len(self._firsts) else None

    def take(self, first: int, last: int) -> list[tuple[int, int, V]]:
        """Removes ``first..last`` and returns what was mapped there."""
        taken = self.within(first, last)
        if not taken:
            return taken
        i = bisect_left(self._lasts, first)
        j = i + len(taken)
        rest: list[tuple[int, int, V]] = []
        if self._firsts[i] < first:
            rest.append((self._firsts[i], first - 1, self._values[i]))
        if self._lasts[j - 1] > last:
            rest.append((last + 1, self._lasts[j - 1], self._values[j - 1]))
        self._splice(i, j, rest)
        self.count -= sum(b - a + 1 for a, b, _ in taken)
        return taken

    def set(self, first: int, last: int, value: V) -> None:
        """Maps ``first..last`` to ``value``, whatever was there."""
        if first > last:
            raise ValueError(f"a range runs upwards, not {first}..{last}")
        self.take(first, last)
        self.count += last - first + 1
        i = j = bisect_left(self._lasts, first)
        if i > 0 and self._lasts[i - 1] == first - 1 and self._values[i - 1] == value:
            i -= 1
            first = self._firsts[i]
        if j < len(self._firsts) and self._firsts[j] == last + 1 and self._values[j] == value:
            last = self._lasts[j]
            j += 1
        self._splice(i, j, [(first, last, value)])

    def _splice(self, i: int, j: int, items: list[tuple[int, int, V]]) -> None:
        self._firsts[i:j] = [a for a, _, _ in items]
        self._lasts[i:j] = [b for _, b, _ in items]
        self._values[i:j] = [v for _, _, v in items]

    def validate(self) -> None:
        assert len(self._firsts) == len(self._lasts) == len(self._values)
        before: tuple[int, V] | None = None
        for first, last, value in self:
            assert first <= last, (first, last)
            if before is not None:
                assert before[0] < first, (before, first)
                assert before[0] + 1 < first or before[1] != value, "neighbours with equal values must be one range"
            before = (last, value)
        assert self.count == sum(b - a + 1 for a, b, _ in self)
