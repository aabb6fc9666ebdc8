"""Snapshots between replicas: what a follower behind the log's start is offered, and when it takes it (H2, H3, H10, H16).

Guarantee: a snapshot takes the place of a log only if that log does not hold the entry it stands for, and never one of what was
applied: state does not go back (H3).  What it replaces was not committed, or the snapshot stands for it.

A leader whose log no longer reaches back to what a follower needs says ``SnapshotOffer`` in place of AppendEntries, as often as it
says heartbeats, and gets answers as it does to them: a long transfer silences nobody (H16).  The follower's caller fetches the bytes
over a stream of their own, checks them whole, and only then installs them; the answer leaves once that is durable (H8).

Stores do not share a clock.  An offer says how old its snapshot is, and whoever takes it counts on from there: too young by what the way
took, never too old.
"""

from __future__ import annotations

from dataclasses import dataclass

from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.journal import Journal
from stele.services.raft.storage import Snapshot


@dataclass(frozen=True, slots=True)
class Offer:
    """What a leader has for this replica to fetch."""

    leader: int
    snapshot: Snapshot


def to_pb(snapshot: Snapshot, now_ms: int) -> pb.SnapshotInfo:
    """``now_ms``: of the time in which ``taken_ms`` is."""
    return pb.SnapshotInfo(
        index=snapshot.index,
        term=snapshot.term,
        members=membership.to_pb(snapshot.members),
        mark=snapshot.mark,
        age_ms=max(0, now_ms - snapshot.taken_ms),
        size=snapshot.size,
        crc=snapshot.crc,
    )


def from_pb(m: pb.SnapshotInfo, now_ms: int) -> Snapshot:
    return Snapshot(m.index, m.term, membership.from_pb(m.members), m.mark, max(0, now_ms - m.age_ms), m.size, m.crc)


def snapshot_for(journal: Journal) -> Snapshot:
    """What a follower gets that needs entries from before the log's start: the oldest snapshot that the log goes on from, so that it stays
    good the longest."""
    start = journal.first_index
    snapshot = next((s for s in journal.snapshots if s.index >= start - 1), None)
    if snapshot is None:
        raise AssertionError(f"the log begins at {start} and no snapshot stands for what was before (H10)")
    return snapshot


class SnapshotOffer:
    """The follower's side.  ``current`` is what it is to fetch; None: nothing."""

    __slots__ = ("_journal", "current")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.current: Offer | None = None

    def on_offer(self, leader: int, snapshot: Snapshot, commit_index: int) -> bool:
        """True if it is to be fetched; otherwise this replica has what it stands for."""
        if snapshot.index <= commit_index:
            self.current = None
            return False
        self.current = Offer(leader, snapshot)
        return True

    def verified_commit(self, snapshot: Snapshot) -> int:
        """How far an offer commits: the leader has committed what its snapshot stands for, which says nothing of entries that this log has
        in their place (H2)."""
        return snapshot.index if self.holds(snapshot) else 0

    def is_of_use(self, snapshot: Snapshot, commit_index: int) -> bool:
        """Asked once more when the bytes are here: meanwhile the log may have come instead.  Installed over what is applied it would take
        acknowledged entries out of the state; over a log that holds its entry it would cut what was acknowledged behind it (H3)."""
        return snapshot.index > commit_index and not self.holds(snapshot)

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether the log holds the very entry that ``snapshot`` stands for, and with it everything before (log matching)."""
        journal = self._journal
        return (
            journal.first_index <= snapshot.index <= journal.last_index
            and journal.term_at(snapshot.index) == snapshot.term
        )
