"""Entries from a segment: one ``pread`` for many frames, every frame checked; what stands before a damaged one is given."""

from __future__ import annotations

from stele.datanode.log import frames
from stele.datanode.log.segments import INDEX_EVERY_BYTES, Segment, SegmentIndex
from stele.services.errors import LogDamaged
from stele.services.files import File
from stele.services.raft.storage import Entry

_READ_BYTES_MIN = INDEX_EVERY_BYTES
_READ_BYTES_MAX = 1024 * 1024 + 64 * 1024


def read_run(
    file: File, segment: Segment, span: tuple[int, int, int], first: int, last: int, bytes_max: int, at_least_one: bool
) -> list[Entry]:
    """Entries ``first..last`` up to ``bytes_max`` payload bytes, cut off before the first that does not check; LogDamaged (fact
    ``index``) if that is ``first``.  ``span`` is an index at or before ``first``, the offset of its frame, and an offset behind the
    frame of ``last``."""
    expected, position, end = span
    seed = segment.header.seed
    entries: list[Entry] = []
    left = bytes_max
    buffer, start = b"", position
    while expected <= last:
        at = position - start
        have = len(buffer) - at
        needed = frames.HEAD_BYTES
        if have >= needed:
            length, _, term, index, kind = head = frames.read_head(buffer, at)
            needed += length
            if index != expected or position + needed > end:
                return _before_damage(entries, segment, position, max(first, expected))
            if expected >= first and length > left and (entries or not at_least_one):
                break
        if have < needed and expected < first and needed > frames.HEAD_BYTES:
            position += needed
            expected += 1
            continue
        if have < needed:
            start = position
            ahead = max(_READ_BYTES_MIN, min(left + _READ_BYTES_MIN, _READ_BYTES_MAX), needed)
            buffer = file.pread(min(ahead, end - position), position)
            if len(buffer) < needed:
                return _before_damage(entries, segment, position, max(first, expected))
            continue
        if expected >= first:
            if not frames.fits(buffer, at, head, seed):
                return _before_damage(entries, segment, position, expected)
            payload = buffer[at + frames.HEAD_BYTES : at + needed]
            entries.append(Entry(index, term, kind & ~frames.SYNCED_BEFORE, payload))
            left -= length
        position += needed
        expected += 1
    return entries


def read_damaged(file: File, segment: Segment, sparse: SegmentIndex, index: int) -> Entry | None:
    """Entry ``index`` with its bytes as they stand, although they do not check; None unless the frames around it say how long it is."""
    try:
        position = locate(file, segment, sparse, index)
    except LogDamaged:
        return None
    content = file.pread(frames.HEAD_BYTES, position)
    if len(content) < frames.HEAD_BYTES:
        return None
    length, _, term, found, kind = frames.read_head(content, 0)
    end = position + frames.HEAD_BYTES + length
    if found != index or end > segment.frames_end:
        return None
    if end < segment.frames_end:
        following = file.pread(frames.HEAD_BYTES, end)
        if len(following) < frames.HEAD_BYTES or frames.read_head(following, 0)[3] != index + 1:
            return None
    payload = file.pread(length, position + frames.HEAD_BYTES)
    return Entry(index, term, kind & ~frames.SYNCED_BEFORE, payload)


def locate(file: File, segment: Segment, sparse: SegmentIndex, index: int) -> int:
    """The offset of the frame of ``index``.  LogDamaged if the frames before it do not lead there."""
    expected, position = sparse.floor(index)
    while expected < index:
        content = file.pread(frames.HEAD_BYTES, position)
        if len(content) < frames.HEAD_BYTES:
            raise _damaged(segment, position, index)
        length, _, _, found, _ = frames.read_head(content, 0)
        if found != expected or position + frames.HEAD_BYTES + length > segment.frames_end:
            raise _damaged(segment, position, index)
        position += frames.HEAD_BYTES + length
        expected += 1
    return position


def _before_damage(entries: list[Entry], segment: Segment, offset: int, index: int) -> list[Entry]:
    if not entries:
        raise _damaged(segment, offset, index)
    return entries


def _damaged(segment: Segment, offset: int, index: int) -> LogDamaged:
    """``index`` is the first entry that cannot be read on its account."""
    path = segment.path
    return LogDamaged(f"{path}: entry {index} is damaged at byte {offset}", path=path, offset=offset, index=index)
