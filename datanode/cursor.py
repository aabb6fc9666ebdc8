"""One subscription's cursor: a floor and the ranges above it.

Guarantee: an offset is acknowledged for good once :meth:`Cursor.ack` has taken it, until a reset; the acknowledged set
is the same whatever the order and grouping of the acknowledgements.  Its size is bounded by ``ranges_max``: an
acknowledgement that would need more is refused whole.  What retention has removed counts as acknowledged: it can never
be delivered, and a cursor that waited for it would never move again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from stele.datanode.redeliveries import Redeliveries
from stele.datanode.snapshot_codec import SnapshotDecoder, SnapshotEncoder

RANGES_MAX = 10_000


class Cursor:
    """Offsets below ``ack_floor`` are acknowledged, and so are the ranges; a range never touches the floor or another
    range.  ``redeliveries`` counts for what is not acknowledged."""

    __slots__ = ("_firsts", "_lasts", "ack_floor", "generation", "redeliveries")

    def __init__(self, ack_floor: int, generation: int) -> None:
        self.ack_floor = ack_floor
        self.generation = generation
        self.redeliveries = Redeliveries()
        self._firsts = array("Q")
        self._lasts = array("Q")

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return list(zip(self._firsts, self._lasts, strict=True))

    @property
    def range_count(self) -> int:
        return len(self._firsts)

    def is_acked(self, offset: int) -> bool:
        at = bisect_right(self._firsts, offset) - 1
        return offset < self.ack_floor or (at >= 0 and offset <= self._lasts[at])

    def ack(self, ranges: Sequence[tuple[int, int]], ranges_max: int = RANGES_MAX) -> bool:
        """Adds ``ranges`` (first ≤ last).  False: nothing was changed, since more than ``ranges_max`` ranges would be
        left, and more than there were."""
        may_overflow = len(self._firsts) + len(ranges) > ranges_max
        before = (self.ack_floor, self._firsts[:], self._lasts[:]) if may_overflow else None
        for first, last in ranges:
            self._add(first, last)
        if before is not None and len(self._firsts) > max(ranges_max, len(before[1])):
            self.ack_floor, self._firsts, self._lasts = before
            return False
        self.redeliveries.keep(self._unacked)
        return True

    def redelivered(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Messages (first, last) were delivered again so often; of those that are acknowledged it is not remembered."""
        self.redeliveries.set(ranges)
        self.redeliveries.keep(self._unacked)

    def _unacked(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """What of ``first..last`` is not acknowledged."""
        first = max(first, self.ack_floor)
        at = bisect_left(self._lasts, first)
        while first <= last and at < len(self._firsts) and self._firsts[at] <= last:
            if first < self._firsts[at]:
                yield first, self._firsts[at] - 1
            first = self._lasts[at] + 1
            at += 1
        if first <= last:
            yield first, last

    def _add(self, first: int, last: int) -> None:
        if last < self.ack_floor:
            return
        # Every range that overlaps or touches first..last melts into it.
        lo = bisect_left(self._lasts, first - 1) if first > 0 else 0
        hi = bisect_right(self._firsts, last + 1)
        if lo < hi:
            first, last = min(first, self._firsts[lo]), max(last, self._lasts[hi - 1])
        if first <= self.ack_floor:
            self.ack_floor = last + 1
            del self._firsts[:hi], self._lasts[:hi]
        else:
            self._firsts[lo:hi] = array("Q", (first,))
            self._lasts[lo:hi] = array("Q", (last,))

    def trim(self, log_start: int) -> int:
        """Messages below ``log_start`` are gone: the floor is at least there; how many of them were not acknowledged.
        The generation stays: acknowledgements that are on their way are as good as before."""
        if log_start <= self.ack_floor:
            return 0
        below = bisect_left(self._firsts, log_start)
        spans = zip(self._firsts[:below], self._lasts[:below], strict=True)
        acked = sum(min(last, log_start - 1) - first + 1 for first, last in spans)
        unacked = log_start - self.ack_floor - acked
        self._add(self.ack_floor, log_start - 1)
        self.redeliveries.keep(self._unacked)
        return unacked

    def reset(self, ack_floor: int, generation: int) -> None:
        self.ack_floor, self.generation = ack_floor, generation
        self._firsts, self._lasts = array("Q"), array("Q")
        self.redeliveries.clear()

    def validate(self, high_watermark: int, ranges_max: int = RANGES_MAX) -> None:
        assert self.ack_floor <= high_watermark
        assert len(self._firsts) == len(self._lasts) <= ranges_max
        previous = self.ack_floor - 1
        for first, last in self.ranges:
            assert previous + 1 < first <= last < high_watermark
            previous = last
        self.redeliveries.validate(self.ack_floor, high_watermark)
        assert not any(self.is_acked(first) for first, _, _ in self.redeliveries.ranges)

    def encode(self, out: SnapshotEncoder) -> None:
        out.u64(self.ack_floor, self.generation)
        out.column(self._firsts)
        out.column(self._lasts)
        self.redeliveries.encode(out)

    @staticmethod
    def decode(source: SnapshotDecoder, *, with_redeliveries: bool) -> Cursor:
        cursor = Cursor(source.u64(), source.u64())
        cursor._firsts, cursor._lasts = source.column(), source.column()
        if with_redeliveries:
            cursor.redeliveries = Redeliveries.decode(source)
        return cursor
