"""Snapshots between replicas: what a follower behind the log's start is offered, and when it takes it (H3, H8, H16).

Guarantee: a snapshot takes the place of a log only if that log does not hold the entry it stands for, and never one of what was
applied: state does not go back (H3).  What it replaces was not committed, or the snapshot stands for it.

A leader whose log no longer reaches back to what a follower needs says ``SnapshotOffer`` in place of AppendEntries, as often as it
says heartbeats, and gets answers as it does to them: a long transfer silences nobody (H16).  The follower's caller fetches the bytes
over a stream of their own, checks them whole, and only then calls :meth:`Snapshots.install`; the answer leaves once it is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.replication import Peer, Replication
from stele.services.raft.storage import Snapshot


class StateMachine(Protocol):
    """What a group replicates.  ``apply`` is deterministic and answers a bad command with a result, never an exception (H11)."""

    def apply(self, index: int, term: int, payload: bytes) -> object: ...

    def snapshot(self) -> tuple[bytes, int]:
        """The state after what was applied, and how far it is by the machine's own measure."""
        ...

    def restore(self, state: bytes) -> None:
        """Becomes what ``snapshot`` gave.  ValueError if ``state`` is no state, and then nothing has changed."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """What a leader has for this replica to fetch."""

    leader: int
    snapshot: Snapshot


def to_pb(snapshot: Snapshot) -> pb.SnapshotInfo:
    return pb.SnapshotInfo(
        index=snapshot.index,
        term=snapshot.term,
        members=membership.to_pb(snapshot.members),
        mark=snapshot.mark,
        time_ms=snapshot.time_ms,
        size=snapshot.size,
        crc=snapshot.crc,
    )


def from_pb(m: pb.SnapshotInfo) -> Snapshot:
    return Snapshot(m.index, m.term, membership.from_pb(m.members), m.mark, m.time_ms, m.size, m.crc)


class Snapshots(Replication):
    """Both ends of SnapshotOffer."""

    def __init__(self, *library: Any, machine: StateMachine, **elections: Any) -> None:
        self.machine = machine
        self.offer: Offer | None = None
        self.on_offer: Callable[[], None] = lambda: None
        self._applied = 0
        super().__init__(*library, **elections)
        self._applied = self.commit_index  # of the snapshot that the machine was restored from

    @property
    def applied_index(self) -> int:
        return self._applied

    @property
    def offered_index(self) -> int | None:
        """The oldest snapshot that a living follower was offered and may be fetching: it and the log behind it must stay."""
        recent = self._now() - self.timing.election_max_s
        return min((p.offered for p in self._peers.values() if p.offered and p.heard_at > recent), default=None)

    def _offer_snapshot(self, follower: int, peer: Peer, now: float) -> None:
        if now - peer.sent_at < self.timing.heartbeat_s:
            return
        start = self.journal.first_index
        snapshot = next((s for s in self.journal.snapshots if s.index >= start - 1), None)
        if snapshot is None:
            raise AssertionError(f"the log begins at {start} and no snapshot stands for what was before (H10)")
        self._request += 1
        peer.sent_at, peer.commit_sent, peer.offered = now, self.commit_index, snapshot.index
        offer = pb.SnapshotOffer(request=self._request, snapshot=to_pb(snapshot))
        self._emit(follower, pb.RaftMessage(snapshot_offer=offer))

    def _on_snapshot_offer(self, leader: int, term: int, m: pb.SnapshotOffer) -> None:
        if not self._obey(leader, term, m.request):
            return
        snapshot = from_pb(m.snapshot)
        if self._leader_commit_at_start is None:
            self._leader_commit_at_start = snapshot.index
        self._contact(leader, snapshot.index if self._has(snapshot) else 0)
        if snapshot.index <= self.commit_index:
            self.offer = None
            self._accept(leader, snapshot.index)
            return
        self.offer = Offer(leader, snapshot)
        self._accept(leader, 0, promise=False)  # alive, and no further than before
        self.on_offer()

    def install(self, snapshot: Snapshot, state: bytes) -> bool:
        """``snapshot`` is staged and checked: it becomes the state and the start of the log.  False if it is of no use any more.

        Raises ValueError if the machine cannot read ``state``; nothing has changed then.
        """
        self.offer = None
        if self.failed or snapshot.index <= self.commit_index or self._has(snapshot):  # H3
            return False
        self.machine.restore(state)
        self.journal.install(snapshot)
        self._applied = snapshot.index
        self.commit_index = snapshot.index
        self._members_may_have_changed()
        if self._answering[0] == self.term and self.leader and not self.is_leader:
            self._accept(self.leader, snapshot.index)
        self.on_change()
        return True

    def _has(self, snapshot: Snapshot) -> bool:
        """Whether the log holds the very entry that ``snapshot`` stands for, and with it everything before (log matching)."""
        journal = self.journal
        return (
            journal.first_index <= snapshot.index <= journal.last_index
            and journal.term_at(snapshot.index) == snapshot.term
        )

    def match_index(self, store_id: int) -> int:
        """On the leader: up to where that member is known to hold the log; 0 for others."""
        if store_id == self.store_id:
            return self.journal.synced_index
        return self._peers[store_id].match_index if store_id in self._peers else 0
