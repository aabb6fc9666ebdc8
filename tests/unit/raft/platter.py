"""Storage that forgets, for replicas moved by hand: what was not synced may be lost in any prefix at a crash."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from crc32c import crc32c

from stele.services.errors import DiskFull, LogDamaged
from stele.services.raft.storage import MEMBERSHIP, Entry, Snapshot, SnapshotSource


@dataclass
class Kept:
    """A log: the entries behind ``base``, whose term is ``base_term``."""

    base: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)

    def copy(self) -> Kept:
        return Kept(self.base, self.base_term, list(self.entries))

    def change(self, kind: str, what: object) -> None:
        match kind, what:
            case "append", Entry():
                self.entries.append(what)
            case "truncate", int():
                del self.entries[what - self.base - 1 :]
            case "drop", int():
                gone = [e for e in self.entries if e.index < what]
                if gone:
                    self.base, self.base_term = gone[-1].index, gone[-1].term
                    del self.entries[: len(gone)]
            case "reset", (int(index), int(term)):
                self.base, self.base_term = index, term
                self.entries.clear()
            case _:
                raise AssertionError(kind)


@dataclass
class Platter:
    """What survives a crash: the synced log, and the changes made to it since, in order; terms and snapshots are atomic."""

    synced: Kept = field(default_factory=Kept)
    unsynced: list[tuple[str, object]] = field(default_factory=list)
    term: tuple[int, int] = (0, 0)
    snapshots: list[tuple[Snapshot, bytes]] = field(default_factory=list)
    staged: tuple[Snapshot, bytes] | None = None
    recovering: bool = False

    def crash(self, rng: random.Random) -> None:
        """Any prefix of the unsynced changes survives."""
        for kind, what in self.unsynced[: rng.randint(0, len(self.unsynced))]:
            self.synced.change(kind, what)
        self.unsynced.clear()


class SimulatedLog:
    """LogStorage over a platter.  ``full`` and ``broken`` inject ENOSPC and EIO.  A segment is one entry."""

    def __init__(self, platter: Platter) -> None:
        self._platter = platter
        self._now = platter.synced.copy()
        self.full = False
        self.broken = False

    @property
    def first_index(self) -> int:
        return self._now.base + 1

    @property
    def last_index(self) -> int:
        return self._now.base + len(self._now.entries)

    @property
    def bytes(self) -> int:
        return sum(len(e.payload) for e in self._now.entries)

    def term_at(self, index: int) -> int:
        if index == self._now.base:
            return self._now.base_term
        return self._now.entries[index - self.first_index].term

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        if first < self.first_index:
            raise IndexError(first)
        found: list[Entry] = []
        size = 0
        for entry in self._now.entries[first - self.first_index : last - self._now.base]:
            found.append(entry)
            size += len(entry.payload)
            if size >= bytes_max:
                break
        return found

    def memberships(self) -> list[Entry]:
        return [e for e in self._now.entries if e.kind == MEMBERSHIP]

    def append(self, entries: Sequence[Entry]) -> None:
        if self.broken:
            raise OSError(5, "simulated EIO")
        if self.full:
            raise DiskFull("simulated ENOSPC")
        for entry in entries:
            assert entry.index == self.last_index + 1
            self._change("append", entry)

    def truncate_from(self, index: int) -> None:
        self._change("truncate", index)

    def drop_before(self, index: int) -> None:
        self._change("drop", index)

    def reset(self, index: int, term: int) -> None:
        self._change("reset", (index, term))
        self.sync()

    def _change(self, kind: str, what: object) -> None:
        self._now.change(kind, what)
        self._platter.unsynced.append((kind, what))

    def sync(self) -> None:
        if self.broken:
            raise OSError(5, "simulated EIO")
        for kind, what in self._platter.unsynced:
            self._platter.synced.change(kind, what)
        self._platter.unsynced.clear()

    def close(self) -> None:
        return None


class SimulatedTerms:
    """TermStorage over a platter: replaced atomically, durable when ``store`` returns."""

    def __init__(self, platter: Platter) -> None:
        self._platter = platter

    def load(self) -> tuple[int, int]:
        return self._platter.term

    def store(self, term: int, voted_for: int) -> None:
        self._platter.term = (term, voted_for)


class SimulatedSnapshots:
    """SnapshotStorage over a platter: each step atomic and durable."""

    def __init__(self, platter: Platter) -> None:
        self._platter = platter

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(snapshot for snapshot, _ in self._platter.snapshots)

    def write(self, snapshot: Snapshot, state: bytes) -> None:
        self._platter.snapshots.append((snapshot, state))

    def read(self, index: int) -> bytes:
        return {snapshot.index: state for snapshot, state in self._platter.snapshots}[index]

    def open(self, index: int) -> SnapshotSource:
        raise NotImplementedError

    def drop_before(self, index: int) -> None:
        self._platter.snapshots = [(s, state) for s, state in self._platter.snapshots if s.index >= index]

    def staged(self, snapshot: Snapshot) -> int:
        if self._platter.staged is None or self._platter.staged[0] != snapshot:
            self._platter.staged = (snapshot, b"")
        return len(self._platter.staged[1])

    def stage(self, snapshot: Snapshot, offset: int, chunk: bytes) -> None:
        assert self.staged(snapshot) == offset
        assert self._platter.staged is not None
        self._platter.staged = (snapshot, self._platter.staged[1] + chunk)

    def check_staged(self, snapshot: Snapshot) -> bytes:
        assert self._platter.staged is not None
        staged, state = self._platter.staged
        if staged != snapshot or len(state) != snapshot.size or crc32c(state) != snapshot.crc:
            self._platter.staged = None
            raise LogDamaged("the staged snapshot does not check")
        return state

    def install_staged(self, snapshot: Snapshot) -> None:
        if self._platter.staged is not None and self._platter.staged[0] == snapshot:
            self._platter.snapshots = [self._platter.staged]
            self._platter.staged = None
