"""One entry on disk: ``[length u32][crc32c u32][term u64][index u64][kind u8][payload]``, big-endian.

``length`` counts the payload.  ``crc32c`` covers every other byte and starts from the segment's seed, so that a frame of another
file (a stale block, a copy inside a payload) is never taken for one of this segment.

The top bit of ``kind`` is SYNCED_BEFORE: when this frame was written, everything before it in the segment was durable.  Recovery
tells by it whether bytes that do not check were ever promised to anyone (recovery.py).  Kind FOOTER is the log's own (segments.py).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crc32c import crc32c

from stele.services.raft.storage import Entry

_HEAD = struct.Struct(">IIQQB")
_COVERED = struct.Struct(">IQQB")
HEAD_BYTES = _HEAD.size
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
"""A limit of the format, not a setting: a longer length is not a frame, whatever the configuration was when it was written."""

SYNCED_BEFORE = 0x80
FOOTER = 0x7F
KIND_MAX = 0x7E

_SEARCH_CRC_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""What ``later_frames`` may checksum in all: bytes made to look like frame heads cannot keep recovery busy for ever."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose checksum fits."""

    start: int
    end: int
    term: int
    index: int
    kind: int
    synced_before: bool


class SearchExhausted(Exception):
    """``later_frames`` gave up: nothing may be concluded from what it found."""


def encode(index: int, term: int, kind: int, payload: bytes, seed: int) -> bytes:
    """The head of a frame; the payload follows it.  ``kind`` may carry SYNCED_BEFORE."""
    length = len(payload)
    crc = crc32c(payload, crc32c(_COVERED.pack(length, term, index, kind), seed))
    return _HEAD.pack(length, crc, term, index, kind)


def encode_run(entries: Sequence[Entry], seed: int, synced_before: bool) -> list[bytes]:
    """Heads and payloads of ``entries`` in turn; the flag goes to the first."""
    flag = SYNCED_BEFORE if synced_before else 0
    parts: list[bytes] = []
    for entry in entries:
        parts.append(encode(entry.index, entry.term, entry.kind | flag, entry.payload, seed))
        parts.append(entry.payload)
        flag = 0
    return parts


def read_head(buffer: bytes, at: int) -> tuple[int, int, int, int, int]:
    """``length, crc, term, index, kind`` of a frame; unchecked, kind with its flag."""
    return _HEAD.unpack_from(buffer, at)


def fits(buffer: bytes, at: int, head: tuple[int, int, int, int, int], seed: int) -> bool:
    """Whether the checksum of the whole frame at ``at`` is right; the frame must lie within ``buffer``."""
    length, crc, term, index, kind = head
    start = at + HEAD_BYTES
    covered = crc32c(_COVERED.pack(length, term, index, kind), seed)
    return crc32c(memoryview(buffer)[start : start + length], covered) == crc


def frame_at(buffer: bytes, at: int, seed: int) -> Frame | None:
    """The frame at ``at``; None unless it is complete and its checksum fits."""
    if len(buffer) - at < HEAD_BYTES:
        return None
    head = _HEAD.unpack_from(buffer, at)
    length, _, term, index, kind = head
    end = at + HEAD_BYTES + length
    if length > PAYLOAD_BYTES_MAX or end > len(buffer) or not fits(buffer, at, head, seed):
        return None
    return Frame(at, end, term, index, kind & ~SYNCED_BEFORE, bool(kind & SYNCED_BEFORE))


def later_frames(buffer: bytes, start: int, seed: int, index_min: int) -> Iterator[Frame]:
    """Every frame in ``buffer`` from ``start`` on, at whatever offset it begins, with an index that could follow ``index_min``.

    Bounded: raises SearchExhausted when the bytes hold so many false heads that looking at all of them would take minutes.
    """
    index_max = index_min + len(buffer) // HEAD_BYTES + 1
    heads = _index_pattern(index_min, index_max)
    searched = len(buffer.rstrip(b"\0"))
    crc_bytes_left = _SEARCH_CRC_BYTES_MAX
    at = start
    while at < searched:
        match = heads.search(buffer, at + _INDEX_AT)
        if match is None:
            return
        at = match.start() - _INDEX_AT
        if at >= searched or len(buffer) - at < HEAD_BYTES:
            return
        length, _, _, index, _ = _HEAD.unpack_from(buffer, at)
        if index_min <= index <= index_max and length <= min(PAYLOAD_BYTES_MAX, len(buffer) - at - HEAD_BYTES):
            crc_bytes_left -= length
            if crc_bytes_left < 0:
                raise SearchExhausted
            frame = frame_at(buffer, at, seed)
            if frame is not None:
                yield frame
                at = frame.end
                continue
        at += 1


_INDEX_AT = 16


def _index_pattern(index_min: int, index_max: int) -> re.Pattern[bytes]:
    """Matches where an index within the range may stand: its common leading bytes, and not a run of zeros."""
    low, high = struct.pack(">Q", index_min), struct.pack(">Q", index_max)
    common = 0
    while common < 8 and low[common] == high[common]:
        common += 1
    return re.compile(b"(?=" + re.escape(low[:common]) + b")(?!" + b"\0" * 8 + b")", re.DOTALL)
