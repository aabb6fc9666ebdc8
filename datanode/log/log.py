"""A replica's log in segment files; LogStorage of services/raft/storage.py.

Guarantees:

* What ``sync`` covered is there after any crash, in order, unless ``truncate_from`` removed it.
* After any crash the log is a prefix of what it was: appended entries go from the end, never from the middle.  A truncation drops
  whole segments from the newest on and then cuts one, each step durable before the next.
* Every byte is checked when it is read: the last segment when the log is opened, the others on each read.
* Memory does not grow with the entries: one small record per segment, the sparse index of the active one and of a few in use.

One thread at a time writes (``append``, ``truncate_from``, ``sync``, ``drop_before``); any thread may read meanwhile.  The directory
belongs to one SegmentLog: its owner holds the DirectoryLock (R3.5).

A full disk is DiskFull with nothing appended, and the log goes on.  Any other failed write or sync is StorageFailed and final: the
system may have dropped what it could not write, so a later sync that succeeds proves nothing.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from datanode.log import frames
from datanode.log.files import File, FileSystem, OsFileSystem
from datanode.log.reading import locate, read_run
from datanode.log.recovery import recover, scan
from datanode.log.segments import (
    HEADER_BYTES,
    UNFINISHED_SUFFIX,
    Header,
    Segment,
    SegmentIndex,
    base_of,
    read_header,
    segment_name,
)
from datanode.log.terms import NO_SPACE
from services.errors import DiskFull, GroupStopped, LogDamaged, MessageTooLarge, StorageFailed
from services.raft.storage import Entry

SEGMENT_BYTES = 64 * 1024 * 1024
ENTRY_BYTES_MAX = 8 * 1024 * 1024
DISK_RESERVE_BYTES = 64 * 1024 * 1024
_APPEND_BYTES_MAX = 1024 * 1024 * 1024
_SEALED_IN_USE_MAX = 4

T = TypeVar("T")

log = structlog.get_logger()


def _random_seed() -> int:
    return secrets.randbits(32)


class SegmentLog:
    """Opening recovers: a torn tail is cut, damage raises LogDamaged (recovery.py)."""

    def __init__(
        self,
        directory: Path,
        fs: FileSystem | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        disk_reserve_bytes: int = DISK_RESERVE_BYTES,
        new_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._fs: FileSystem = fs or OsFileSystem()
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._entry_bytes_max = min(entry_bytes_max, frames.PAYLOAD_BYTES_MAX)
        self._disk_reserve_bytes = disk_reserve_bytes
        self._new_seed = new_seed
        self._failed: str | None = None
        self._closed = False
        self._guard = threading.Lock()  # what readers see: the fields below and every Segment's
        self._segments: list[Segment] = []
        self._sealed_in_use: OrderedDict[int, Segment] = OrderedDict()
        self._cuts = 0
        try:
            self._open()
        except OSError as e:
            self._release_files()
            raise StorageFailed(
                f"{directory}: cannot open the log: {e.strerror or e}", path=directory, errno=e.errno
            ) from e
        except BaseException:
            self._release_files()
            raise

    # --- what is stored ---------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._segments[0].base

    @property
    def last_index(self) -> int:
        return self._segments[-1].last_index

    @property
    def bytes(self) -> int:
        """Size of all entries with their heads."""
        with self._guard:
            return sum(segment.frames_end - HEADER_BYTES for segment in self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def term_at(self, index: int) -> int:
        """The term of a stored entry, or of the one before the first (0 where the log begins).  IndexError for any other."""
        with self._guard:
            self._check_usable()
            first = self._segments[0]
            if index == first.base - 1:
                return first.header.previous_term
            segment = self._segment_of(index)
            if index == segment.last_index or segment.header.previous_term == segment.last_term:
                return segment.last_term
            if segment.index is not None:
                return segment.index.term_at(index)
        return self._unless_cut(lambda: self._term_at(index))

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries ``first..last``, cut off before they exceed ``bytes_max`` payload bytes, at least one; none if ``first`` is beyond
        the end.  IndexError before the start; LogDamaged for bytes that do not check."""
        return self._unless_cut(lambda: self._read(first, last, bytes_max))

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        self._check_usable()
        wanted = self._check_entries(entries)
        self._check_room(wanted)
        active = self._segments[-1]
        if not active.is_empty and active.frames_end + wanted > self._segment_bytes:
            active = self._roll()
        file, start = _opened(active), active.frames_end
        parts = frames.encode_run(entries, active.header.seed, active.synced_end == start)
        try:
            file.pwrite(parts, start)
        except OSError as e:
            if e.errno not in NO_SPACE:
                raise self._fail("append", e) from e
            self._cut_file(active, start)
            raise self._disk_full() from e
        with self._guard:
            sparse = _indexed(active)
            offset = start
            for entry in entries:
                sparse.note(entry.index, entry.term, offset)
                offset += frames.HEAD_BYTES + len(entry.payload)
            active.frames_end = active.file_bytes = offset
            active.last_index, active.last_term = entries[-1].index, entries[-1].term

    def sync(self) -> None:
        self._check_usable()
        active = self._segments[-1]
        end = active.frames_end
        if active.synced_end == end:
            return
        try:
            _opened(active).fdatasync()
        except OSError as e:
            raise self._fail("sync", e) from e
        active.synced_end = end

    def truncate_from(self, index: int) -> None:
        """Removes ``index`` and everything after it, durably: a step is synced before the next, so that what a crash leaves is
        always a prefix, and old bytes never reappear behind new ones."""
        self._check_usable()
        if index > self.last_index:
            return
        with self._guard:
            segment = self._segment_of(index)
            self._pin(segment)
        try:
            sparse = self._index_of(segment)
            try:
                offset = locate(_opened(segment), segment, sparse, index)
            except OSError as e:
                raise _read_failed(segment, e) from e
            term = sparse.term_at(index - 1) if index > segment.base else segment.header.previous_term
            while self._segments[-1] is not segment:
                newest = self._segments[-1]
                with self._guard:
                    self._cuts += 1
                    self._segments = self._segments[:-1]
                self._remove(newest)
            with self._guard:
                self._cuts += 1
                sparse.cut(index)
                segment.frames_end = segment.file_bytes = offset
                segment.last_index, segment.last_term = index - 1, term
                self._sealed_in_use.pop(segment.base, None)
                segment.retired = False
            self._cut_file(segment, offset)
        finally:
            self._unpin(segment)

    def drop_before(self, index: int) -> None:
        """Retention: removes the segments all of whose entries are below ``index``, from the oldest on; never the active one."""
        self._check_usable()
        while len(self._segments) > 1 and self._segments[1].base <= index:
            oldest = self._segments[0]
            with self._guard:
                self._segments = self._segments[1:]
            self._remove(oldest)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            for segment in self._segments:
                self._retire(segment)

    def validate(self) -> None:
        """The invariants between the segments; for tests."""
        with self._guard:
            for before, after in zip(self._segments, self._segments[1:], strict=False):
                assert after.base == before.last_index + 1, (before, after)
                assert after.header.previous_base == before.base, (before, after)
                assert after.header.previous_frames_end == before.frames_end, (before, after)
                assert after.header.previous_term == before.last_term, (before, after)
                assert not before.is_empty, before
            active = self._segments[-1]
            assert HEADER_BYTES <= active.synced_end <= active.frames_end, active
            assert len(self._sealed_in_use) <= _SEALED_IN_USE_MAX, self._sealed_in_use
            assert all(segment.pins >= 0 for segment in self._segments)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._fs.makedirs(self._directory)
        bases: list[int] = []
        for name in self._fs.listdir(self._directory):
            base = base_of(name)
            if base is not None:
                bases.append(base)
            elif base_of(name.removesuffix(UNFINISHED_SUFFIX)) is not None:
                self._fs.unlink(self._directory / name)
        if not bases:
            self._segments = [self._create(Header(1, self._new_seed()))]
            return
        for base in sorted(bases):
            self._segments.append(self._open_segment(base))
        for before, after in zip(self._segments, self._segments[1:], strict=False):
            _seal(before, after.header)
        for sealed in self._segments[:-1]:
            _opened(sealed).close()
            sealed.file = None
        self._recover(self._segments[-1])

    def _open_segment(self, base: int) -> Segment:
        path = self._directory / segment_name(base)
        file = self._fs.open(path)
        try:
            header = read_header(file.pread(HEADER_BYTES, 0), path)
            size = file.size()
        except BaseException:
            file.close()
            raise
        return Segment(path, header, size, size, base - 1, header.previous_term, file)

    def _recover(self, active: Segment) -> None:
        file = _opened(active)
        found = recover(file, active.header, active.path)
        if found.frames_end < active.file_bytes:
            log.warning(
                "log_tail_cut",
                path=str(active.path),
                offset=found.frames_end,
                bytes=active.file_bytes - found.frames_end,
            )
            file.truncate(found.frames_end)
        file.fdatasync()  # what was found may be in the system's cache only; from here on it counts as durable
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index

    # --- segments ---------------------------------------------------------------------------------------------------

    def _roll(self) -> Segment:
        """Seals the active segment and begins the next.  The old one is whole and synced BEFORE the new one is named."""
        old = self._segments[-1]
        file, end, seed = _opened(old), old.frames_end, old.header.seed
        footer = _indexed(old).to_bytes()
        head = frames.encode(old.last_index + 1, old.last_term, frames.FOOTER, footer, seed)
        try:
            file.pwrite([head, footer], end)
        except OSError as e:
            if e.errno not in NO_SPACE:
                raise self._fail("seal", e) from e
            self._cut_file(old, end)
            raise self._disk_full() from e
        old_bytes = end + len(head) + len(footer)
        try:
            file.fdatasync()
        except OSError as e:
            raise self._fail("seal", e) from e
        header = Header(old.last_index + 1, self._new_seed(), old.base, old.last_term, end, old_bytes)
        try:
            new = self._create(header)
        except OSError as e:
            if e.errno not in NO_SPACE:
                raise self._fail("begin a segment", e) from e
            self._cut_file(old, end)
            raise self._disk_full() from e
        with self._guard:
            old.synced_end, old.file_bytes = end, old_bytes
            self._segments = [*self._segments, new]
            self._use(old)
        return new

    def _create(self, header: Header) -> Segment:
        """A segment that holds its header.  OSError with a full disk's number leaves nothing behind that has the final name."""
        path = self._directory / segment_name(header.base)
        aside = path.with_name(path.name + UNFINISHED_SUFFIX)
        file = self._fs.create(aside)
        try:
            file.pwrite([header.to_bytes()], 0)
            file.fdatasync()
            self._fs.rename(aside, path)
        except BaseException:
            file.close()
            raise
        try:
            self._fs.fsync_dir(self._directory)
        except OSError as e:
            file.close()
            raise self._fail("begin a segment", e) from e
        sparse = SegmentIndex()
        return Segment(path, header, HEADER_BYTES, HEADER_BYTES, header.base - 1, header.previous_term, file, sparse)

    def _remove(self, segment: Segment) -> None:
        """The caller has taken the segment out of what readers see."""
        with self._guard:
            self._sealed_in_use.pop(segment.base, None)
            self._retire(segment)
        try:
            self._fs.unlink(segment.path)
            self._fs.fsync_dir(self._directory)
        except OSError as e:
            raise self._fail("remove a segment", e) from e

    def _cut_file(self, segment: Segment, end: int) -> None:
        """Cuts and syncs: a cut that is not durable could leave old frames behind new ones."""
        file = _opened(segment)
        try:
            file.truncate(end)
            file.fdatasync()
        except OSError as e:
            raise self._fail("cut", e) from e
        segment.synced_end = end

    # --- sealed segments in use; the guard is held where a name begins with an underscore and says nothing else --------

    def _segment_of(self, index: int) -> Segment:
        segments = self._segments
        if not segments[0].base <= index <= segments[-1].last_index:
            raise IndexError(
                f"entry {index} is not stored; the log holds {segments[0].base}..{segments[-1].last_index}"
            )
        low, high = 0, len(segments) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if segments[middle].base <= index:
                low = middle
            else:
                high = middle - 1
        return segments[low]

    def _pin(self, segment: Segment) -> None:
        """Keeps the segment's file open until ``_unpin``; opens it if need be."""
        if segment.file is None:
            try:
                segment.file = self._fs.open(segment.path)
            except OSError as e:
                raise _read_failed(segment, e) from e
        segment.pins += 1
        segment.retired = False
        if segment is not self._segments[-1]:
            self._use(segment)

    def _unpin(self, segment: Segment) -> None:
        """Takes the guard itself."""
        with self._guard:
            segment.pins -= 1
            if segment.retired:
                self._retire(segment)

    def _use(self, segment: Segment) -> None:
        """Marks a sealed segment as the one used last; lets go of the one unused for longest."""
        self._sealed_in_use[segment.base] = segment
        self._sealed_in_use.move_to_end(segment.base)
        while len(self._sealed_in_use) > _SEALED_IN_USE_MAX:
            _, unused = self._sealed_in_use.popitem(last=False)
            self._retire(unused)

    def _retire(self, segment: Segment) -> None:
        """Closes the segment's file once nobody reads from it."""
        segment.retired = segment.pins > 0
        if segment.retired:
            return
        if segment.file is not None:
            segment.file.close()
        segment.file = segment.index = None

    def _release_files(self) -> None:
        with self._guard:
            for segment in self._segments:
                self._retire(segment)

    def _index_of(self, segment: Segment) -> SegmentIndex:
        """The sparse index of a pinned segment: from its footer, or by reading it all where the footer does not check."""
        if segment.index is not None:
            return segment.index
        file = _opened(segment)
        try:
            footer = file.pread(segment.file_bytes - segment.frames_end, segment.frames_end)
            frame = frames.frame_at(footer, 0, segment.header.seed)
            sparse = None
            if frame is not None and frame.kind == frames.FOOTER and frame.index == segment.last_index + 1:
                sparse = SegmentIndex.from_bytes(footer[frames.HEAD_BYTES : frame.end])
            if sparse is None:
                log.warning("log_footer_damaged", path=str(segment.path))
                found = scan(file, segment.header, segment.frames_end)
                if found.last_index != segment.last_index or found.frames_end != segment.frames_end:
                    raise LogDamaged(
                        f"{segment.path}: damaged at byte {found.frames_end}",
                        path=segment.path,
                        offset=found.frames_end,
                    )
                sparse = found.index
        except OSError as e:
            raise _read_failed(segment, e) from e
        with self._guard:
            if segment.index is None:  # else another reader was first, and a truncation may have cut what it set
                segment.index = sparse
            return segment.index

    # --- reading and checks -----------------------------------------------------------------------------------------

    def _unless_cut(self, read: Callable[[], T]) -> T:
        """The result of ``read``, which ran while nothing was truncated: else what it met means nothing, and it runs again."""
        while True:
            with self._guard:
                self._check_usable()
                cuts = self._cuts
            try:
                result = read()
            except LogDamaged:
                if self._cuts == cuts:
                    raise
            else:
                if self._cuts == cuts:
                    return result

    def _term_at(self, index: int) -> int:
        with self._guard:
            segment = self._segment_of(index)
            self._pin(segment)
        try:
            sparse = self._index_of(segment)
            with self._guard:
                if index > segment.last_index:
                    raise _not_stored(index, self._segments)
                return sparse.term_at(index)
        finally:
            self._unpin(segment)

    def _read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        entries: list[Entry] = []
        taken = 0
        at = first
        while not entries or taken < bytes_max:
            with self._guard:
                self._check_usable()
                if at > min(last, self._segments[-1].last_index):
                    break
                segment = self._segment_of(at)
                self._pin(segment)
            try:
                sparse = self._index_of(segment)
                with self._guard:
                    until = min(last, segment.last_index)
                    if until < at:
                        break
                    point, offset = sparse.floor(at)
                    end = sparse.offset_after(until, segment.frames_end)
                got = read_run(
                    _opened(segment), segment, (point, offset, end), at, until, bytes_max - taken, not entries
                )
            except OSError as e:
                raise _read_failed(segment, e) from e
            finally:
                self._unpin(segment)
            entries += got
            taken += sum(len(entry.payload) for entry in got)
            at += len(got)
            if at <= until:
                break
        return entries

    def _check_entries(self, entries: Sequence[Entry]) -> int:
        """The bytes that they take as frames.  Refuses what is not the log's continuation."""
        expected, term = self._segments[-1].last_index + 1, self._segments[-1].last_term
        total = 0
        for entry in entries:
            size = len(entry.payload)
            if size > self._entry_bytes_max:
                raise MessageTooLarge(
                    f"an entry has at most {self._entry_bytes_max} bytes, this one {size}",
                    bytes_max=self._entry_bytes_max,
                )
            if entry.index != expected or entry.term < term or not 0 <= entry.kind <= frames.KIND_MAX:
                raise ValueError(
                    f"entry {entry.index} of term {entry.term}, kind {entry.kind} cannot follow entry {expected - 1} of term {term}"
                )
            term = entry.term
            expected += 1
            total += frames.HEAD_BYTES + size
        if total > _APPEND_BYTES_MAX:
            raise MessageTooLarge(f"one append takes at most {_APPEND_BYTES_MAX} bytes", bytes_max=_APPEND_BYTES_MAX)
        return total

    def _check_room(self, wanted: int) -> None:
        try:
            free = self._fs.free_bytes(self._directory)
        except OSError as e:
            raise self._fail("look for room", e) from e
        if free < self._disk_reserve_bytes + wanted:
            raise self._disk_full()

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StorageFailed(self._failed, path=self._directory)
        if self._closed:
            raise GroupStopped(f"{self._directory}: the log is closed", path=self._directory)

    def _disk_full(self) -> DiskFull:
        return DiskFull(
            f"{self._directory}: no room; {self._disk_reserve_bytes} bytes are kept free",
            path=self._directory,
            reserve_bytes=self._disk_reserve_bytes,
        )

    def _fail(self, doing: str, error: OSError) -> StorageFailed:
        self._failed = f"{self._directory}: {doing} failed: {error.strerror or error}"
        log.error("log_failed", path=str(self._directory), doing=doing, errno=error.errno)
        return StorageFailed(self._failed, path=self._directory, errno=error.errno)


def _seal(segment: Segment, successor: Header) -> None:
    """What the successor knows of ``segment``.  LogDamaged where it does not fit."""
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


def _not_stored(index: int, segments: Sequence[Segment]) -> IndexError:
    return IndexError(f"entry {index} is not stored; the log holds {segments[0].base}..{segments[-1].last_index}")


def _read_failed(segment: Segment, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"{segment.path}: read failed: {error.strerror or error}", path=segment.path, errno=error.errno
    )


def _opened(segment: Segment) -> File:
    assert segment.file is not None, segment.path
    return segment.file


def _indexed(segment: Segment) -> SegmentIndex:
    assert segment.index is not None, segment.path
    return segment.index
