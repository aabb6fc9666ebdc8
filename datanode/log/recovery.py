"""What the last segment holds after a crash: which bytes are entries, which are a torn tail, which are damage.

Only the last segment can have a torn tail; those before it were synced before it was created.

Frames are read from the start.  Let B be where the first byte stands that does not belong to a right frame: complete, checksum
right under the segment's seed, index one above the last, term not below the last.  What stands from B on is judged so:

1. B is the end of the file: nothing to do.
2. A right frame stands at B, but its index or term does not follow: **damage**.
3. No right frame begins anywhere after B: a **torn tail**, whatever the bytes are (a part of a frame, zeros, garbage).
4. A frame after B says that everything before it had been synced (SYNCED_BEFORE): **damage**: B was promised.
5. Frames after B, none of which says so: B was written by the last append before the crash, or last few that had no sync between
   them.  If sectors are missing there (a sector of 512 bytes that reads as zeros), the power went while the disk wrote sectors in
   an order of its own: a **torn tail**.  Else bytes changed that were there: **damage**.

A torn tail was never covered by a sync that returned, so nothing in it was promised, with one exception that no rule can see: if the
bytes of the very last append decay while they are the last, they look as if they had never arrived whole (3).

A tail is cut; damage is for the replica's peers to repair (R4.5), so it is refused with LogDamaged, and nothing is changed.
What was read may be in the operating system's cache only (the process was killed before its sync), so the caller syncs the file
before it counts any of it as durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stele.datanode.log import frames
from stele.datanode.log.segments import HEADER_BYTES, SegmentHeader, SegmentIndex
from stele.services.errors import LogDamaged
from stele.services.files import File

_CHUNK_BYTES = 1024 * 1024
_SECTOR_BYTES = 512
_HOLE_BYTES_MIN = 4
"""Fewer zeros than this at the end of a sector may well be the leading zeros of a length."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The entries at the start of a segment."""

    index: SegmentIndex
    frames_end: int
    last_index: int
    last_term: int


def scan(file: File, header: SegmentHeader, end: int) -> Scan:
    """All right frames from the header on, up to the first that is not or to ``end``."""
    index = SegmentIndex()
    position, expected, term = HEADER_BYTES, header.base, header.previous_term
    buffer, start = b"", HEADER_BYTES
    seed = header.seed
    while True:
        at = position - start
        have = len(buffer) - at
        needed = frames.HEAD_BYTES
        if have >= needed:
            head = frames.read_head(buffer, at)
            needed += head[0]
        # A length that no frame has is garbage, and must not be read into memory.
        if position + needed > end or needed > frames.HEAD_BYTES + frames.PAYLOAD_BYTES_MAX:
            break
        if have < needed:
            start = position
            buffer = file.pread(min(end - position, max(needed, _CHUNK_BYTES)), position)
            if len(buffer) < needed:
                break
            continue
        _, _, found_term, found, flagged = head
        kind = flagged & ~frames.SYNCED_BEFORE
        if found != expected or found_term < term or kind == frames.FOOTER:
            break
        # The checksum last: it is what costs, and covers the payload too.
        if not frames.fits(buffer, at, head, seed):
            break
        index.note(found, found_term, kind, position)
        term = found_term
        expected += 1
        position += needed
    return Scan(index, position, expected - 1, term)


def recover(file: File, header: SegmentHeader, path: Path) -> Scan:
    """The entries of the last segment.  LogDamaged where what follows them is not a torn tail; the file is not changed."""
    size = file.size()
    found = scan(file, header, size)
    if found.frames_end < size:
        rest = file.pread(size - found.frames_end, found.frames_end)
        reason = why_damaged(rest, found, header.seed)
        if reason is not None:
            raise LogDamaged(f"{path}: {reason} at byte {found.frames_end}", path=path, offset=found.frames_end)
    return found


def why_damaged(rest: bytes, found: Scan, seed: int) -> str | None:
    """None if ``rest``, which begins where the right frames end, is a torn tail; else what is wrong with it.  Pure."""
    search_from = 1
    first = frames.frame_at(rest, 0, seed)
    if first is not None:
        # A right footer is what a roll leaves that was interrupted before its successor was named.
        if first.kind != frames.FOOTER or first.index != found.last_index + 1:
            return f"entry {first.index} of term {first.term} follows {found.last_index} of term {found.last_term}"
        search_from = first.end
    torn = None
    try:
        for frame in frames.later_frames(rest, search_from, seed, found.last_index + 1):
            if first is not None:
                return "frames follow the footer"
            if frame.synced_before:
                return "bytes changed that were synced"
            if torn is None:  # the first one decides: what is missing in front of it was written before it
                torn = has_hole(rest[: _first_set_byte(rest, frame.start)], found.frames_end)
    except frames.SearchExhausted:
        return "bytes look like frames and are not"
    return "bytes changed before the last entry" if torn is False else None


def _first_set_byte(content: bytes, start: int) -> int:
    """A right frame's first bytes may be zeros in a sector that is not there."""
    while start < len(content) and content[start] == 0:
        start += 1
    return start


def has_hole(content: bytes, offset: int) -> bool:
    """Whether a whole sector, or what ``content`` holds of its first one, is zeros: a sector that never reached the disk.

    ``content`` stands at ``offset`` in its file, and a byte that is right and not zero follows: that one's sector is there.
    """
    start = 0
    end = _SECTOR_BYTES - offset % _SECTOR_BYTES
    while end <= len(content):
        if end - start >= _HOLE_BYTES_MIN and not any(content[start:end]):
            return True
        start, end = end, end + _SECTOR_BYTES
    return False
