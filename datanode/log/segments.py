"""One segment file: a header, frames with consecutive indexes, and, once sealed, a footer.

Header (64 bytes): magic, version, checksum seed, base index, and what it knows of its predecessor: base index, term of its last
entry, where its frames end, its size; and the last MEMBERSHIP entry before the base.  A header is synced and named (write aside,
sync, rename, sync of the folder) before a frame is written behind it, and only after the predecessor is sealed and synced.  So:

* a segment that has a successor is complete and durable, and its successor says how long it is;
* the chain of headers gives every segment's indexes and size without reading any frame;
* the term of the entry before the first one stays known after retention has dropped it;
* membership entries are found without reading the segments that hold none.

A header without a predecessor *begins anew*: segments with lower bases are void, whatever they hold.  That is how a log is reset
in one step, the naming of a file.

Footer: a frame of kind FOOTER that carries the sparse index, the term boundaries and where the membership entries are.  It saves a
scan; if it is damaged, or of another version, the scan is made.  It goes when the segment is cut.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from crc32c import crc32c

from stele.services.errors import LogDamaged
from stele.services.files import File
from stele.services.raft.storage import MEMBERSHIP

_MAGIC = b"STLG"
_VERSION = 1
_HEADER = struct.Struct(">4sHHIQQQQQQ")
_CRC = struct.Struct(">I")
_FOOTER_VERSION = 2
_FOOTER_COUNTS = struct.Struct(">IIII")
HEADER_BYTES = _HEADER.size + _CRC.size
INDEX_EVERY_BYTES = 16 * 1024
"""Distance of sparse index points: 32 KiB of memory for a segment of 64 MiB."""
MENDED_SUFFIX = ".mended"
"""Of a segment that is being written anew (mending.py); what a crash leaves under such a name is worth nothing."""
DAMAGED_SUFFIX = ".damaged"
"""Of what was found damaged and is kept: nobody looks for it there."""
_SEGMENT_NAME = re.compile(r"[0-9]{20}\.seg")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself and of the one before it."""

    base: int
    seed: int
    previous_base: int = 0
    previous_term: int = 0
    previous_frames_end: int = 0
    previous_bytes: int = 0
    previous_membership: int = 0  # index of the last MEMBERSHIP entry below the base; 0: none is known

    @property
    def begins_anew(self) -> bool:
        """Nothing that stands before this segment belongs to the log."""
        return self.previous_base == 0

    def to_bytes(self) -> bytes:
        head = _HEADER.pack(
            _MAGIC,
            _VERSION,
            0,
            self.seed,
            self.base,
            self.previous_base,
            self.previous_term,
            self.previous_frames_end,
            self.previous_bytes,
            self.previous_membership,
        )
        return head + _CRC.pack(crc32c(head))


def read_header(content: bytes, path: Path) -> SegmentHeader:
    """The header at the start of ``content``.  LogDamaged unless every byte is as written."""
    if len(content) < HEADER_BYTES:
        raise LogDamaged(f"{path}: the segment's header is cut off after {len(content)} bytes", path=path, offset=0)
    head = content[: _HEADER.size]
    (crc,) = _CRC.unpack_from(content, _HEADER.size)
    magic, version, flags, seed, base, previous_base, previous_term, frames_end, size, membership = _HEADER.unpack(head)
    if crc32c(head) != crc or magic != _MAGIC:
        raise LogDamaged(f"{path}: the segment's header is damaged", path=path, offset=0)
    if version != _VERSION or flags:
        raise LogDamaged(f"{path}: segment version {version} is not known; accepted: {_VERSION}", path=path, offset=0)
    if segment_name(base) != path.name:
        raise LogDamaged(f"{path}: the segment's header says it starts at {base}", path=path, offset=0)
    return SegmentHeader(base, seed, previous_base, previous_term, frames_end, size, membership)


def segment_name(base: int) -> str:
    return f"{base:020d}.seg"


def base_of(name: str) -> int | None:
    """The base index that a file name gives; None if it does not name a segment."""
    return int(name[:20]) if _SEGMENT_NAME.fullmatch(name) else None


class SegmentIndex:
    """Where entries stand: a point every INDEX_EVERY_BYTES, the index at which each term begins, the membership entries."""

    __slots__ = ("_indexes", "_memberships", "_offsets", "_term_starts", "_terms")

    def __init__(self) -> None:
        self._indexes = array("Q")
        self._offsets = array("I")
        self._term_starts = array("Q")
        self._terms = array("Q")
        self._memberships = array("Q")

    def note(self, index: int, term: int, kind: int, offset: int) -> None:
        """The next entry: must be called for each, in order."""
        if not self._offsets or offset - self._offsets[-1] >= INDEX_EVERY_BYTES:
            self._indexes.append(index)
            self._offsets.append(offset)
        if not self._terms or term != self._terms[-1]:
            self._term_starts.append(index)
            self._terms.append(term)
        if kind == MEMBERSHIP:
            self._memberships.append(index)

    @property
    def memberships(self) -> list[int]:
        """Indexes of the MEMBERSHIP entries, in order."""
        return list(self._memberships)

    @property
    def last_membership(self) -> int:
        return self._memberships[-1] if self._memberships else 0

    def floor(self, index: int) -> tuple[int, int]:
        """The last point at or before ``index``: its index and offset."""
        at = bisect_right(self._indexes, index) - 1
        return self._indexes[at], self._offsets[at]

    def offset_after(self, index: int, end: int) -> int:
        """The offset of the first point after ``index``, else ``end``: entries up to ``index`` lie before it."""
        at = bisect_right(self._indexes, index)
        return self._offsets[at] if at < len(self._offsets) else end

    def term_at(self, index: int) -> int:
        return self._terms[bisect_right(self._term_starts, index) - 1]

    def cut(self, index: int) -> None:
        """Forgets ``index`` and everything after it."""
        points = bisect_left(self._indexes, index)
        del self._indexes[points:], self._offsets[points:]
        terms = bisect_left(self._term_starts, index)
        del self._term_starts[terms:], self._terms[terms:]
        del self._memberships[bisect_left(self._memberships, index) :]

    def to_bytes(self) -> bytes:
        counts = _FOOTER_COUNTS.pack(_FOOTER_VERSION, len(self._indexes), len(self._terms), len(self._memberships))
        columns = (self._indexes, self._term_starts, self._terms, self._memberships)
        longs = b"".join(struct.pack(f">{len(column)}Q", *column) for column in columns)
        return counts + longs + struct.pack(f">{len(self._offsets)}I", *self._offsets)

    @classmethod
    def from_bytes(cls, content: bytes) -> SegmentIndex | None:
        """None unless ``content`` has the shape that ``to_bytes`` makes."""
        if len(content) < _FOOTER_COUNTS.size:
            return None
        version, points, terms, memberships = _FOOTER_COUNTS.unpack_from(content)
        longs = points + 2 * terms + memberships
        if version != _FOOTER_VERSION or not points or not terms:
            return None
        if len(content) != _FOOTER_COUNTS.size + 8 * longs + 4 * points:
            return None
        numbers = iter(struct.unpack_from(f">{longs}Q{points}I", content, _FOOTER_COUNTS.size))
        index = cls()
        index._indexes.extend(islice(numbers, points))
        index._term_starts.extend(islice(numbers, terms))
        index._terms.extend(islice(numbers, terms))
        index._memberships.extend(islice(numbers, memberships))
        index._offsets.extend(numbers)
        return index


@dataclass(slots=True, eq=False)
class Segment:
    """A segment as the log holds it.  ``file`` and ``index`` of a sealed one are there while it is in use (segment_list.py)."""

    path: Path
    header: SegmentHeader
    frames_end: int
    file_bytes: int
    last_index: int
    last_term: int
    file: File | None = None
    index: SegmentIndex | None = None
    pins: int = 0
    leaving: bool = False
    synced_end: int = field(default=HEADER_BYTES)

    @property
    def base(self) -> int:
        return self.header.base

    @property
    def is_empty(self) -> bool:
        return self.last_index < self.header.base
