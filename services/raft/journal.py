"""The engine's view of its log: a tail in memory over the segment files, and the order in which changes become durable (H7).

Guarantee: everything that ``append``, ``truncate_from``, ``store_term`` and ``install`` change is visible at once and becomes durable
in exactly that order.  Each change has a *position*; a message that promises something carries the position it stands for and leaves
only when :attr:`synced_position` has reached it (PERSIST BEFORE PROMISE).

The log begins behind a snapshot once its start was dropped; who the group's members are follows from both (H6, H8).

Use: the driver takes a :class:`Flush`, runs it on a thread, gives it back to :meth:`finish`.  At most one is under way at a time; all that
gathers meanwhile goes with the next one, so one ``fdatasync`` serves every proposal and message that waits (group commit).

The commit index is not stored: what is committed is learnt again from a majority (H9).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from stele.services.errors import DiskFull
from stele.services.raft.membership import MemberHistory
from stele.services.raft.storage import (
    MEMBERSHIP,
    Entry,
    LogMending,
    LogStorage,
    Members,
    Snapshot,
    SnapshotStorage,
    TermStorage,
)

TAIL_BYTES_MAX: Final = 1 << 20
UNSYNCED_BYTES_MAX: Final = (
    64 << 20
)  # of one replica; beyond it it takes nothing on: its disk does not keep up, or stands still
DISK_UNSYNCED_BYTES_MAX: Final = (
    256 << 20
)  # of all on one disk; beyond it only those that have nothing waiting take something on
APPEND_BYTES_MAX: Final = 4 << 20  # written at once; one entry goes whole
ENTRY_BYTES: Final = 128  # of memory that an entry takes beside its payload


@dataclass(slots=True)
class _Append:
    """Closed once it holds ``APPEND_BYTES_MAX``: what gathered over a disk that stood still does not fit into one write."""

    entries: list[Entry]
    size: int


@dataclass(frozen=True, slots=True)
class _Truncate:
    index: int


@dataclass(frozen=True, slots=True)
class _StoreTerm:
    term: int
    voted_for: int


@dataclass(frozen=True, slots=True)
class _InstallSnapshot:
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class _ResetLog:
    index: int
    term: int


@dataclass(frozen=True, slots=True)
class _Compact:
    index: int


@dataclass(frozen=True, slots=True)
class _Seal:
    pass


@dataclass(frozen=True, slots=True)
class _Mend:
    mending: LogMending


class UnsyncedBytes:
    """Memory that entries take which wait for one disk, of all groups on it."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


_Change = _Append | _Truncate | _StoreTerm | _InstallSnapshot | _ResetLog | _Compact | _Seal | _Mend


@dataclass(slots=True)
class Flush:
    """A run of changes on their way to the disk.  ``run`` may be called again after DiskFull: what is done is not done twice."""

    log: LogStorage
    terms: TermStorage
    snapshots: SnapshotStorage
    changes: deque[_Change]
    position: int
    last_index: int
    log_dirty: bool
    size: int = 0  # bytes of memory that its entries take
    error: BaseException | None = field(default=None)

    def run(self) -> None:
        """Carries the changes out and syncs.  Never raises: the outcome is in ``error``."""
        self.error = None
        try:
            while self.changes:
                change = self.changes[0]
                self._carry_out(change)
                self.changes.popleft()
            if self.log_dirty:
                self.log.sync()
                self.log_dirty = False
        except Exception as e:
            self.error = e

    def _carry_out(self, change: _Change) -> None:
        match change:
            case _Append(entries=entries):
                self.log_dirty = True
                self.log.append(entries)
            case _Truncate(index):
                self.log_dirty = True
                self.log.truncate_from(index)
            case _StoreTerm(term, voted_for):
                self.terms.store(term, voted_for)
            case _InstallSnapshot(snapshot):
                self.snapshots.install_staged(snapshot)
            case _ResetLog(index, term):  # only now: the snapshot that stands for what goes is durable (H8)
                self.log.reset(index, term)
            case _Compact(index):
                self.snapshots.drop_before(index)
                self.log.drop_before(index + 1)
            case _Seal():
                self.log.seal()
            case _Mend(mending):
                self.log.put_mended(mending)


class Journal:
    """The log of one replica, with its term and its vote."""

    def __init__(
        self,
        log: LogStorage,
        terms: TermStorage,
        snapshots: SnapshotStorage,
        first_members: Members,
        tail_bytes_max: int = TAIL_BYTES_MAX,
        on_disk: UnsyncedBytes | None = None,
    ) -> None:
        """``first_members`` are those of a group whose storage says nothing of any."""
        self._log = log
        self._terms = terms
        self._snapshots = snapshots
        self._term, self._voted_for = terms.load()
        self._tail: list[Entry] = []  # newest entries; those not yet written are always among them
        self._tail_bytes = 0
        self._tail_bytes_max = tail_bytes_max
        self._first_index = log.first_index
        self._term_before_first = log.term_at(log.first_index - 1)
        self._last_index = log.last_index
        self._last_term = log.term_at(log.last_index)
        self.snapshot = snapshots.snapshots[-1] if snapshots.snapshots else None  # what the machine starts from
        if self.snapshot is None:
            self.members = MemberHistory(0, first_members, log.memberships())
        else:
            oldest = snapshots.snapshots[0]
            self.members = MemberHistory(oldest.index, oldest.members, log.memberships())
        self._changes: deque[_Change] = deque()
        self._changes_bytes = 0
        self._on_disk = on_disk or UnsyncedBytes()
        self._position = 0
        self._flush: Flush | None = None
        self._term_position = 0
        self.synced_position = 0
        self.synced_index = log.last_index
        self._log_dirty = False  # something written by an unfinished flush still waits for its sync
        self.disk_full = False

    # --- what is in the log ---------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first entry that is kept.  The term of the one before it is known too."""
        return self._first_index

    @property
    def last_index(self) -> int:
        return self._last_index

    @property
    def last_term(self) -> int:
        return self._last_term

    @property
    def bytes(self) -> int:
        return self._log.bytes

    def bytes_after(self, index: int) -> int:
        """Of the entries behind ``index`` that are written; rather too few."""
        return self._log.bytes_after(index)

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Oldest first."""
        return self._snapshots.snapshots

    def term_at(self, index: int) -> int:
        """The term of entry ``index``, which must be in the log or be the one before it."""
        if index == self._last_index:
            return self._last_term
        if index == self._first_index - 1:
            return self._term_before_first
        first = self._first_in_tail()
        return self._tail[index - first].term if index >= first else self._log.term_at(index)

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries ``first..last`` or fewer: cut off after ``bytes_max`` bytes of payload and before the first that is damaged, at least
        one if there is any.  LogDamaged if ``first`` is damaged."""
        last = min(last, self._last_index)
        if first > last:
            return []
        if first < self._first_index:
            raise IndexError(f"entry {first} is no longer kept; the log begins at {self._first_index}")
        in_memory = self._first_in_tail()
        if first < in_memory:
            return self._log.read(first, min(last, in_memory - 1), bytes_max)
        found = self._tail[first - in_memory : last - in_memory + 1]
        size = 0
        for count, entry in enumerate(found, 1):
            size += len(entry.payload)
            if size >= bytes_max:
                return found[:count]
        return found

    def read_damaged(self, index: int) -> Entry | None:
        """As ``LogStorage.read_damaged``."""
        return self._log.read_damaged(index)

    def _first_in_tail(self) -> int:
        return self._tail[0].index if self._tail else self._last_index + 1

    # --- changes, in the order in which they become durable -------------------------------------------------------

    @property
    def position(self) -> int:
        """The position of the newest change."""
        return self._position

    @property
    def term_synced(self) -> bool:
        """Whether the newest term and vote are durable."""
        return self.synced_position >= self._term_position

    @property
    def unsynced_bytes(self) -> int:
        """Memory that entries take which wait for the disk, cut off or not."""
        return self._changes_bytes + (self._flush.size if self._flush is not None else 0)

    @property
    def is_full(self) -> bool:
        """As much waits for the disk as may: nothing is to be appended that can be refused."""
        unsynced = self.unsynced_bytes
        return unsynced >= UNSYNCED_BYTES_MAX or (unsynced > 0 and self._on_disk.total >= DISK_UNSYNCED_BYTES_MAX)

    def append(self, entry: Entry) -> None:
        if entry.index != self._last_index + 1:
            raise AssertionError(f"entry {entry.index} does not follow {self._last_index}")
        self._tail.append(entry)
        self._tail_bytes += len(entry.payload)
        self._last_index, self._last_term = entry.index, entry.term
        if entry.kind == MEMBERSHIP:
            self.members.appended(entry)
        self._position += 1
        size = len(entry.payload) + ENTRY_BYTES
        self._changes_bytes += size
        self._on_disk.total += size
        newest = self._changes[-1] if self._changes else None
        if isinstance(newest, _Append) and newest.size + size <= APPEND_BYTES_MAX:
            newest.entries.append(entry)
            newest.size += size
        else:
            self._changes.append(_Append([entry], size))

    def truncate_from(self, index: int) -> None:
        """Removes entry ``index`` and all after it; they must not be committed."""
        while self._tail and self._tail[-1].index >= index:
            self._tail_bytes -= len(self._tail.pop().payload)
        self._last_term = self.term_at(index - 1)
        self._last_index = index - 1
        self.members.truncated(index)
        self._unsynced_from(index)
        self._change(_Truncate(index))

    def install(self, snapshot: Snapshot) -> None:
        """The staged ``snapshot`` takes the place of the whole log, whose next entry follows it."""
        self._tail.clear()
        self._tail_bytes = 0
        self._unsynced_from(snapshot.index)
        self._first_index, self._term_before_first = snapshot.index + 1, snapshot.term
        self._last_index, self._last_term = snapshot.index, snapshot.term
        self.members.installed(snapshot)
        self._change(_InstallSnapshot(snapshot))
        self._change(_ResetLog(snapshot.index, snapshot.term))

    def compact(self, index: int) -> None:
        """The snapshot at ``index`` becomes the oldest, and the log begins behind it; whole segments up to there go from the disk."""
        if index >= self._first_index:
            self._term_before_first = self.term_at(index)
            # At once: what a flush is dropping on its thread must not be asked for meanwhile.
            self._first_index = index + 1
        self._change(_Compact(index))

    def seal(self) -> None:
        """What is written by then may be mended."""
        self._change(_Seal())

    def mend(self, mending: LogMending) -> None:
        """What was written anew takes the place of what was damaged."""
        self._change(_Mend(mending))

    def _unsynced_from(self, index: int) -> None:
        self.synced_index = min(self.synced_index, index - 1)
        if self._flush is not None:
            self._flush.last_index = min(self._flush.last_index, index - 1)

    def _change(self, change: _Change) -> None:
        self._changes.append(change)
        self._position += 1

    def begin(self) -> Flush | None:
        """What is to be written next; None while nothing is, or while a flush is under way."""
        if self._flush is not None or not self._changes:
            return None
        self._flush = Flush(
            self._log,
            self._terms,
            self._snapshots,
            self._changes,
            self._position,
            self._last_index,
            self._log_dirty,
            self._changes_bytes,
        )
        self._changes, self._changes_bytes = deque(), 0
        return self._flush

    def finish(self, flush: Flush) -> BaseException | None:
        """Takes note of a flush that has run.  Returns its error; after DiskFull the same changes are tried again by the next one."""
        assert flush is self._flush
        self._flush = None
        if not isinstance(flush.error, DiskFull):  # written, or never will be
            self._on_disk.total -= flush.size
        if flush.error is None:
            self.synced_position = flush.position
            self.synced_index = max(self.synced_index, flush.last_index)
            self.disk_full = False
            self._log_dirty = False
            if self._snapshots.snapshots:
                self.members.forget_before(self._snapshots.snapshots[0].index)
            self._trim()
            return None
        if isinstance(flush.error, DiskFull):
            self.disk_full = True
            self._log_dirty = flush.log_dirty
            flush.changes.extend(self._changes)
            self._changes = flush.changes
            self._changes_bytes += flush.size
        return flush.error

    def close(self) -> None:
        """Nothing more is written: what waits counts no more.  No flush is under way."""
        self._on_disk.total -= self._changes_bytes
        self._changes, self._changes_bytes = deque(), 0

    def _trim(self) -> None:
        gone = 0
        while self._tail_bytes > self._tail_bytes_max and self._tail[gone].index <= self.synced_index:
            self._tail_bytes -= len(self._tail[gone].payload)
            gone += 1
        del self._tail[:gone]

    # --- term and vote ---------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self._term

    @property
    def voted_for(self) -> int:
        """Whom this replica voted for in ``term``; 0: nobody."""
        return self._voted_for

    def store_term(self, term: int, voted_for: int) -> None:
        if (term, voted_for) != (self._term, self._voted_for):
            self._term, self._voted_for = term, voted_for
            self._change(_StoreTerm(term, voted_for))
            self._term_position = self._position

    # --- the start ---------------------------------------------------------------------------------------------------

    @property
    def committed_at_start(self) -> int:
        """What is known to be committed without asking anybody: what the machine starts from, and the first entry of all.  A commit index
        on disk would be a claim about entries that the disk may not have any more: it is learnt again from a majority (H9)."""
        return self.snapshot.index if self.snapshot is not None else 1
