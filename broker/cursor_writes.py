"""What of one subscription is still to be written to its cursor: acknowledgements, and how often messages were delivered again.  Pure.

Guarantee: an acknowledgement is confirmed only when all that it names is durable; one write is under way at a time, and what a refused
one had goes with a later one.  A write has no more ranges than the cursor takes; where there is no room for holes, the floor still rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stele.broker.ranges import RangeMap

CURSOR_RANGES_MAX = (
    10_000  # what the partition's state takes for one cursor; past it acknowledgements wait for lower ones
)
REDELIVERED_RANGES_MAX = 100  # of one write; what is left goes with the next

Range = tuple[int, int]
Redelivered = tuple[int, int, int]  # first, last, how often


@dataclass(slots=True)
class _AckRequests:
    """Acknowledgements waiting for one write: (consumer, request ids)."""

    of: dict[int, list[int]] = field(default_factory=dict)

    def add(self, consumer: int, request_id: int) -> None:
        self.of.setdefault(consumer, []).append(request_id)


@dataclass(frozen=True, slots=True)
class CursorWrite:
    """Acknowledged ranges, and counts of redeliveries."""

    ranges: tuple[Range, ...]
    redelivered: tuple[Redelivered, ...]


class CursorWrites:
    """``acked`` are the acknowledged ranges at or above the floor, kept by the subscription."""

    def __init__(self, acked: RangeMap[None]) -> None:
        self._acked = acked
        self._dirty: RangeMap[None] = RangeMap()  # acknowledged, not yet handed out for writing
        self._writing: RangeMap[None] = RangeMap()
        self._counts: RangeMap[int] = RangeMap()
        self._counts_writing: RangeMap[int] = RangeMap()
        self._requests = _AckRequests()
        self._requests_writing: _AckRequests | None = None
        self._floor_only = False

    def ack(self, first: int, last: int) -> None:
        """Acknowledged, and not before."""
        self._dirty.set(first, last, None)

    def redeliver(self, first: int, last: int, count: int) -> None:
        self._counts.set(first, last, count)

    def settle(self, first: int, last: int) -> None:
        """These are delivered no more: how often they were is of no interest."""
        self._counts.take(first, last)
        self._counts_writing.take(first, last)

    def ask(self, consumer: int, request_id: int) -> None:
        """To be confirmed once everything that was acknowledged so far is durable."""
        self._requests.add(consumer, request_id)

    def forget(self, consumer: int) -> None:
        self._requests.of.pop(consumer, None)
        if self._requests_writing is not None:
            self._requests_writing.of.pop(consumer, None)

    def forget_all(self) -> None:
        self._requests = _AckRequests()
        if self._requests_writing is not None:
            self._requests_writing = _AckRequests()

    @property
    def is_due(self) -> bool:
        return bool(len(self._dirty) or self._requests.of or len(self._counts))

    @property
    def is_under_way(self) -> bool:
        return self._requests_writing is not None

    def next(self, floor: int) -> CursorWrite | dict[int, list[int]] | None:
        """The next write; or what is to be confirmed at once, because all of it was durable before; None: nothing now."""
        if self.is_under_way or not self.is_due:
            return None
        # One range less than the cursor takes: what lies below the floor makes one more.
        is_full = len(self._acked) >= CURSOR_RANGES_MAX
        if is_full or self._floor_only:
            self._floor_only = False
            if (write := self._floor_write(floor)) is not None or is_full:
                return write
        requests, self._requests = self._requests, _AckRequests()
        if not len(self._dirty) and not len(self._counts):
            return requests.of
        self._writing, self._dirty = self._whole_ranges(floor), RangeMap()
        for _, (first, last, count) in zip(range(REDELIVERED_RANGES_MAX), self._counts, strict=False):
            self._counts.take(first, last)
            self._counts_writing.set(first, last, count)
        self._requests_writing = requests
        return CursorWrite(tuple((a, b) for a, b, _ in self._writing), tuple(self._counts_writing))

    def _floor_write(self, floor: int) -> CursorWrite | None:
        """What is below the floor, which makes no hole.  Nobody is answered by it."""
        below = self._dirty.take(0, floor - 1)
        if not below:
            return None
        self._writing.set(below[0][0], floor - 1, None)
        self._requests_writing = _AckRequests()
        return CursorWrite(((below[0][0], floor - 1),), ())

    def _whole_ranges(self, floor: int) -> RangeMap[None]:
        """The acknowledged ranges that what is to be written lies in: no more of them than the cursor holds."""
        whole: RangeMap[None] = RangeMap()
        lowest = self._dirty.head()
        if lowest is not None and lowest[0] < floor:
            whole.set(lowest[0], floor - 1, None)  # all of it is acknowledged
        for first, last, _ in self._dirty:
            if last >= floor:
                for a, b, _ in self._acked.overlapping(max(first, floor), last):
                    whole.set(a, b, None)
        return whole

    def succeeded(self) -> dict[int, list[int]]:
        """The write is durable; what is to be confirmed."""
        requests, self._requests_writing = self._requests_writing, None
        self._writing, self._counts_writing = RangeMap(), RangeMap()
        return requests.of if requests is not None else {}

    def refused(self) -> None:
        """The cursor has no room for it: a later one has it again, with what has come since."""
        if self._requests_writing is None:
            return
        self._floor_only = True
        for first, last, _ in self._writing:
            self._dirty.set(first, last, None)
        for first, last, count in self._counts_writing:
            for a, b in self._counts.gaps(first, last):
                self._counts.set(a, b, count)
        for consumer, request_ids in self._requests.of.items():
            self._requests_writing.of.setdefault(consumer, []).extend(request_ids)
        self._requests, self._requests_writing = self._requests_writing, None
        self._writing, self._counts_writing = RangeMap(), RangeMap()

    def maps(self) -> Iterator[RangeMap[None] | RangeMap[int]]:
        yield from (self._dirty, self._writing, self._counts, self._counts_writing)

    def validate(self) -> None:
        for ranges in self.maps():
            ranges.validate()
        assert len(self._writing) <= CURSOR_RANGES_MAX
        assert len(self._counts_writing) <= REDELIVERED_RANGES_MAX
