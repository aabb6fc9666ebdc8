"""How often messages that are not acknowledged were delivered again, for one cursor.

Guarantee: the same on every replica that applied the same entries; at most ``RANGES_MAX`` ranges, of which those with the highest counts
are kept: they are the messages that fail again and again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from stele.datanode.snapshot_codec import SnapshotDamaged, SnapshotDecoder, SnapshotEncoder

RANGES_MAX = 1_000
COUNT_MAX = (1 << 32) - 1


class Redeliveries:
    """Disjoint ranges of offsets, ascending, each with a count above 0."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, int]] = []

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """(first, last, count), both ends included."""
        return list(self._ranges)

    def set(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        for first, last, count in ranges:
            kept = [(first, last, count)]
            for a, b, known in self._ranges:
                if a < first:
                    kept.append((a, min(b, first - 1), known))
                if b > last:
                    kept.append((max(a, last + 1), b, known))
            self._ranges = kept
        self._ranges.sort()
        self._prune()

    def keep(self, unacked: Callable[[int, int], Iterable[tuple[int, int]]]) -> None:
        """Forgets what is delivered no more: ``unacked`` gives the parts of a range that still are."""
        if self._ranges:
            self._ranges = [(a, b, count) for first, last, count in self._ranges for a, b in unacked(first, last)]
            self._prune()

    def clear(self) -> None:
        self._ranges = []

    def _prune(self) -> None:
        if (surplus := len(self._ranges) - RANGES_MAX) > 0:
            least = set(sorted(self._ranges, key=lambda r: (r[2], -r[0]))[:surplus])
            self._ranges = [r for r in self._ranges if r not in least]

    def validate(self, floor: int, end: int) -> None:
        assert len(self._ranges) <= RANGES_MAX
        previous = floor - 1
        for first, last, count in self._ranges:
            assert previous < first <= last < end
            assert 0 < count <= COUNT_MAX
            previous = last

    def encode(self, out: SnapshotEncoder) -> None:
        for column in range(3):
            out.column(array("Q", (r[column] for r in self._ranges)))

    @staticmethod
    def decode(source: SnapshotDecoder) -> Redeliveries:
        redeliveries = Redeliveries()
        columns = [source.column() for _ in range(3)]
        if len({len(column) for column in columns}) > 1:
            raise SnapshotDamaged("columns of redeliveries of different lengths")
        redeliveries._ranges = list(zip(*columns, strict=True))
        return redeliveries
