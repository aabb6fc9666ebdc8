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

    def close(self) -> None: ...


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
    def recovering(self) -> bool:
        """The log that was here is lost and its term file is not: the replica stands for nothing until its peers have made it whole."""
        ...

    def recovered(self) -> None:
        """It is whole again; durable when this returns."""
        ...

    def close(self) -> None: ...
