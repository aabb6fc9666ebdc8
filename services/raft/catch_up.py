"""When a replica that was started is up to date, so that it does not hold its node's ready gate any more (R4.1, R4.3).  Pure.

A node that is ready too early serves partitions as they were before it went down; one that waits for what cannot come never gets ready, and
with all nodes down at once nobody would be the first.
"""

from __future__ import annotations

from stele.services.raft.timing import Timing


class CatchUp:
    """Times are monotonic seconds."""

    __slots__ = ("_quorum_connected_at", "_started_at", "_timing", "leader_commit")

    def __init__(self, now: float, timing: Timing) -> None:
        self._started_at = now
        self._timing = timing
        self._quorum_connected_at: float | None = None
        self.leader_commit: int | None = None  # the commit index that a leader reported first

    def on_leader_commit(self, index: int) -> None:
        if self.leader_commit is None:
            self.leader_commit = index

    def on_majority_connected(self, now: float) -> None:
        if self._quorum_connected_at is None:
            self._quorum_connected_at = now

    @property
    def awaits_majority(self) -> bool:
        return self._quorum_connected_at is None

    def is_done(self, now: float, applied_index: int, leader_active_at: float) -> bool:
        """For one that has others.  Applied up to the commit index that a leader reported first (R4.1), or no leader anywhere (R4.3): a
        majority has been connected for three heartbeats, or none could be reached for an election timeout, without a word of a leader."""
        if self.leader_commit is not None:
            silent = now - leader_active_at >= self._timing.election_max_s
            return applied_index >= self.leader_commit or silent
        if self._quorum_connected_at is not None:
            return now - self._quorum_connected_at >= 3 * self._timing.heartbeat_s
        return now - self._started_at >= self._timing.election_max_s
