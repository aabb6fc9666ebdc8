"""Linearizable reads without a log entry: ReadIndex (H15; Ongaro's dissertation, section 6.4).

Guarantee: when a read is done, the machine holds everything that was acknowledged to anybody before the read arrived.

A leader that answers from memory may have been deposed without knowing.  So: it notes which AppendEntries it sends next, waits until a
majority has answered one of those or a later one (it led when they were sent, after the read arrived), and until an entry of its
own term is committed (only then it knows everything that its predecessors acknowledged); then the commit index is the point
up to which it must have applied.  All reads that arrive while a round is under way share the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from stele.services.errors import SteleError
from stele.services.raft.progress import Progress
from stele.services.raft.quorum import is_majority

READS_MAX: Final = 20_000

ReadDone = Callable[[int, SteleError | None], None]


class ReadIndex:
    """The leader's side; followers only answer heartbeats."""

    __slots__ = ("_arrived", "_confirmed", "_in_round", "_round_after", "_store_id")

    def __init__(self, store_id: int) -> None:
        self._store_id = store_id
        self._arrived: list[ReadDone] = []
        self._in_round: list[ReadDone] = []
        self._round_after: int | None = None  # the round is confirmed by answers to requests above this number
        self._confirmed: list[tuple[int, ReadDone]] = []  # (index to be applied, read), by index

    def __len__(self) -> int:
        """Reads that are not done."""
        return len(self._arrived) + len(self._in_round) + len(self._confirmed)

    def add(self, done: ReadDone) -> None:
        self._arrived.append(done)

    def start_round(self, newest_request: int) -> bool:
        """Before AppendEntries are sent.  True: those are the round of the reads that have arrived, and every follower must get one.

        An answer to what was sent before a read arrived says that this replica led *then*; another may have been elected and have
        acknowledged a write since."""
        if not self._arrived or self._round_after is not None:
            return False
        self._round_after = newest_request
        self._in_round, self._arrived = self._arrived, []
        return True

    def confirm(
        self,
        commit_index: int,
        committed_in_term: bool,
        followers: Mapping[int, Progress],
        voters: tuple[int, ...],
    ) -> None:
        """After answers were received and the commit index moved.

        ``committed_in_term``: the entry at the commit index is of this leader's own term.  Until then entries that were
        acknowledged under its predecessors are in its log, but it does not know how many of them, and its commit index may lie
        before them."""
        after = self._round_after
        if after is None or not self._may_confirm(committed_in_term):
            return
        answered = {store for store, progress in followers.items() if progress.answered_request > after}
        if is_majority({self._store_id, *answered}, voters):
            self._confirmed += [(commit_index, done) for done in self._in_round]
            self._in_round, self._round_after = [], None

    def _may_confirm(self, committed_in_term: bool) -> bool:
        return committed_in_term

    def take_done(self, applied_index: int) -> list[ReadDone]:
        """Reads for which everything has been applied."""
        ready = 0
        while ready < len(self._confirmed) and self._confirmed[ready][0] <= applied_index:
            ready += 1
        done, self._confirmed = self._confirmed[:ready], self._confirmed[ready:]
        return [read for _, read in done]

    def take_all(self) -> list[ReadDone]:
        """All of them: leadership is lost, or the replica has failed."""
        reads = [*(read for _, read in self._confirmed), *self._in_round, *self._arrived]
        self._confirmed, self._in_round, self._arrived, self._round_after = [], [], [], None
        return reads

    def validate(self) -> None:
        assert bool(self._in_round) == (self._round_after is not None)
        indexes = [index for index, _ in self._confirmed]
        assert indexes == sorted(indexes), indexes
