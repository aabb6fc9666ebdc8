"""Applying what is committed to the group's state machine (H11, H17).

Guarantee: each entry is applied at most once and in order, whatever the machine or a proposer's callback raises.
"""

from __future__ import annotations

from typing import Final

import structlog

from stele.services.errors import StorageFailed
from stele.services.raft.journal import Journal
from stele.services.raft.proposals import Proposals
from stele.services.raft.state_machine import StateMachine
from stele.services.raft.storage import MEMBERSHIP, NO_OP, REGULAR, Entry, Snapshot

log = structlog.get_logger()

APPLY_BYTES_MAX: Final = 4 << 20  # per turn, so that one group does not hold the loop
APPLY_ENTRIES_MAX: Final = 512  # likewise; what the first bring about is under way while the rest is applied
READ_BYTES_MAX: Final = 1 << 20  # from the journal at a time


class Applier:
    """``machine`` is as the journal's newest snapshot has it, or new."""

    __slots__ = ("_group_id", "_journal", "_proposals", "applied_index", "machine")

    def __init__(self, group_id: int, journal: Journal, machine: StateMachine, proposals: Proposals) -> None:
        self._group_id = group_id
        self._journal = journal
        self._proposals = proposals
        self.machine = machine
        self.applied_index = journal.committed_at_start

    def apply(self, commit_index: int) -> StorageFailed | None:
        """What is committed, or so much of it as one turn allows.  An error: the machine's state is in doubt, and the replica must not go
        on with it."""
        budget = APPLY_BYTES_MAX
        last = min(commit_index, self.applied_index + APPLY_ENTRIES_MAX)
        while self.applied_index < last and budget > 0:
            for entry in self._journal.read(self.applied_index + 1, last, min(budget, READ_BYTES_MAX)):
                budget -= len(entry.payload) + 64
                error = self._apply_one(entry)
                if error is not None:
                    return error
        return None

    def _apply_one(self, entry: Entry) -> StorageFailed | None:
        self.applied_index = entry.index  # H11: whatever happens below, this entry is not applied again
        result: object = None
        if entry.kind == REGULAR:
            try:
                result = self.machine.apply(entry.index, entry.term, entry.payload)
            except Exception as e:
                log.exception("apply_failed", group=self._group_id, index=entry.index)
                return StorageFailed(f"group {self._group_id} could not apply entry {entry.index}: {e!r}")
        elif entry.kind not in (NO_OP, MEMBERSHIP):  # H17
            log.error("raft_entry_refused", group=self._group_id, index=entry.index, kind=entry.kind)
        self._proposals.on_applied(entry, result)
        return None

    def pass_over(self) -> bool:
        """The next entry is damaged and nobody else has it: goes on behind it if the machine is certain of its state there.  Who waits for
        its outcome is told that nobody knows it."""
        entry = self._journal.read_damaged(self.applied_index + 1)
        if entry is None or not self.machine.apply_damaged(entry.index, entry.payload):
            return False
        log.error("damaged_entry_passed_over", group=self._group_id, index=entry.index)
        self.applied_index = entry.index
        self._proposals.on_passed_over(entry.index)
        return True

    def restore(self, snapshot: Snapshot, state: bytes) -> None:
        """``state``, which ``snapshot`` stands for, takes the place of what was applied.  ValueError if the machine cannot read it; nothing
        has changed then."""
        self.machine.restore(state)
        self.applied_index = snapshot.index
