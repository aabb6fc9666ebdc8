"""A sealed segment written anew, because bytes of it have changed on the disk.

Guarantee: the segment's name stands for the old file or for the new one at every moment and after any crash, and the new one has the
header, the entries and the length of the old.  The bytes of the old one are kept beside it as ``<name>.damaged``, the last of each segment.

Used in three steps: ``add`` and ``finish`` on any thread, beside readers and the writer; then the writer's thread puts the file in its
place (``SegmentLog.put_mended``).  Where the entries come from is the caller's to know: services/raft/mending.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stele.datanode.log import frames
from stele.datanode.log.segments import DAMAGED_SUFFIX, HEADER_BYTES, MENDED_SUFFIX, Segment, SegmentIndex
from stele.services.errors import LogDamaged
from stele.services.files import FileSystem
from stele.services.raft.storage import Entry

_CHUNK_BYTES = 1024 * 1024


class SegmentMending:
    """A new file for ``segment``, which is sealed.  OSError from every method."""

    def __init__(self, fs: FileSystem, segment: Segment) -> None:
        self.segment = segment
        self.path = segment.path.with_name(segment.path.name + MENDED_SUFFIX)
        self._fs = fs
        self._shape = shape_of(segment)
        self._index = SegmentIndex()
        self._end = HEADER_BYTES
        self._next, self._term = segment.base, segment.header.previous_term
        self._file = fs.create(self.path)
        self._file.pwrite([segment.header.to_bytes()], 0)

    @property
    def next_index(self) -> int:
        """The entry that is to be added next."""
        return self._next

    @property
    def last_index(self) -> int:
        """The last entry of the segment: once it is added, ``finish``."""
        return self._shape[2]

    @property
    def is_current(self) -> bool:
        """Whether the segment is still what it was when this was begun."""
        return shape_of(self.segment) == self._shape

    def add(self, entries: Sequence[Entry]) -> None:
        """LogDamaged for what cannot have stood there."""
        offset = self._end
        for entry in entries:
            self._check_next(entry)
            self._index.note(entry.index, entry.term, entry.kind, offset)
            offset += frames.HEAD_BYTES + len(entry.payload)
            self._next, self._term = entry.index + 1, entry.term
        self._file.pwrite(frames.encode_run(entries, self.segment.header.seed, synced_before=False), self._end)
        self._end = offset

    def finish(self) -> None:
        """The file is whole and durable under its own name, and the old one's bytes are kept.  LogDamaged unless it is as long as the old
        one: its successor says how long it is."""
        segment, (frames_end, file_bytes, last_index, last_term) = self.segment, self._shape
        self._check_whole()
        content = self._index.to_bytes()
        footer = frames.encode(last_index + 1, last_term, frames.FOOTER, content, segment.header.seed) + content
        room = file_bytes - frames_end
        # One of an earlier version had another length.  Without a footer the segment is scanned when it is used.
        self._file.pwrite([(footer if len(footer) <= room else b"").ljust(room, b"\0")], frames_end)
        self._file.fdatasync()
        self._keep_old()
        self._fs.fsync_dir(self.path.parent)  # BEFORE it is put in place
        self._file.close()

    def discard(self) -> None:
        """It is not wanted: nothing is left of it."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._fs.unlink(self.path)

    def _keep_old(self) -> None:
        """What cannot be read of it is zeros in the copy."""
        old = self._fs.open(self.segment.path)
        try:
            kept = self._fs.create(damaged_path(self.segment.path))
            try:
                for at in range(0, self._shape[1], _CHUNK_BYTES):
                    chunk = b""
                    with suppress(OSError):
                        chunk = old.pread(min(_CHUNK_BYTES, self._shape[1] - at), at)
                    kept.pwrite([chunk.ljust(min(_CHUNK_BYTES, self._shape[1] - at), b"\0")], at)
                kept.fdatasync()
            finally:
                kept.close()
        finally:
            old.close()

    def _check_next(self, entry: Entry) -> None:
        if entry.index != self._next or entry.term < self._term or entry.index > self.last_index:
            raise self._other_history(entry.index)

    def _check_whole(self) -> None:
        frames_end, _, last_index, last_term = self._shape
        if (self._end, self._next, self._term) != (frames_end, last_index + 1, last_term):
            raise self._other_history(self._next - 1)

    def _other_history(self, index: int) -> LogDamaged:
        path = self.segment.path
        return LogDamaged(f"{path}: what others have as entry {index} cannot have stood here", path=path, index=index)


def damaged_path(path: Path) -> Path:
    return path.with_name(path.name + DAMAGED_SUFFIX)


def shape_of(segment: Segment) -> tuple[int, int, int, int]:
    return segment.frames_end, segment.file_bytes, segment.last_index, segment.last_term
