"""A replica's log in segment files; LogStorage of services/raft/storage.py.

Guarantees:

* What ``sync`` covered is there after any crash, in order, unless ``truncate_from`` removed it.
* After any crash the log is a prefix of what it was: appended entries go from the end, never from the middle.  A truncation drops
  whole segments from the newest on and then cuts one, each step durable before the next.  A reset is one step behind such a cut.
* Every byte is checked when it is read: the last segment when the log is opened, the others on each read.  What has changed on the
  disk, or that the disk does not give, costs the entries in which it stands, and nothing before or behind them; a sealed segment is
  mended (mending.py).
* Memory does not grow with the entries: one small record per segment, the sparse index of the active one and of a few in use.

One thread at a time writes (``append``, ``truncate_from``, ``sync``, ``seal``, ``put_mended``, ``reset``, ``drop_before``); any thread may
read meanwhile.
The directory belongs to one SegmentLog: its owner holds the DirectoryLock (R3.5).

A full disk is DiskFull with nothing appended, and the log goes on.  Any other failed write or sync is StorageFailed and final: the
system may have dropped what it could not write, so a later sync that succeeds proves nothing.  What a failed sync covered is cut off.

Not preallocated: on ext4, syncs into space written before take 20–40 % less time, but a thousand partitions would hold a thousand
mostly empty segments, and a file's size would no longer say where its entries end.
"""

from __future__ import annotations

import builtins
import errno
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import structlog

from stele.datanode.log import frames
from stele.datanode.log.frame_reader import locate, read_damaged, read_run
from stele.datanode.log.mending import SegmentMending
from stele.datanode.log.reached import ReachedFile
from stele.datanode.log.recovery import recover
from stele.datanode.log.segment_list import SegmentList, opened
from stele.datanode.log.segments import HEADER_BYTES, Segment, SegmentHeader, SegmentIndex
from stele.services.errors import DiskFull, GroupStopped, LogDamaged, MessageTooLarge, StorageFailed
from stele.services.files import OS_FILES, FileSystem
from stele.services.raft.storage import Entry, LogMending

SEGMENT_BYTES = 64 * 1024 * 1024
DISK_RESERVE_BYTES = 64 * 1024 * 1024
"""What ``append`` leaves free: room for terms, votes and for whatever frees space."""
APPEND_BYTES_MAX = 1024 * 1024 * 1024
_UNASKED_BYTES_MAX = 64 * 1024
"""What is appended before the system is asked again how much is free; a sixteenth of that where it is less."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

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
        disk_reserve_bytes: int = DISK_RESERVE_BYTES,
        new_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._fs: FileSystem = fs or OS_FILES
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._disk_reserve_bytes = disk_reserve_bytes
        self._new_seed = new_seed
        self._unasked_bytes = 0
        self._failed: str | None = None
        self._closed = False
        self._segments = SegmentList(directory, self._fs)
        self.reached = ReachedFile(directory, self._fs)  # up to where it was synced once
        try:
            self._open()
        except OSError as e:
            self._segments.close()
            raise self._disk_full() if e.errno in NO_SPACE else self._fail("open", e) from e
        except BaseException:
            self._segments.close()
            raise

    def _open(self) -> None:
        self._fs.makedirs(self._directory)
        self._segments.load()
        if not self._segments.all:
            self._segments.push(self._segments.create(SegmentHeader(1, self._new_seed())))
        else:
            self._recover(self._segments.active)
        self.reached.open(self.last_index)

    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = recover(file, active.header, active.path)
        if found.frames_end < active.file_bytes:
            cut = active.file_bytes - found.frames_end
            log.warning("log_tail_cut", path=str(active.path), offset=found.frames_end, bytes=cut)
            # BEFORE anything is appended: shorter frames would leave the end of the torn ones behind them, and the next recovery
            # would find there what looks like bytes that changed.
            file.truncate(found.frames_end)
        file.fdatasync()  # what was found may be in the system's cache only; from here on it counts as durable
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index

    # --- what is stored ---------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._segments.all[0].base

    @property
    def last_index(self) -> int:
        return self._segments.active.last_index

    @property
    def bytes(self) -> int:
        """Size of all entries with their heads."""
        with self._segments.guard:
            return sum(segment.frames_end - HEADER_BYTES for segment in self._segments.all)

    def bytes_after(self, index: int) -> int:
        with self._segments.guard:
            total = 0
            for segment in reversed(self._segments.all):
                if segment.base <= index:
                    if segment.index is not None:
                        total += segment.frames_end - segment.index.offset_after(index, segment.frames_end)
                    break
                total += segment.frames_end - HEADER_BYTES
            return total

    @property
    def segment_count(self) -> int:
        return len(self._segments.all)

    def term_at(self, index: int) -> int:
        """The term of a stored entry, or of the one before the first (0 where the log begins).  IndexError for any other."""
        with self._segments.guard:
            self._check_usable()
            first = self._segments.all[0]
            if index == first.base - 1:
                return first.header.previous_term
            segment = self._segments.find(index)
            # Without a look at the file wherever possible: every election and every conflict asks this, most of them at the end.
            if index == segment.last_index or segment.header.previous_term == segment.last_term:
                return segment.last_term
            if segment.index is not None:
                return segment.index.term_at(index)
        return self._unless_cut(lambda: self._term_at(index))

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries ``first..last``, cut off before they exceed ``bytes_max`` payload bytes and before the first that does not check, at
        least one; none if ``first`` is beyond the end.  IndexError before the start; LogDamaged (fact ``index``) if ``first`` does not
        check."""
        return self._unless_cut(lambda: self._read(first, last, bytes_max))

    def _unless_cut(self, read: Callable[[], T]) -> T:
        """The result of ``read`` if nothing was truncated while it ran: else what it met means nothing, and it runs again."""
        while True:
            with self._segments.guard:
                self._check_usable()
                # BEFORE the read: a cut that is counted later has to be seen by the comparison.
                cuts = self._segments.cuts
            try:
                result = read()
            except LogDamaged:
                if self._segments.cuts == cuts:
                    raise
            except OSError as e:
                raise self._read_failed(e) from e
            else:
                if self._segments.cuts == cuts:
                    return result

    def _term_at(self, index: int) -> int:
        with self._segments.guard:
            self._check_usable()
            segment = self._segments.find(index)
            self._segments.pin(segment)
        try:
            sparse = self._segments.index_of(segment)
            with self._segments.guard:
                self._segments.find(index)
                return sparse.term_at(index)
        finally:
            self._segments.unpin(segment)

    def _read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        entries: list[Entry] = []
        left, at = bytes_max, first
        while left > 0 or not entries:
            with self._segments.guard:
                self._check_usable()
                if at > min(last, self._segments.active.last_index):
                    break
                segment = self._segments.find(at)
                self._segments.pin(segment)
            try:
                sparse = self._segments.index_of(segment)
                with self._segments.guard:
                    until = min(last, segment.last_index)
                    if until < at:
                        break
                    point, offset = sparse.floor(at)
                    end = sparse.offset_after(until, segment.frames_end)
                got = read_run(opened(segment), segment, (point, offset, end), at, until, left, not entries)
            except LogDamaged as e:
                if entries:
                    break
                e.facts["index"] = str(at)
                raise
            except OSError as e:
                if e.errno != errno.EIO:  # of a descriptor, or of memory: nothing is said of the bytes
                    raise
                if entries:
                    break
                raise LogDamaged(
                    f"{segment.path}: entry {at} cannot be read: {e.strerror}", path=segment.path, index=at
                ) from e
            finally:
                self._segments.unpin(segment)
            entries += got
            at += len(got)
            left -= sum(len(entry.payload) for entry in got)
            if at <= until:
                break
        return entries

    def memberships(self) -> list[Entry]:
        """Every MEMBERSHIP entry.  Only the segments that hold one are read."""
        return self._unless_cut(self._memberships)

    def _memberships(self) -> list[Entry]:
        entries: list[Entry] = []
        segments = self._segments.all
        for segment, successor in zip_longest(segments, segments[1:]):
            if successor is not None and successor.header.previous_membership < segment.base:
                continue
            with self._segments.guard:
                if segment not in self._segments.all:  # retention has dropped it meanwhile
                    continue
                self._segments.pin(segment)
            try:
                sparse = self._segments.index_of(segment)
                for index in sparse.memberships:
                    span = (*sparse.floor(index), sparse.offset_after(index, segment.frames_end))
                    entries += read_run(opened(segment), segment, span, index, index, 0, True)
            finally:
                self._segments.unpin(segment)
        return entries

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Writes ``entries`` behind the last one, all of them or none; durable after the next ``sync``.

        Errors: DiskFull and MessageTooLarge with nothing appended; StorageFailed; ValueError for what cannot follow the last entry.
        """
        self._check_usable()
        if not entries:
            return
        # Every refusal BEFORE the first byte: DiskFull and MessageTooLarge promise that nothing was appended.
        wanted = self._check_entries(entries)
        self._check_room(wanted)
        active = self._segments.active
        if not active.is_empty and active.frames_end + wanted > self._segment_bytes:
            active = self._roll()
        start = active.frames_end
        # The first frame says whether everything before it is synced.  Said too early, recovery would call a torn tail damage and
        # give up a replica that lost nothing; never said, it could not tell bytes that changed from bytes that never came.
        self._write(active, frames.encode_run(entries, active.header.seed, active.synced_end == start), start, "append")
        # Only AFTER the write: readers go by these fields, and would read what is not there yet.
        with self._segments.guard:
            sparse = _indexed(active)
            offset = start
            for entry in entries:
                sparse.note(entry.index, entry.term, entry.kind, offset)
                offset += frames.HEAD_BYTES + len(entry.payload)
            active.frames_end = active.file_bytes = offset
            active.last_index, active.last_term = entries[-1].index, entries[-1].term

    def sync(self) -> None:
        self._check_usable()
        active = self._segments.active
        end = active.frames_end
        if active.synced_end == end:
            return
        self._sync_file(active, "sync")
        active.synced_end = end
        self.reached.synced(active.last_index)

    def truncate_from(self, index: int) -> None:
        """Removes ``index`` and everything after it, durably when it returns.  Each step is synced before the next: what a crash
        leaves is always a prefix, and old bytes never reappear behind new ones."""
        self._check_usable()
        if index > self.last_index:
            return
        segments = self._segments
        try:
            with segments.guard:
                segment = segments.find(index)
                segments.pin(segment)  # it will be the active one, whose file is never closed
            try:
                # BEFORE anything is removed: damage on the way to the cut is found while the log is still whole.
                offset = locate(opened(segment), segment, segments.index_of(segment), index)
            except BaseException:
                segments.unpin(segment)
                raise
        except OSError as e:
            raise self._read_failed(e) from e
        try:
            self.reached.cut(index - 1)
            while segments.active is not segment:
                segments.remove_last()  # the newest first: a crash leaves a prefix, not a hole
            with segments.guard:
                segments.activate(segment)
                segments.cuts += 1
                # BEFORE the file is cut: a reader that comes between goes by these and stays in front of the cut.
                sparse = _indexed(segment)
                sparse.cut(index)
                segment.frames_end = segment.file_bytes = offset
                segment.synced_end = min(segment.synced_end, offset)
                segment.last_index = index - 1
                segment.last_term = segment.header.previous_term if segment.is_empty else sparse.term_at(index - 1)
            self._cut_file(segment, "truncate")
        except OSError as e:
            raise self._fail("truncate", e) from e
        finally:
            segments.unpin(segment)

    def reset(self, index: int, term: int) -> None:
        """The log is empty and begins behind entry ``index`` of ``term``, durably when it returns.

        A crash on the way leaves a prefix of what was up to ``index``, or the new beginning.  DiskFull likewise, and it may be
        called again.  The segment that begins anew is named BEFORE those that it voids are removed.
        """
        self._check_usable()
        if index < self.first_index - 1:
            raise ValueError(f"the log begins at {self.first_index} and cannot be reset to begin behind {index}")
        segments = self._segments
        try:
            # BEFORE the first entry goes: that the disk is full is found while the log is whole.
            new = segments.prepare(SegmentHeader(index + 1, self._new_seed(), previous_term=term))
        except OSError as e:
            raise self._disk_full() if e.errno in NO_SPACE else self._fail("begin anew", e) from e
        try:
            self.truncate_from(index + 1)
        except BaseException:
            segments.close_file(new)
            raise
        try:
            segments.name(new)
        except OSError as e:
            raise self._disk_full() if e.errno in NO_SPACE else self._fail("begin anew", e) from e
        self.reached.synced(index)
        try:
            segments.begin_anew(new)
        except OSError as e:
            raise self._fail("drop what was before", e) from e

    def drop_before(self, index: int) -> None:
        """Retention: removes the segments all of whose entries are below ``index``, from the oldest on; never the active one."""
        self._check_usable()
        while self.segment_count > 1 and self._segments.all[1].base <= index:
            try:
                self._segments.remove_first()
            except OSError as e:
                # Where every change takes room, as on file systems that copy on write, so does a removal.
                raise self._disk_full() if e.errno in NO_SPACE else self._fail("drop a segment", e) from e

    def read_damaged(self, index: int) -> Entry | None:
        """An entry whose bytes do not check, as they stand; None where not even its length is certain.  IndexError."""
        return self._unless_cut(lambda: self._read_damaged(index))

    def _read_damaged(self, index: int) -> Entry | None:
        with self._segments.guard:
            self._check_usable()
            segment = self._segments.find(index)
            self._segments.pin(segment)
        try:
            return read_damaged(opened(segment), segment, self._segments.index_of(segment), index)
        except LogDamaged:
            return None
        finally:
            self._segments.unpin(segment)

    # --- mending ----------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """What is stored will not change any more but by ``truncate_from``: the next entry begins a segment.  Errors as of ``append``."""
        self._check_usable()
        if not self._segments.active.is_empty:
            self._roll()

    def sealed_around(self, index: int) -> tuple[int, int] | None:
        """The first and the last entry of the sealed segment that holds ``index``; None if its segment may still grow.  IndexError."""
        with self._segments.guard:
            segment = self._segments.find(index)
            return (segment.base, segment.last_index) if segment is not self._segments.active else None

    def begin_mending(self, index: int) -> SegmentMending:
        """To write the sealed segment anew that holds ``index``.  DiskFull, StorageFailed; IndexError if there is none."""
        with self._segments.guard:
            self._check_usable()
            segment = self._segments.find(index)
            if segment is self._segments.active:
                raise IndexError(f"entry {index} is not in a sealed segment")
        try:
            if self._fs.free_bytes(self._directory) < self._disk_reserve_bytes + 2 * segment.file_bytes:
                raise self._disk_full()
            return SegmentMending(self._fs, segment)
        except OSError as e:  # a file beside the log: the log itself goes on
            raise self._disk_full() if e.errno in NO_SPACE else self._read_failed(e) from e

    def put_mended(self, mending: LogMending) -> bool:
        """What is mended takes the place of what was damaged, durably; False if that is gone or was cut meanwhile."""
        self._check_usable()
        assert isinstance(mending, SegmentMending)
        try:
            return self._segments.put_mended(mending)
        except OSError as e:
            raise self._fail("mend", e) from e

    def close(self) -> None:
        """Closes the files, without a sync.  Whatever is called afterwards raises GroupStopped."""
        self.reached.close()
        self._closed = True
        self._segments.close()

    def validate(self) -> None:
        """The invariants; for tests."""
        self._segments.validate()

    def _roll(self) -> Segment:
        """Seals the active segment and begins the next.  The old one is whole and synced BEFORE the new one is named."""
        old = self._segments.active
        end = old.frames_end
        footer = _indexed(old).to_bytes()
        head = frames.encode(old.last_index + 1, old.last_term, frames.FOOTER, footer, old.header.seed)
        old_bytes = end + len(head) + len(footer)
        self._write(old, [head, footer], end, "seal")
        self._sync_file(old, "seal")
        old.synced_end = end
        self.reached.synced(old.last_index)
        membership = _indexed(old).last_membership or old.header.previous_membership
        header = SegmentHeader(
            old.last_index + 1, self._new_seed(), old.base, old.last_term, end, old_bytes, membership
        )
        try:
            new = self._segments.create(header)
        except OSError as e:
            # The footer goes again: this segment stays the active one, and frames will stand where it stood.
            raise self._not_written(old, e, "begin a segment") from e
        with self._segments.guard:
            old.file_bytes = old_bytes
            self._segments.push(new)
        return new

    def _sync_file(self, segment: Segment, operation: str) -> None:
        """What a failed sync covered is cut off: to a process that is restarted the system's cache would show it as if it were there,
        and call it clean."""
        file = opened(segment)
        try:
            file.fdatasync()
        except OSError as e:
            with suppress(OSError):
                file.truncate(segment.synced_end)
            raise self._fail(operation, e) from e

    def _write(self, segment: Segment, parts: Sequence[builtins.bytes], start: int, operation: str) -> None:
        try:
            opened(segment).pwrite(parts, start)
        except OSError as e:
            raise self._not_written(segment, e, operation) from e

    def _not_written(self, segment: Segment, error: OSError, operation: str) -> DiskFull | StorageFailed:
        """After a write that failed: what it left behind the frames goes, if the reason was a full disk."""
        if error.errno not in NO_SPACE:
            return self._fail(operation, error)
        try:
            self._cut_file(segment, "cut")
        except OSError as e:
            return self._fail("cut", e)
        return self._disk_full()

    def _cut_file(self, segment: Segment, operation: str) -> None:
        """Cuts the file behind its frames and syncs: a cut that is not durable could leave old frames behind new ones."""
        opened(segment).truncate(segment.frames_end)
        self._sync_file(segment, operation)
        segment.synced_end = segment.frames_end

    # --- checks -----------------------------------------------------------------------------------------------------

    def _check_entries(self, entries: Sequence[Entry]) -> int:
        """The bytes that they take as frames.  Refuses what is not the log's continuation."""
        active = self._segments.active
        last, term, total = active.last_index, active.last_term, 0
        for entry in entries:
            size = len(entry.payload)
            if (
                size > frames.PAYLOAD_BYTES_MAX
            ):  # the format's; the store's own is asked when it proposes, not of a follower
                limit = frames.PAYLOAD_BYTES_MAX
                raise MessageTooLarge(f"an entry has at most {limit} bytes, this one {size}", bytes_max=limit)
            if entry.index != last + 1 or entry.term < term or not 0 <= entry.kind <= frames.KIND_MAX:
                raise ValueError(
                    f"entry {entry.index} of term {entry.term}, kind {entry.kind} cannot follow entry {last} of term {term}"
                )
            last, term = entry.index, entry.term
            total += frames.HEAD_BYTES + size
        if total > APPEND_BYTES_MAX:
            raise MessageTooLarge(f"one append takes at most {APPEND_BYTES_MAX} bytes", bytes_max=APPEND_BYTES_MAX)
        return total

    def _check_room(self, wanted: int) -> None:
        self._unasked_bytes -= wanted
        if self._unasked_bytes >= 0:
            return
        try:
            free = self._fs.free_bytes(self._directory)
        except OSError as e:
            raise self._fail("look for room", e) from e
        room = free - self._disk_reserve_bytes - wanted
        if room < 0:
            raise self._disk_full()
        self._unasked_bytes = min(_UNASKED_BYTES_MAX, room // 16)

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StorageFailed(self._failed, path=self._directory)
        if self._closed:
            raise GroupStopped(f"{self._directory}: the log is closed", path=self._directory)

    def _disk_full(self) -> DiskFull:
        reserve = self._disk_reserve_bytes
        return DiskFull(
            f"{self._directory}: no room; {reserve} bytes are kept free", path=self._directory, reserve_bytes=reserve
        )

    def _fail(self, operation: str, error: OSError) -> StorageFailed:
        """Nothing is done with this log any more."""
        self._failed = f"{self._directory}: {operation} failed: {error.strerror or error}"
        log.error("log_failed", path=str(self._directory), operation=operation, errno=error.errno)
        return StorageFailed(self._failed, path=self._directory, errno=error.errno)

    def _read_failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"{self._directory}: read failed: {error.strerror or error}", path=self._directory, errno=error.errno
        )


def _indexed(segment: Segment) -> SegmentIndex:
    assert segment.index is not None, segment.path
    return segment.index
