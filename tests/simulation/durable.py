"""What a log on a simulated disk holds for certain: by its bytes that are synced, under names that are, whatever its process believes.

Guarantee: ``holds`` says of an entry what would be found now, were the power lost.  Files are read by and by: what was read once is read
again only from where it changed.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from stele.datanode.log import frames
from stele.datanode.log.segments import HEADER_BYTES, base_of, read_header, segment_name
from stele.datanode.log.snapshot_format import index_of
from stele.services.errors import LogDamaged
from tests.support.disks import UNALTERED, SimulatedDisk, _Inode


class _Segment:
    """One file, as far as its entries are right and follow one another."""

    __slots__ = ("_ends", "_inode", "_seed", "base", "begins_anew", "terms")

    def __init__(self, inode: _Inode, base: int) -> None:
        self._inode = inode
        self.base = base
        self.begins_anew = False
        self._seed: int | None = None
        self.terms: list[int] = []
        self._ends: list[int] = []  # where each entry ends

    def read(self) -> None:
        content, altered_at = self._inode.durable, self._inode.altered_at
        if altered_at == UNALTERED:
            return
        self._inode.altered_at = UNALTERED
        if altered_at < HEADER_BYTES:
            self._read_header(content)
        kept = bisect_right(self._ends, altered_at)
        del self.terms[kept:], self._ends[kept:]
        at = self._ends[-1] if self._ends else HEADER_BYTES
        while self._seed is not None and (frame := frames.frame_at(content, at, self._seed)) is not None:  # type: ignore[arg-type]
            if frame.kind == frames.FOOTER or frame.index != self.base + len(self.terms):
                break
            self.terms.append(frame.term)
            self._ends.append(at := frame.end)

    def _read_header(self, content: bytearray) -> None:
        self._seed = None
        try:
            header = read_header(bytes(content[:HEADER_BYTES]), Path(segment_name(self.base)))
        except LogDamaged:  # not whole yet
            return
        self._seed, self.begins_anew = header.seed, header.begins_anew


class DurableLog:
    """The log in ``folder``."""

    def __init__(self, disk: SimulatedDisk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._known: dict[_Inode, _Segment] = {}

    def holds(self, index: int, term: int) -> bool:
        """An entry, or a snapshot that stands for it."""
        for segment in self._segments():
            if segment.base <= index:
                place = index - segment.base
                if place < len(segment.terms) and segment.terms[place] == term:
                    return True
                break
        return any((index_of(name) or 0) >= index for name in self._disk.durable(self._folder))

    def terms(self) -> dict[int, int]:
        """Index → term of all its entries."""
        return {s.base + place: term for s in self._segments() for place, term in enumerate(s.terms)}

    def _segments(self) -> list[_Segment]:
        """Newest first; those are left out that a newer one, which begins the log anew, makes void."""
        found: list[_Segment] = []
        for name, inode in sorted(self._disk.durable(self._folder).items(), reverse=True):
            if (base := base_of(name)) is None:
                continue
            segment = self._known.get(inode)
            if segment is None:
                segment = self._known[inode] = _Segment(inode, base)
            segment.read()
            found.append(segment)
            if segment.begins_anew:
                break
        return found
