"""Stored batches kept in memory, for consumers that follow the end of the log and for several that read the same.  Pure: no clock,
socket or task here.

Guarantee: never more than ``bytes_max`` bytes of batches; what was used longest ago goes first. A batch never changes
once it is stored, so nothing here is ever stale.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass

BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class StoredBatch:
    base_offset: int
    last_offset: int
    data: bytes


class BatchCache:
    """One per broker; by group and offset."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._batches: OrderedDict[tuple[int, int], StoredBatch] = OrderedDict()  # least recently used first
        self._bases: dict[int, list[int]] = {}  # group → base offsets, in order
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def get(self, group: int, offset: int) -> StoredBatch | None:
        """The batch that contains ``offset``."""
        bases = self._bases.get(group)
        at = bisect_right(bases, offset) - 1 if bases else -1
        if bases is None or at < 0:
            return None
        batch = self._batches[group, bases[at]]
        if batch.last_offset < offset:
            return None
        self._batches.move_to_end((group, batch.base_offset))
        return batch

    def put(self, group: int, batch: StoredBatch) -> None:
        key = (group, batch.base_offset)
        if key in self._batches or len(batch.data) > self._bytes_max:
            return
        self._batches[key] = batch
        insort(self._bases.setdefault(group, []), batch.base_offset)
        self.bytes += len(batch.data)
        while self.bytes > self._bytes_max:
            oldest = next(iter(self._batches))
            self._remove(*oldest)

    def forget(self, group: int) -> None:
        """The group is served elsewhere, or gone."""
        for base in list(self._bases.get(group, ())):
            self._remove(group, base)

    def _remove(self, group: int, base: int) -> None:
        self.bytes -= len(self._batches.pop((group, base)).data)
        bases = self._bases[group]
        del bases[bisect_right(bases, base) - 1]
        if not bases:
            del self._bases[group]

    def validate(self) -> None:
        assert self.bytes == sum(len(b.data) for b in self._batches.values()) <= self._bytes_max
        assert {(g, b) for g, bases in self._bases.items() for b in bases} == set(self._batches)
        assert all(bases == sorted(bases) and bases for bases in self._bases.values())
