"""Leadership that is given up: why, and how it passes to a successor without a gap (Ongaro's dissertation, section 3.10).

Guarantee: from when a successor is chosen until it leads, or is given up, the leader takes nothing more; the successor is asked to campaign
once it holds everything and everything is committed.  So it wins unless another is elected meanwhile, and no proposal ends with an outcome
that is not known.  A leader that went on taking proposals would give the other voters entries that its successor lacks, for which they
refuse it their votes, and the group would be without a leader for an election timeout.

A successor that has not taken over for ``Timing.handover_s`` (it may not campaign: its gate is closed, its disk full) is given up and
passed over for an election timeout, and the leader takes proposals again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stele.services.errors import NotLeader
from stele.services.raft.journal import Journal
from stele.services.raft.timing import Timing

DAMAGED_PATIENCE: Final = 5
"""Election timeouts between two handovers for damage: by then it is mended, or the others have it too."""


class Handover:
    """Of a leader.  Times are monotonic seconds."""

    __slots__ = (
        "_asked",
        "_group_id",
        "_journal",
        "_look_at",
        "_passed_over",
        "_store_id",
        "_synced_at",
        "_synced_seen",
        "_timing",
        "_until",
        "cause",
        "successor",
    )

    def __init__(self, group_id: int, store_id: int, journal: Journal, timing: Timing, now: float) -> None:
        self._group_id = group_id
        self._store_id = store_id
        self._journal = journal
        self._timing = timing
        self.successor = 0  # store id; 0: leadership is not being handed over
        self.cause = ""
        self._asked = False  # it was, to campaign
        self._until = 0.0
        self._passed_over: dict[int, float] = {}  # store → until when
        self._look_at = 0.0  # when there may be a reason again to look for a successor
        self._synced_seen, self._synced_at = 0, now  # what the disk had done when it was last seen to do something

    # --- a reason ---------------------------------------------------------------------------------------------------------

    def reason(self, now: float, commit_index: int, damaged: bool) -> str:
        """Why a successor is to be looked for in this turn of the leader; empty: it is not.

        One of the others may have room, or what is damaged here.  If it has not, it gives back what it was given, and not at once."""
        stalled = self._lags_behind_followers(now, commit_index)
        if now < self._look_at:
            return ""
        if self._journal.disk_full or damaged:
            patience = 1 if self._journal.disk_full else DAMAGED_PATIENCE
            self._look_at = now + self._timing.election_max_s * patience
            return "disk_full" if self._journal.disk_full else "damaged"
        if stalled:
            self._look_at = now + self._timing.election_max_s
            return "disk_stalled"
        return ""

    def _lags_behind_followers(self, now: float, commit_index: int) -> bool:
        """For ``election_max_s`` this disk has ended nothing, while a majority without it has stored more: one of those leads better."""
        journal = self._journal
        if journal.synced_position != self._synced_seen or journal.synced_index >= commit_index:
            self._synced_seen, self._synced_at = journal.synced_position, now
        return now - self._synced_at >= self._timing.election_max_s

    # --- on its way -------------------------------------------------------------------------------------------------------

    def passed_over(self, now: float) -> Collection[int]:
        """Stores that were asked in vain a short time ago."""
        self._passed_over = {store: until for store, until in self._passed_over.items() if now < until}
        return self._passed_over

    def begin(self, successor: int, cause: str, now: float) -> None:
        self.successor, self.cause, self._asked = successor, cause, False
        self._until = now + self._timing.handover_s

    def check_takes(self) -> None:
        """Raises NotLeader, definite, while leadership is on its way to another."""
        if self.successor:
            raise NotLeader(
                f"store {self._store_id} hands group {self._group_id} over to store {self.successor}",
                leader=self.successor,
            )

    def is_due(self, now: float, match_index: int, commit_index: int) -> bool:
        """True once: the successor, which holds the log up to ``match_index``, is to be asked to campaign."""
        if self._asked or not match_index == commit_index == self._journal.last_index:
            return False
        self._asked, self._until = True, now + self._timing.handover_s
        return True

    def is_overdue(self, now: float) -> bool:
        return now >= self._until

    def give_up(self, now: float) -> None:
        """The successor does not take over; this leader goes on."""
        self._passed_over[self.successor] = now + self._timing.election_max_s
        self.successor = 0

    # --- a term of leadership ---------------------------------------------------------------------------------------------

    def begin_leading(self, now: float) -> None:
        self._synced_at = now

    def end_leading(self) -> None:
        self.successor = 0
        self._passed_over.clear()
