"""Finding stored batches in the log again.

Guarantee: what is returned are exactly the stored batches from ``offset`` on, in order, each at the offset it was given
when it was applied, and nothing that is not applied.  A batch that contains ``offset`` comes whole.  The log may begin
behind 1: no entry in front of what the snapshots vouch for is asked for.  Entries that are damaged cost the messages that stand in
them: those are named, and what stands before and behind them is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stele.datanode import commands
from stele.datanode.commands import CommandKind
from stele.datanode.partition import PartitionState
from stele.services.errors import LogDamaged
from stele.services.raft.storage import REGULAR, Entry, Snapshot

PLACES_MAX = 256
CHUNK_BYTES_MIN = 16 << 10  # read at once, so that small entries do not cost a read each
_APPEND = bytes((CommandKind.APPEND,))


@dataclass(frozen=True, slots=True)
class LocatedBatch:
    base_offset: int
    batch: bytes


@dataclass(frozen=True, slots=True, order=True)
class LogFloor:
    """Messages from ``offset`` on stand in entries from ``index`` on, and all of these are in the log."""

    index: int = 1
    offset: int = 0


def log_floor(first_index: int, snapshots: Sequence[Snapshot], log_start: int, restored: int = 0) -> LogFloor:
    """What the log still holds, going by the snapshots of this replica.

    A log that was shortened begins at or before the entry behind one of them, and where that entry's messages begin is the
    snapshot's mark.  The largest one whose mark the partition's own start has reached is behind everything that compaction
    may remove, now or while somebody reads.  A replica whose start has not reached any of them (it was given a snapshot, or was
    started from one, and applies the trim later) holds what its oldest one leaves.  For the moment in which a snapshot that
    was given is in force and not yet listed, ``restored`` is its mark: the log begins right behind it.
    """
    usable = [s for s in snapshots if s.index + 1 >= first_index]
    reached = [s for s in usable if s.mark <= log_start]
    if reached:
        return LogFloor(reached[-1].index + 1, reached[-1].mark)
    if usable and first_index > 1:
        return LogFloor(usable[0].index + 1, usable[0].mark)
    return LogFloor(first_index, restored) if first_index > 1 else LogFloor()


class BatchReader:
    """Reads one partition.  Remembers where the last readers stopped, so that reading on needs no walk from a sparse
    point."""

    def __init__(
        self,
        partition: PartitionState,
        entries: Callable[[int, int, int], Sequence[Entry]],
        log_floor: Callable[[], LogFloor] = LogFloor,
    ) -> None:
        """``entries(first, last, bytes_max)``: committed entries of the log from ``first`` on, at least that one."""
        self._partition = partition
        self._entries = entries
        self._floor = log_floor
        self._places: OrderedDict[int, tuple[int, int]] = OrderedDict()  # next offset → (index, offset of that entry)
        self._behind: OrderedDict[int, LogFloor] = OrderedDict()  # damaged entry → where the messages behind it begin

    @property
    def log_start(self) -> int:
        """The first offset that can be read here."""
        return max(self._partition.log_start, self._floor().offset)

    def forget(self) -> None:
        """The partition is another one than before, or damage is mended."""
        self._places.clear()
        self._behind.clear()

    def read(self, offset: int, bytes_max: int) -> list[LocatedBatch]:
        """Batches from ``offset`` on, at least one if there is one, until they exceed ``bytes_max`` or damage follows.  LogDamaged (facts
        ``first``, ``last``: the offsets that cannot be read) if ``offset`` stands in a damaged entry."""
        partition = self._partition
        start = self._start(offset) if self.log_start <= offset < partition.high_watermark else None
        if start is None:
            return []
        found: list[LocatedBatch] = []
        size = 0
        index, at = start
        while at < partition.high_watermark and not (found and size >= bytes_max):
            try:
                entries = self._entries(index, partition.applied_index, max(bytes_max - size, CHUNK_BYTES_MIN))
            except LogDamaged as e:
                if found:
                    break
                behind = self._behind_damage(index, at)
                if offset < behind.offset:
                    raise LogDamaged(
                        f"offsets {at} to {behind.offset - 1} cannot be read: {e}",
                        **{**e.facts, "first": at, "last": behind.offset - 1},
                    ) from e
                index, at = behind.index, behind.offset
                continue
            assert entries, f"entry {index} is applied and not in the log"
            for entry in entries:
                index, entry_offset = entry.index, at
                for begin, end, count in self._stored_in(entry):
                    if at + count > offset:
                        if found and size + end - begin > bytes_max:
                            self._remember(at, index, entry_offset)
                            return found
                        found.append(LocatedBatch(at, entry.payload[begin:end]))
                        size += end - begin
                    at += count
                index += 1
        self._remember(at, index, at)
        return found

    def _stored_in(self, entry: Entry) -> Iterator[tuple[int, int, int]]:
        """``(begin, end, record_count)`` of each batch of ``entry`` that was stored."""
        mask = self._partition.offsets.mask(entry.index)
        if entry.kind != REGULAR or mask == 0 or entry.payload[:1] != _APPEND:
            return
        for i, (begin, end, header) in enumerate(commands.batches_of(entry.payload)):
            if mask is None or mask >> i & 1:
                yield begin, end, header.record_count

    def _behind_damage(self, index: int, at: int) -> LogFloor:
        """Where the messages begin again behind the damaged entry ``index``, whose own begin at offset ``at``.  How many those are is
        not to be had from it: it is counted back from the next place whose offset is known."""
        known = self._behind.get(index)
        if known is None:
            known = self._behind[index] = self._count_back(index, at)
            if len(self._behind) > PLACES_MAX:
                self._behind.popitem(last=False)
        return known

    def _count_back(self, index: int, at: int) -> LogFloor:
        partition = self._partition
        end = partition.offsets.next_point(at) or (partition.applied_index + 1, partition.high_watermark)
        begins, count, next_index = index + 1, 0, index + 1
        while next_index < end[0]:
            try:
                entries = self._entries(next_index, end[0] - 1, CHUNK_BYTES_MIN)
            except LogDamaged:
                next_index += 1
                begins, count = next_index, 0
                continue
            count += sum(records for entry in entries for _, _, records in self._stored_in(entry))
            next_index = entries[-1].index + 1
        return LogFloor(begins, end[1] - count)

    def _start(self, offset: int) -> tuple[int, int] | None:
        located = self._partition.offsets.locate(offset)
        if located is None:
            return None
        # A trim forgets what the walk from a place before the oldest point needs, although the log may still hold the entries.
        at = max(LogFloor(*located), LogFloor(*self._places.get(offset, located)), self._floor())
        return at.index, at.offset

    def _remember(self, next_offset: int, index: int, entry_offset: int) -> None:
        self._places[next_offset] = (index, entry_offset)
        self._places.move_to_end(next_offset)
        if len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
