"""What the Raft layer asks of stable storage.  ``datanode/log`` implements it on files; the simulator on a disk that forgets.

Everything here is synchronous: the journal calls it from one flush at a time, and reads committed entries from the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

REGULAR = 0
NO_OP = 1
MEMBERSHIP = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a group's log."""

    index: int
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
    time_ms: int  # when it was taken, wall clock, ms since 1970
    size: int  # bytes of the state
    crc: int  # CRC32C of the state


class LogStorage(Protocol):
    """A durable sequence of entries with consecutive indexes.

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

    def term_at(self, index: int) -> int: ...

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries ``first..last``, cut off after ``bytes_max`` payload bytes; always at least one if ``first`` exists."""
        ...

    def append(self, entries: Sequence[Entry]) -> None: ...

    def truncate_from(self, index: int) -> None: ...

    def sync(self) -> None: ...

    def memberships(self) -> list[Entry]:
        """Every entry of kind MEMBERSHIP in the log, in order."""
        ...

    def reset(self, index: int, term: int) -> None:
        """The log becomes empty and begins behind entry ``index`` of ``term``; durable when it returns."""
        ...

    def drop_before(self, index: int) -> None:
        """Removes whole segments all of whose entries are below ``index``; never the active one."""
        ...

    def close(self) -> None: ...


class SnapshotSource(Protocol):
    """An open snapshot; stays readable although it is dropped meanwhile."""

    @property
    def snapshot(self) -> Snapshot: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class SnapshotStorage(Protocol):
    """The snapshots of one replica.  ``snapshots`` is cheap and may be read from any thread; everything else blocks."""

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Oldest first."""
        ...

    def write(self, snapshot: Snapshot, state: bytes) -> None:
        """Durable when it returns.  DiskFull leaves nothing; StorageFailed."""
        ...

    def read(self, index: int) -> bytes:
        """The state, checked: LogDamaged.  KeyError if there is no such snapshot."""
        ...

    def open(self, index: int) -> SnapshotSource:
        """KeyError if there is no such snapshot."""
        ...

    def drop_before(self, index: int) -> None:
        """Removes the snapshots whose index is below ``index``."""
        ...

    def staged(self, snapshot: Snapshot) -> int:
        """Bytes of this very snapshot that were staged, by this run or an earlier one; what was staged of another one is removed."""
        ...

    def stage(self, snapshot: Snapshot, offset: int, chunk: bytes) -> None:
        """Adds ``chunk`` at ``offset``, which must be ``staged(snapshot)``."""
        ...

    def check_staged(self, snapshot: Snapshot) -> bytes:
        """The whole staged state, synced and checked.  LogDamaged: it does not check and has been removed."""
        ...

    def install_staged(self, snapshot: Snapshot) -> None:
        """It becomes the only snapshot, durable when this returns.  Nothing if that has happened already."""
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
        """The log that was here is lost and its term file is not: the replica stands for nothing until its peers have made it whole."""
        ...

    def recovered(self) -> None:
        """It is whole again; durable when this returns."""
        ...

    def close(self) -> None: ...
