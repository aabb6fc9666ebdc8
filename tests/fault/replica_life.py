"""A replica's storage at work, and a judge of what is left of it after a crash.

The worker says what it is about to do and what it has done; the judge believes nothing else.  What was said to be done is there
after any crash; what was only begun is there or not, as a whole where it is promised to be one:

    append FIRST LAST TERM   appended LAST   synced LAST      cut INDEX             cutdone INDEX
    voting TERM VOTE         voted TERM VOTE                  snap INDEX TERM       snapped INDEX TERM
    drop INDEX               dropped INDEX                    install INDEX TERM    installed INDEX TERM
    staging INDEX TERM       full (no room: what was begun last has not happened)

Every entry, state and member follows from its index and term, so the judge knows what must stand there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from crc32c import crc32c

from stele.datanode.log import SegmentLog
from stele.services.errors import DiskFull, LogDamaged
from stele.services.raft.storage import MEMBERSHIP, Entry, Members, OpenStorage, Snapshot, is_ahead

SNAPSHOTS_MAX = 4
CHUNK_BYTES = 900
_MIXED = 2654435761


def entry(index: int, term: int) -> Entry:
    mixed = index * _MIXED + term * 40503
    size = (0, 5, 40, 200, 1400)[mixed % 5]
    text = f"{index}/{term} ".encode()
    kind = MEMBERSHIP if mixed % 17 == 0 else mixed % 2
    return Entry(index, term, kind, (text * (size // len(text) + 1))[:size])


def state(index: int, term: int) -> bytes:
    size = (index * _MIXED + term) % 4000
    text = f"state {index}/{term} ".encode()
    return (text * (size // len(text) + 1))[:size]


def snapshot(index: int, term: int) -> Snapshot:
    content = state(index, term)
    members = Members((1, 2, 3 + index % 4), (8,) if index % 3 == 0 else ())
    return Snapshot(index, term, members, index * 7, 1_700_000_000_000 + index, len(content), crc32c(content))


class Worker:
    """Goes on from what ``storage`` holds.  ``make_room`` is called when there was none."""

    def __init__(
        self,
        storage: OpenStorage,
        rng: random.Random,
        tell: Callable[[str], None],
        staging: tuple[int, int] | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._rng = rng
        self._tell = tell
        self._make_room = make_room
        self._term = storage.terms.load()[0]
        self._incoming = snapshot(*staging) if staging is not None else None
        self._synced = storage.log.last_index
        # Each life does much of one thing and nothing of another: together they do more kinds of things than lives that are all alike.
        self._weights = [weight * rng.choice((0, 1, 4)) for weight in (15, 10, 3, 4, 3, 4)]
        self._weights[0] += 10
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        """One thing of all that a replica does."""
        steps = (self._append, self._sync, self._cut, self._snap, self._drop, self._stage)
        [step] = self._rng.choices(steps, self._weights)
        if self._term == 0:
            step = self._new_term
        self.done[step.__name__.strip("_")] += 1
        try:
            step()
        except DiskFull:
            self._tell("full")
            self.done["no room"] += 1
            self._make_room()

    @property
    def _floor(self) -> int:
        """Nothing up to here is ever cut: it was applied."""
        held = self._storage.snapshots.snapshots
        return max(self._storage.log.first_index - 1, held[-1].index if held else 0)

    def _new_term(self) -> None:
        vote = self._rng.randint(0, 3)
        self._tell(f"voting {self._term + 1} {vote}")
        self._storage.terms.store(self._term + 1, vote)
        self._term += 1
        self._tell(f"voted {self._term} {vote}")

    def _append(self) -> None:
        first = self._storage.log.last_index + 1
        last = first + self._rng.randint(0, 12)
        self._tell(f"append {first} {last} {self._term}")
        self._storage.log.append([entry(index, self._term) for index in range(first, last + 1)])
        self._tell(f"appended {last}")

    def _sync(self) -> None:
        self._storage.log.sync()
        self._synced = self._storage.log.last_index
        self._tell(f"synced {self._synced}")

    def _cut(self) -> None:
        log = self._storage.log
        index = max(self._floor + 1, log.last_index - self._rng.choice((0, 3, 15, 60)))
        if index > log.last_index:
            return
        self._new_term()
        self._tell(f"cut {index}")
        log.truncate_from(index)
        self._synced = min(self._synced, index - 1)
        self._tell(f"cutdone {index}")

    def _snap(self) -> None:
        """Of what is synced."""
        log = self._storage.log
        if self._synced <= self._floor or len(self._storage.snapshots.snapshots) >= SNAPSHOTS_MAX:
            return
        index = self._rng.randint(self._floor + 1, self._synced)
        term = log.term_at(index)
        self._tell(f"snap {index} {term}")
        self._storage.snapshots.write(snapshot(index, term), state(index, term))
        self._tell(f"snapped {index} {term}")

    def _drop(self) -> None:
        """What a snapshot covers goes once log and snapshot are durable that far."""
        covered = [s.index for s in self._storage.snapshots.snapshots if s.index <= self._synced]
        if not covered:
            return
        index = self._rng.choice(covered)
        self._tell(f"drop {index}")
        self._storage.snapshots.drop_before(index)
        self._storage.log.drop_before(index + 1)
        self._tell(f"dropped {index}")

    def _stage(self) -> None:
        """A part of a transfer; at its end the install."""
        storage = self._storage
        if self._incoming is None or self._incoming.index <= self._floor or not is_ahead(self._incoming, storage.log):
            self._offered()
        incoming = self._incoming
        assert incoming is not None
        content = state(incoming.index, incoming.term)
        for _ in range(self._rng.randint(1, 6)):
            at = storage.snapshots.staged(incoming)
            if at == incoming.size:
                self._install(incoming)
                return
            storage.snapshots.stage(incoming, at, content[at : at + CHUNK_BYTES])

    def _offered(self) -> None:
        """Another store's snapshot: beyond the log's end, or of another history at an entry that was never committed here."""
        log = self._storage.log
        self._new_term()
        beyond = log.last_index <= self._floor or self._rng.random() < 0.6
        low, high = (log.last_index + 1, log.last_index + 80) if beyond else (self._floor + 1, log.last_index)
        self._incoming = snapshot(self._rng.randint(low, high), self._term)
        self._tell(f"staging {self._incoming.index} {self._incoming.term}")

    def _install(self, incoming: Snapshot) -> None:
        storage = self._storage
        try:
            storage.snapshots.check_staged(incoming)
        except LogDamaged:  # a power loss tore it, and only now is that seen
            self.done["transfer torn"] += 1
            return
        self._tell(f"install {incoming.index} {incoming.term}")
        storage.snapshots.install_staged(incoming)
        while True:
            try:
                storage.log.reset(incoming.index, incoming.term)
                break
            except DiskFull:
                self._make_room()
        self._synced = incoming.index
        self._incoming = None
        self.done["installed"] += 1
        self._tell(f"installed {incoming.index} {incoming.term}")


@dataclass
class Judge:
    """What the worker's words say about what must be there."""

    base: int = 0  # entries up to here are in no log any more
    terms: list[int] = field(default_factory=list)  # of the entries behind ``base``, whether synced or not
    promised: int = 0
    appending: int = 0
    cutting: int = 0
    vote: tuple[int, int] = (0, 0)
    voting: tuple[int, int] = (0, 0)
    kept: dict[int, int] = field(default_factory=dict)  # snapshots: index → term
    writing: tuple[int, int] | None = None
    dropped: int = 0
    staging: tuple[int, int] | None = None
    installing: tuple[int, int] | None = None

    def hear(self, line: str) -> None:
        what, *words = line.split()
        numbers = [int(word) for word in words]
        match what, numbers:
            case "append", [first, last, term]:
                self.appending = first
                self.terms += [term] * (last - first + 1)
            case "appended", [_]:
                pass  # readable, and not yet promised
            case "synced", [last]:
                self.promised = last
            case "cut", [index]:
                self.cutting = index
            case "cutdone", [index]:
                self._cut(index)
            case "voting", [term, vote]:
                self.voting = (term, vote)
            case "voted", [term, vote]:
                self.vote = (term, vote)
            case "snap", [index, term]:
                self.writing = (index, term)
            case "snapped", [index, term]:
                self.kept[index] = term
                self.writing = None
            case "drop", [index]:
                self.dropped = max(self.dropped, index)
            case "dropped", [index]:
                self.kept = {i: term for i, term in self.kept.items() if i >= index}
            case "staging", [index, term]:
                self.staging = (index, term)
            case "install", [index, term]:
                self.installing = (index, term)
            case "installed", [index, term]:
                self._installed(index, term)
            case "full", []:
                if self.writing is None and self.appending:
                    del self.terms[self.appending - self.base - 1 :]
                self.writing = None
            case _:
                raise AssertionError(f"the worker says {line!r}")
        if what != "append":
            self.appending = 0

    def _cut(self, index: int) -> None:
        del self.terms[max(0, index - self.base - 1) :]
        self.promised = min(self.promised, index - 1)
        self.cutting = 0

    def _installed(self, index: int, term: int) -> None:
        self.base = self.dropped = self.promised = index
        self.terms.clear()
        self.kept = {index: term}
        self.installing = self.staging = None
        self.cutting = 0

    def check(self, storage: OpenStorage) -> None:
        """AssertionError unless everything promised is there and everything there is right.  What is there is promised from now on."""
        assert storage.terms.load() in (self.vote, self.voting), f"{storage.terms.load()} is neither vote"
        self.vote = self.voting = storage.terms.load()
        self._check_snapshots(storage)
        self._check_log(storage)

    def _check_snapshots(self, storage: OpenStorage) -> None:
        found = {s.index: s.term for s in storage.snapshots.snapshots}
        for s in storage.snapshots.snapshots:
            assert s == snapshot(s.index, s.term), f"snapshot {s.index} has another head"
            assert storage.snapshots.read(s.index) == state(s.index, s.term), f"snapshot {s.index} has another state"
        if self.installing is not None and found.get(self.installing[0]) == self.installing[1]:
            self._installed(*self.installing)
        maybe = dict([self.writing]) if self.writing is not None else {}
        last = storage.log.last_index
        for index, term in found.items():
            assert term == {**self.kept, **maybe}.get(index), f"snapshot {index}/{term} was never written"
            assert index <= last, f"snapshot {index} is ahead of the log's {last}"
        missing = [i for i in self.kept if i >= self.dropped and i <= last and i not in found]
        assert not missing, f"snapshots {missing} were promised; there are {sorted(found)}"
        assert storage.log.first_index == 1 or min(found, default=last + 1) >= storage.log.first_index - 1
        self.kept, self.writing, self.installing = found, None, None

    def _check_log(self, storage: OpenStorage) -> None:
        log = storage.log
        assert isinstance(log, SegmentLog)
        log.validate()
        first, last = log.first_index, log.last_index
        promised = min(self.promised, self.cutting - 1) if self.cutting else self.promised
        assert last >= promised, f"{promised} entries were promised, {last} are there"
        assert last <= self.base + len(self.terms), (
            f"{last} entries are there, {self.base + len(self.terms)} were written"
        )
        assert self.base < first <= max(self.base, self.dropped) + 1, f"the log begins at {first}"
        expected = [entry(i, self.terms[i - self.base - 1]) for i in range(first, last + 1)]
        assert log.read(first, last, 1 << 40) == expected, "other entries"
        assert log.memberships() == [e for e in expected if e.kind == MEMBERSHIP], "other members"
        del self.terms[last - self.base :]
        self.promised, self.cutting, self.appending = last, 0, 0
