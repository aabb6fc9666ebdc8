"""What a replica has to send, and what must be on its disk before.

Guarantee: PERSIST BEFORE PROMISE.  A message that promises something (a vote asked or granted, a success answer) leaves only once
everything that the journal had been told before it is synced.  Sent earlier, a crash would take back what others count on: a second
vote in one term makes two leaders, an acknowledgement without its entry loses what a client was told is safe (R3.8, H7).
"""

from __future__ import annotations

from typing import NamedTuple

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal


class Outgoing(NamedTuple):
    """A message and the journal position that must be synced before it leaves."""

    to: int
    message: pb.RaftMessage
    after: int


class Outbox:
    """Messages of one replica, in the order in which they were put in."""

    __slots__ = ("_group_id", "_journal", "_waiting")

    def __init__(self, group_id: int, journal: Journal) -> None:
        self._group_id = group_id
        self._journal = journal
        self._waiting: list[Outgoing] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, to: int, term: int, message: pb.RaftMessage, promise: bool = False) -> None:
        """``term``: the sender's, now.  A ``promise`` waits for every change the journal knows of."""
        message.group = self._group_id
        message.term = term
        if promise:
            self._forget_superseded(to, message)
        self._waiting.append(Outgoing(to, message, self._journal.position if promise else 0))

    def _forget_superseded(self, to: int, message: pb.RaftMessage) -> None:
        """Of two answers in a row that wait for the same change the later one says all: a leader goes on asking for as long as a disk
        stands still."""
        at = next((i for i in reversed(range(len(self._waiting))) if self._waiting[i].after), None)
        if at is None or (self._waiting[at].to, self._waiting[at].after) != (to, self._journal.position):
            return
        old, new = self._waiting[at].message, message
        if (
            old.term == new.term
            and 0 < old.append_answer.match_index <= new.append_answer.match_index
            and old.append_answer.recovering == new.append_answer.recovering
        ):
            del self._waiting[at]

    def take_ready(self) -> list[Outgoing]:
        """What may leave now.  What promises nothing overtakes what waits: it says nothing of the changes before it."""
        if not self._waiting:
            return []
        synced = self._journal.synced_position
        ready = [o for o in self._waiting if o.after <= synced]
        if ready:
            self._waiting = [o for o in self._waiting if o.after > synced]
        return ready

    def clear(self) -> None:
        """The replica has failed: what it was about to promise it cannot keep."""
        self._waiting.clear()

    def validate(self) -> None:
        positions = [o.after for o in self._waiting if o.after]
        assert positions == sorted(positions), positions
        assert not positions or positions[-1] <= self._journal.position
