"""When a replica that was started is up to date, so that it does not hold its node's ready gate any more (R4.1, R4.3).  Pure.

A node that is ready too early serves partitions as they were before it went down; one that waits for what cannot come never gets ready, and
with all nodes down at once nobody would be the first.  A replica that a leader speaks to and that comes no further holds up that one
partition; its node does not wait for it.
"""

from __future__ import annotations

from typing import Final

from stele.services.raft.timing import Timing

STUCK_ELECTIONS: Final = 10  # election timeouts in which nothing was applied


class CatchUp:
    """Times are monotonic seconds."""

    __slots__ = ("_applied", "_moved_at", "_quorum_connected_at", "_started_at", "_timing", "leader_commit")

    def __init__(self, now: float, timing: Timing) -> None:
        self._started_at = now
        self._timing = timing
        self._quorum_connected_at: float | None = None
        self.leader_commit: int | None = None  # the commit index that a leader reported first
        self._applied = 0
        self._moved_at: float | None = None  # when more was applied than before; None: it is not behind a leader

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
            if applied_index >= self.leader_commit:
                self._moved_at = None
                return True
            if self._moved_at is None or applied_index > self._applied:
                self._applied, self._moved_at = applied_index, now
            return now - leader_active_at >= self._timing.election_max_s or self.is_stuck(now)
        if self._quorum_connected_at is not None:
            return now - self._quorum_connected_at >= 3 * self._timing.heartbeat_s
        return now - self._started_at >= self._timing.election_max_s

    def is_stuck(self, now: float) -> bool:
        """It is behind what a leader reported when it started, and nothing was applied for long."""
        return self._moved_at is not None and now - self._moved_at >= STUCK_ELECTIONS * self._timing.election_max_s
