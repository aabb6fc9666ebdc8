"""Linearizable reads without a log entry: ReadIndex (H15; Ongaro's dissertation, section 6.4).

Guarantee: when a read is done, the machine holds everything that was acknowledged to anybody before the read arrived.

A leader that answers from memory may have been deposed without knowing.  So: it notes which AppendEntries it sends next, waits until a
majority has answered one of those or a later one (it led when they were sent, after the read arrived), and until an entry of its
own term is committed (only then it knows everything that its predecessors acknowledged); then the commit index is the point
up to which it must have applied.  All reads that arrive while a round is under way share the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stele.services.errors import NotLeader, Overloaded, SteleError
from stele.services.raft.quorum import is_majority
from stele.services.raft.snapshots import Snapshots

READS_MAX: Final = 20_000

ReadDone = Callable[[int, SteleError | None], None]


class Reads(Snapshots):
    """The leader's side; followers only answer heartbeats."""

    def __init__(self, *library: Any, **parts: Any) -> None:
        self._arrived: list[ReadDone] = []
        self._in_round: list[ReadDone] = []
        self._round_after: int | None = None  # the round is confirmed by answers to requests above this number
        self._confirmed: list[tuple[int, ReadDone]] = []  # (index to be applied, read), by index
        super().__init__(*library, **parts)

    def read_index(self, done: ReadDone) -> None:
        """``done(applied_index, None)`` follows once the machine may be read, or ``done(0, error)``: NotLeader when leadership is lost.

        Raises NotLeader, Overloaded, or what made the replica fail.  A read has no effect, so every error is definite.
        """
        if self.failed:
            raise self.failed
        if not self.is_leader:
            raise NotLeader(f"group {self.group_id} is not led by store {self.store_id}", leader=self.leader or None)
        if len(self._arrived) + len(self._in_round) + len(self._confirmed) >= READS_MAX:
            raise Overloaded(f"group {self.group_id} has {READS_MAX} reads in flight", limit=READS_MAX)
        self._arrived.append(done)
        self._wake()

    def _has_reads(self) -> bool:
        return bool(self._arrived or self._in_round or self._confirmed)

    def _start_round(self) -> None:
        """Before AppendEntries are sent: they are the round of the reads that have arrived."""
        if self._arrived and self._round_after is None:
            self._round_after = self._request
            self._in_round, self._arrived = self._arrived, []
            for peer in self._peers.values():
                peer.sent_at = float("-inf")

    def _confirm_round(self) -> None:
        """After answers were received and the commit index moved."""
        after = self._round_after
        if after is None or self.journal.term_at(self.commit_index) != self.term:
            return
        answered = {m for m, peer in self._peers.items() if peer.answered > after}
        if is_majority({self.store_id, *answered}, self.members.voters):
            self._confirmed += [(self.commit_index, done) for done in self._in_round]
            self._in_round, self._round_after = [], None

    def _end_confirmed(self) -> None:
        """After applying."""
        ready = 0
        while ready < len(self._confirmed) and self._confirmed[ready][0] <= self._applied:
            ready += 1
        done, self._confirmed = self._confirmed[:ready], self._confirmed[ready:]
        for _, read in done:
            self._isolated(read, self._applied, None)

    def _isolated(self, done: Callable[..., None], *outcome: Any) -> None:
        """Calls ``done``; what it raises is its own affair (H11)."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Something is asked of this leader: services/raft/sleeping.py."""
        raise NotImplementedError

    def _end_reads(self, error: SteleError) -> None:
        reads = [*(read for _, read in self._confirmed), *self._in_round, *self._arrived]
        self._confirmed, self._in_round, self._arrived, self._round_after = [], [], [], None
        for read in reads:
            self._isolated(read, 0, error)
