"""The segments of one log in order, and which of their files are open.

Guarantee: a reader that has *pinned* a segment can read its file until it unpins it, although the segment is removed, cut or let go
of meanwhile; a file is closed once nobody has it pinned, so its number is never used for another file under a reader.

The active segment, the last one, is always open and indexed.  Of the sealed ones the SEALED_IN_USE_MAX used last are.
``guard`` protects the list and every Segment's fields; methods that need it held say so.  Disk errors are OSError.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import structlog

from stele.datanode.log import frames
from stele.datanode.log.mending import SegmentMending, damaged_path
from stele.datanode.log.recovery import scan
from stele.datanode.log.segments import (
    HEADER_BYTES,
    MENDED_SUFFIX,
    Segment,
    SegmentHeader,
    SegmentIndex,
    base_of,
    read_header,
    segment_name,
)
from stele.services.errors import LogDamaged
from stele.services.files import ASIDE_SUFFIX, File, FileSystem

SEALED_IN_USE_MAX = 4

log = structlog.get_logger()


class SegmentList:
    """Empty until ``load`` or ``create`` and ``push``."""

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self._directory = directory
        self._fs = fs
        self.guard = threading.Lock()
        self.all: list[Segment] = []  # replaced, never changed in place
        self.cuts = 0  # how often something was truncated: a reader that sees it change reads again
        self._sealed_in_use: OrderedDict[int, Segment] = OrderedDict()

    @property
    def active(self) -> Segment:
        return self.all[-1]

    # --- which segments there are -------------------------------------------------------------------------------------

    def load(self) -> None:
        """All segments that the folder holds, checked against one another (LogDamaged).  The last is open and not yet recovered;
        what an interrupted ``create``, ``begin_anew`` or mending left is removed."""
        bases: list[int] = []
        for name in self._fs.listdir(self._directory):
            base = base_of(name)
            if base is not None:
                bases.append(base)
            elif base_of(name.removesuffix(ASIDE_SUFFIX).removesuffix(MENDED_SUFFIX)) is not None:
                self._fs.unlink(self._directory / name)
        bases.sort()
        # The newest first: only a successor knows how long a segment is, and one that begins anew makes void what is in front of it.
        while bases and not (self.all and self.all[0].header.begins_anew):
            segment = self._open(bases.pop())
            if self.all:
                _seal(segment, self.all[0].header)
                self.close_file(segment)
            self.all = [segment, *self.all]
        if self.all:
            # The names found may be in the system's cache only; from here on they count as durable.
            self._fs.fsync_dir(self._directory)
        for (
            base
        ) in bases:  # AFTER the sync above: the void ones must not be gone before the name that voids them is durable
            self._fs.unlink(self._directory / segment_name(base))
        if bases:
            self._fs.fsync_dir(self._directory)

    def _open(self, base: int) -> Segment:
        path = self._directory / segment_name(base)
        file = self._fs.open(path)
        try:
            header = read_header(file.pread(HEADER_BYTES, 0), path)
            size = file.size()
        except BaseException:
            file.close()
            raise
        return Segment(path, header, size, size, base - 1, header.previous_term, file)

    def create(self, header: SegmentHeader) -> Segment:
        """A new segment on disk, durable, not yet in the list.

        A full disk (ENOSPC) leaves nothing under the final name; after any other error that is not known.
        """
        segment = self.prepare(header)
        self.name(segment)
        return segment

    def prepare(self, header: SegmentHeader) -> Segment:
        """A new segment, written and synced aside: nothing finds it before ``name``."""
        path = self._directory / segment_name(header.base)
        file = self._fs.create(_unfinished(path))
        try:
            file.pwrite([header.to_bytes()], 0)
            file.fdatasync()  # BEFORE it is named: a segment without a header is damage
        except BaseException:
            file.close()
            raise
        sparse = SegmentIndex()
        return Segment(path, header, HEADER_BYTES, HEADER_BYTES, header.base - 1, header.previous_term, file, sparse)

    def name(self, segment: Segment) -> None:
        """A prepared segment takes its place, durably; it is closed if it cannot."""
        try:
            self._fs.rename(_unfinished(segment.path), segment.path)
            self._sync_folder()
        except BaseException:
            self.close_file(segment)
            raise

    def push(self, segment: Segment) -> None:
        """``segment`` becomes the active one.  With the guard held."""
        if self.all:
            self._mark_used(self.active)
        self.all = [*self.all, segment]

    def begin_anew(self, segment: Segment) -> None:
        """A named segment that begins anew becomes the only one.  The others are void as soon as it is named, and gone durably BEFORE
        anything could remove the segment that says so."""
        with self.guard:
            void, self.all = self.all, [segment]
            self.cuts += 1
            self._sealed_in_use.clear()
            for old in void:
                self._release(old)
        for old in void:
            if old.path != segment.path:  # a reset to where a segment began: the new one has taken its place already
                self._fs.unlink(old.path)
        self._sync_folder()

    def remove_last(self) -> None:
        """Takes the last segment out of what readers see, then off the disk, durably."""
        # In this order: whoever finds a segment in the list may open it.
        with self.guard:
            *self.all, segment = self.all
            self.cuts += 1
            self._sealed_in_use.pop(segment.base, None)
            self._release(segment)
        self._fs.unlink(segment.path)
        self._fs.fsync_dir(self._directory)

    def remove_first(self) -> None:
        """Likewise the first one.  It is there as before if it cannot be removed."""
        with self.guard:
            segment, *self.all = self.all
            self._sealed_in_use.pop(segment.base, None)
            self._release(segment)
        try:
            self._fs.unlink(segment.path)
        except OSError:
            with self.guard:
                self.all = [segment, *self.all]
            raise
        with suppress(FileNotFoundError):  # what is no longer kept is not kept for its damage either
            self._fs.unlink(damaged_path(segment.path))
        self._sync_folder()

    def put_mended(self, mending: SegmentMending) -> bool:
        """The mended file takes its segment's place, durably; False, and it is removed, if the segment is not there any more as it was."""
        old = mending.segment
        if not mending.is_current or old is self.active or all(s is not old for s in self.all):
            mending.discard()
            return False
        self._fs.rename(mending.path, old.path)
        self._sync_folder()
        new = Segment(old.path, old.header, old.frames_end, old.file_bytes, old.last_index, old.last_term)
        new.synced_end = old.synced_end
        with self.guard:
            self.all = [new if s is old else s for s in self.all]
            self._sealed_in_use.pop(old.base, None)
            self._release(old)
        return True

    def _sync_folder(self) -> None:
        """A failure is final whatever its reason: a full disk that it found is no longer one that nothing was done on."""
        try:
            self._fs.fsync_dir(self._directory)
        except OSError as e:
            raise OSError(errno.EIO, f"sync of the folder: {e.strerror}") from e

    def find(self, index: int) -> Segment:
        """The segment that holds entry ``index``; IndexError.  With the guard held."""
        segments = self.all
        first, last = segments[0].base, segments[-1].last_index
        if not first <= index <= last:
            raise IndexError(f"entry {index} is not stored; the log holds {first}..{last}")
        return segments[bisect_right(segments, index, key=lambda segment: segment.base) - 1]

    # --- whose files are open -----------------------------------------------------------------------------------------

    def pin(self, segment: Segment) -> None:
        """Opens the segment's file if need be and keeps it open until ``unpin``.  With the guard held."""
        if segment.file is None:
            segment.file = self._fs.open(segment.path)
        segment.pins += 1
        segment.leaving = False
        if segment is not self.active:
            self._mark_used(segment)

    def unpin(self, segment: Segment) -> None:
        with self.guard:
            segment.pins -= 1
            if segment.leaving:
                self._release(segment)

    def activate(self, segment: Segment) -> None:
        """A pinned segment that became the last one stays open for good.  With the guard held."""
        self._sealed_in_use.pop(segment.base, None)
        segment.leaving = False

    def _mark_used(self, segment: Segment) -> None:
        """Marks a sealed segment as the one used last; lets go of the one unused for longest.  With the guard held."""
        self._sealed_in_use[segment.base] = segment
        self._sealed_in_use.move_to_end(segment.base)
        while len(self._sealed_in_use) > SEALED_IN_USE_MAX:
            _, unused = self._sealed_in_use.popitem(last=False)
            self._release(unused)

    def _release(self, segment: Segment) -> None:
        segment.leaving = segment.pins > 0
        if not segment.leaving:
            self.close_file(segment)

    @staticmethod
    def close_file(segment: Segment) -> None:
        if segment.file is not None:
            segment.file.close()
        segment.file = segment.index = None

    def close(self) -> None:
        with self.guard:
            for segment in self.all:
                self._release(segment)

    def index_of(self, segment: Segment) -> SegmentIndex:
        """The sparse index of a pinned segment: from its footer, or by reading it all where the footer does not check."""
        sparse = segment.index
        if sparse is not None:
            return sparse
        sparse = _index_in_footer(segment)
        if sparse is None:
            found = scan(opened(segment), segment.header, segment.frames_end)
            if found.last_index != segment.last_index or found.frames_end != segment.frames_end:
                raise LogDamaged(
                    f"{segment.path}: its footer, and entry {found.last_index + 1} at byte {found.frames_end}, are damaged",
                    path=segment.path,
                    offset=found.frames_end,
                    index=segment.base,
                )
            log.warning("log_footer_unusable", path=str(segment.path))
            sparse = found.index
        with self.guard:
            if segment.index is None:  # else another reader was first, and a truncation may have cut what it set
                segment.index = sparse
            return segment.index

    def validate(self) -> None:
        """The invariants between segments; for tests."""
        with self.guard:
            for before, after in zip(self.all, self.all[1:], strict=False):
                header = after.header
                assert after.base == before.last_index + 1, (before, after)
                assert header.previous_base == before.base, (before, after)
                assert (header.previous_frames_end, header.previous_bytes) == (before.frames_end, before.file_bytes), (
                    before
                )
                assert header.previous_term == before.last_term, (before, after)
                assert not before.is_empty, before
            assert self.active.file is not None, self.active
            assert self.active.index is not None, self.active
            assert HEADER_BYTES <= self.active.synced_end <= self.active.frames_end, self.active
            assert len(self._sealed_in_use) <= SEALED_IN_USE_MAX, self._sealed_in_use
            assert all(segment.pins >= 0 for segment in self.all), self.all


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ASIDE_SUFFIX)


def opened(segment: Segment) -> File:
    assert segment.file is not None, segment.path
    return segment.file


def _index_in_footer(segment: Segment) -> SegmentIndex | None:
    footer = opened(segment).pread(segment.file_bytes - segment.frames_end, segment.frames_end)
    frame = frames.frame_at(footer, 0, segment.header.seed)
    if frame is None or frame.kind != frames.FOOTER or frame.index != segment.last_index + 1:
        return None
    return SegmentIndex.from_bytes(footer[frames.HEAD_BYTES : frame.end])


def _seal(segment: Segment, successor: SegmentHeader) -> None:
    """Sets what the successor knows of ``segment``.  LogDamaged where it does not fit."""
    if successor.previous_base != segment.base:
        raise LogDamaged(
            f"{segment.path}: segment {successor.base} follows {successor.previous_base}, not {segment.base}: one is missing",
            path=segment.path,
            offset=segment.file_bytes,
        )
    if successor.previous_bytes != segment.file_bytes:
        raise LogDamaged(
            f"{segment.path}: the segment has {segment.file_bytes} bytes and was sealed with {successor.previous_bytes}",
            path=segment.path,
            offset=min(segment.file_bytes, successor.previous_bytes),
        )
    segment.frames_end = segment.synced_end = successor.previous_frames_end
    segment.last_index, segment.last_term = successor.base - 1, successor.previous_term
