"""Finding stored batches in the log again.

Guarantee: what is returned are exactly the stored batches from ``offset`` on, in order, each at the offset it was given
when it was applied, and nothing that is not applied.  A batch that contains ``offset`` comes whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from datanode import commands
from datanode.commands import Kind
from datanode.partition import Partition

PLACES_MAX = 256


@dataclass(frozen=True, slots=True)
class Stored:
    base_offset: int
    batch: bytes


class Reader:
    """Reads one partition.  Remembers where the last readers stopped, so that reading on needs no walk from a sparse
    point."""

    def __init__(self, partition: Partition, payload_at: Callable[[int], bytes | None]) -> None:
        """``payload_at``: the payload of the committed entry at an index; None if the entry is no command."""
        self._partition = partition
        self._payload_at = payload_at
        self._places: OrderedDict[int, tuple[int, int]] = OrderedDict()  # next offset → (index, offset of that entry)

    def read(self, offset: int, bytes_max: int) -> list[Stored]:
        """Batches from ``offset`` on, at least one if there is one, until they exceed ``bytes_max``."""
        partition = self._partition
        start = self._start(offset) if partition.log_start <= offset < partition.high_watermark else None
        if start is None:
            return []
        found: list[Stored] = []
        size = 0
        index, at = start
        while at < partition.high_watermark and index <= partition.applied_index and not (found and size >= bytes_max):
            payload = self._payload_at(index)
            mask = partition.offsets.mask(index)
            if payload is None or payload[0] != Kind.APPEND or mask == 0:
                index += 1
                continue
            entry_offset = at
            for i, (begin, end, header) in enumerate(commands.batches_of(payload)):
                if mask is not None and not mask >> i & 1:
                    continue
                if at + header.record_count > offset:
                    if found and size + end - begin > bytes_max:
                        self._remember(at, index, entry_offset)
                        return found
                    found.append(Stored(at, payload[begin:end]))
                    size += end - begin
                at += header.record_count
            index += 1
        self._remember(at, index, at)
        return found

    def _start(self, offset: int) -> tuple[int, int] | None:
        return self._places.get(offset) or self._partition.offsets.locate(offset)

    def _remember(self, next_offset: int, index: int, entry_offset: int) -> None:
        self._places[next_offset] = (index, entry_offset)
        self._places.move_to_end(next_offset)
        if len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
