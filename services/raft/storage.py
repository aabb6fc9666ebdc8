"""What the Raft layer asks of stable storage.  ``datanode/log`` implements it on files; the simulator on a disk that forgets.

Everything here is synchronous: the journal calls it from one flush at a time, and reads committed entries from the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

REGULAR = 0
NO_OP = 1
MEMBERSHIP = 2


class Entry(NamedTuple):
    """One entry of a group's log.  A tuple: nothing is made as often."""

    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs
    term: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Members:
    """Who a group consists of: store ids, sorted.  Learners get the log and are not counted."""

    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a snapshot without its state."""

    index: int  # the last entry that its state stands for
    term: int  # that entry's term
    members: Members  # in force at that entry
    mark: int  # the machine's own measure of how far it is
    # When it was taken, by the time that this store has seen pass.  Not part of what makes two the same: the offers of one snapshot
    # tell its age, which each receiver turns into its own time, and a transfer goes on although that rounds differently.
    taken_ms: int = field(compare=False)
    size: int  # bytes of the state
    crc: int  # CRC32C of the state


class LogStorage(Protocol):
    """A durable sequence of entries with consecutive indexes.  It may begin behind 1: what stood before is in a snapshot (H10).

    ``append`` and ``truncate_from`` take effect for readers at once; they are durable only once ``sync`` has returned.
    OSError from any of them leaves the object unusable: the replica is failed (a sync that failed is never retried as if clean).
    Running out of space in ``append`` raises DiskFull with nothing appended.
    """

    @property
    def first_index(self) -> int: ...

    @property
    def last_index(self) -> int:
        """``first_index - 1`` while empty."""
        ...

    @property
    def bytes(self) -> int: ...

    def bytes_after(self, index: int) -> int:
        """Size of the entries behind ``index``, from any thread; rather a little too small than too large."""
        ...

    def term_at(self, index: int) -> int:
        """The term of an entry, or of the one before the first; IndexError for any other."""
        ...

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries ``first..last``, cut off after ``bytes_max`` payload bytes and before the first that is damaged; always at least one if
        ``first`` exists.  IndexError before the start, which moves while others read; LogDamaged (fact ``index``) if ``first`` is
        damaged."""
        ...

    def memberships(self) -> list[Entry]:
        """Every entry of kind MEMBERSHIP in the log, in order."""
        ...

    def append(self, entries: Sequence[Entry]) -> None: ...

    def truncate_from(self, index: int) -> None: ...

    def sync(self) -> None: ...

    def reset(self, index: int, term: int) -> None:
        """The log becomes empty and begins behind entry ``index`` of ``term``; durable when it returns.  The snapshot of that
        entry is durable BEFORE.  DiskFull: nothing but entries above ``index`` is gone, and it may be called again."""
        ...

    def drop_before(self, index: int) -> None:
        """Removes whole segments all of whose entries are below ``index``; never the active one."""
        ...

    def read_damaged(self, index: int) -> Entry | None:
        """An entry whose bytes do not check, as they stand; None where not even its length is certain.  IndexError."""
        ...

    # what was damaged is written anew (services/raft/mending.py)

    def seal(self) -> None:
        """What is stored now may be mended from here on.  Errors as of ``append``."""
        ...

    def sealed_around(self, index: int) -> tuple[int, int] | None:
        """The first and the last entry of the part that is mended as a whole, if ``index`` is damaged; None: not before ``seal``.
        IndexError."""
        ...

    def begin_mending(self, index: int) -> LogMending:
        """Of the part that holds ``index``; beside readers and the writer.  DiskFull, StorageFailed, IndexError."""
        ...

    def put_mended(self, mending: LogMending) -> bool:
        """A finished ``mending`` takes the place of what was damaged, durably; False if that is gone meanwhile."""
        ...

    def close(self) -> None: ...


class LogMending(Protocol):
    """A part of a log that is being written anew, beside the old one.  OSError from every method but ``discard``."""

    @property
    def next_index(self) -> int: ...

    @property
    def last_index(self) -> int: ...

    def add(self, entries: Sequence[Entry]) -> None:
        """From ``next_index`` on.  LogDamaged for what cannot have stood there."""
        ...

    def finish(self) -> None:
        """Once all up to ``last_index`` is added: whole and durable, not yet in its place.  LogDamaged if it is not what stood there."""
        ...

    def discard(self) -> None: ...


def is_ahead(snapshot: Snapshot, log: LogStorage) -> bool:
    """Whether ``log`` has to be reset before it can go on behind ``snapshot``: it ends before it, or is another history there."""
    if snapshot.index > log.last_index:
        return True
    return snapshot.index >= log.first_index - 1 and log.term_at(snapshot.index) != snapshot.term


class SnapshotSource(Protocol):
    """An open snapshot; it stays readable although it is dropped meanwhile."""

    @property
    def snapshot(self) -> Snapshot: ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the state; fewer than ``length`` only where it ends."""
        ...

    def close(self) -> None: ...


class SnapshotStorage(Protocol):
    """The snapshots of one replica.  ``snapshots`` is cheap and may be read from any thread; everything else blocks.

    Running out of space is DiskFull; any other failed write is StorageFailed, and then every later one is (a sync that failed
    is never retried as if clean).
    """

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Oldest first."""
        ...

    def write(self, snapshot: Snapshot, state: bytes) -> None:
        """Durable when it returns: aside, synced, renamed, folder synced.  The log is synced up to ``snapshot.index`` BEFORE: one that
        is ahead of its log is taken for proof that entries are gone (H10).  DiskFull leaves nothing; StorageFailed."""
        ...

    def read(self, index: int) -> bytes:
        """The state, checked: LogDamaged.  KeyError if there is no such snapshot."""
        ...

    def open(self, index: int) -> SnapshotSource:
        """KeyError if there is no such snapshot; LogDamaged: its state does not check, and nobody may be given it."""
        ...

    def drop_before(self, index: int) -> None:
        """Removes the snapshots whose index is below ``index``."""
        ...

    def drop(self, indexes: Set[int]) -> None:
        """Removes the snapshots at these indexes."""
        ...

    def set_aside(self, index: int) -> None:
        """A damaged one is no longer listed, and its bytes are kept where nobody looks for them; durable."""
        ...

    # a transfer, kept over restarts so that it can be resumed

    def staged(self, snapshot: Snapshot) -> int:
        """Bytes of this very snapshot that are staged; what was staged of another one is removed."""
        ...

    def stage(self, snapshot: Snapshot, offset: int, chunk: bytes) -> None:
        """Appends at ``offset``, which must be ``staged(snapshot)``.  Synced at the latest by ``check_staged``.  DiskFull keeps
        what was staged before."""
        ...

    def check_staged(self, snapshot: Snapshot) -> bytes:
        """The whole staged state, synced and checked against size and CRC.  LogDamaged: it does not check and has been removed."""
        ...

    def install_staged(self, snapshot: Snapshot) -> None:
        """It becomes the only snapshot, durable; older ones are removed.  The term of whoever offered it is stored BEFORE (H7):
        a log that begins behind a snapshot of a later term than the term file's is refused when it is opened."""
        ...


class TermStorage(Protocol):
    """The term and vote of a replica, replaced atomically."""

    def load(self) -> tuple[int, int]:
        """``(term, voted_for)``; ``(0, 0)`` if never stored.  Unreadable content raises LogDamaged: a replica that may have
        forgotten a vote must not start (H7)."""
        ...

    def store(self, term: int, voted_for: int) -> None:
        """Durable when it returns."""
        ...


class OpenStorage(Protocol):
    """A group's directory, opened under its exclusive lock (R3.5)."""

    @property
    def log(self) -> LogStorage: ...

    @property
    def terms(self) -> TermStorage: ...

    @property
    def snapshots(self) -> SnapshotStorage: ...

    @property
    def recovering(self) -> bool:
        """Entries that were synced here are lost and the term file is not: the replica stands for nothing until its peers have made it
        whole."""
        ...

    def note_synced(self) -> None:
        """Writes down, from any thread and without a sync, how far the log is synced: if it ends before that when it is opened the next
        time, it is ``recovering``."""
        ...

    def lost(self) -> None:
        """From here on it is ``recovering``; durable when this returns."""
        ...

    def recovered(self) -> None:
        """It is whole again; durable when this returns."""
        ...

    def close(self) -> None: ...
