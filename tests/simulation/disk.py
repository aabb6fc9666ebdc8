"""Storage that forgets: what was not synced may be lost in any prefix at a crash."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.errors import DiskFull
from services.raft.storage import Entry


@dataclass
class Platter:
    """What survives a crash: the synced log, and the changes made to it since, in order; the term file is atomic."""

    synced: list[Entry] = field(default_factory=list)
    unsynced: list[tuple[str, object]] = field(default_factory=list)
    term: tuple[int, int] = (0, 0)
    recovering: bool = False

    def lose_log(self) -> None:
        """The log is damaged and set aside; the term file is whole (R4.5)."""
        self.synced.clear()
        self.unsynced.clear()
        self.recovering = True

    def crash(self, rng: random.Random) -> None:
        """Any prefix of the unsynced changes survives."""
        kept = rng.randint(0, len(self.unsynced))
        for kind, what in self.unsynced[:kept]:
            _change(self.synced, kind, what)
        self.unsynced.clear()


def _change(entries: list[Entry], kind: str, what: object) -> None:
    if kind == "append":
        assert isinstance(what, Entry)
        entries.append(what)
    else:
        assert isinstance(what, int)
        del entries[what - 1 :]


class SimulatedLog:
    """LogStorage over a platter.  ``full`` and ``broken`` inject ENOSPC and EIO."""

    def __init__(self, platter: Platter) -> None:
        self._platter = platter
        self._entries = list(platter.synced)
        self.full = False
        self.broken = False

    @property
    def first_index(self) -> int:
        return 1

    @property
    def last_index(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        return sum(len(e.payload) for e in self._entries)

    def term_at(self, index: int) -> int:
        return self._entries[index - 1].term

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for entry in self._entries[first - 1 : last]:
            found.append(entry)
            size += len(entry.payload)
            if size >= bytes_max:
                break
        return found

    def append(self, entries: Sequence[Entry]) -> None:
        if self.broken:
            raise OSError(5, "simulated EIO")
        if self.full:
            raise DiskFull("simulated ENOSPC")
        for entry in entries:
            assert entry.index == len(self._entries) + 1
            self._entries.append(entry)
            self._platter.unsynced.append(("append", entry))

    def truncate_from(self, index: int) -> None:
        del self._entries[index - 1 :]
        self._platter.unsynced.append(("truncate", index))

    def sync(self) -> None:
        if self.broken:
            raise OSError(5, "simulated EIO")
        for kind, what in self._platter.unsynced:
            _change(self._platter.synced, kind, what)
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
