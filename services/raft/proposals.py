"""Proposals that wait for their entries to be committed and applied (H11, H12).

Guarantee: each ends exactly once, with the result of its own entry or with an error that says whether its outcome is known.
What a proposer's callback raises is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from stele.services.errors import NotLeader, Overloaded, ProposalLost, SteleError
from stele.services.raft.storage import Entry

log = structlog.get_logger()

PENDING_MAX: Final = 20_000
PENDING_BYTES_MAX: Final = 64 << 20
CHANGE_BYTES_MAX: Final = 512  # of a change of members

Done = Callable[[object, SteleError | None], None]


class _Proposal(NamedTuple):
    term: int
    size: int
    done: Done


class Proposals:
    __slots__ = ("_bytes", "_group_id", "_pending")

    def __init__(self, group_id: int) -> None:
        self._group_id = group_id
        self._pending: dict[int, _Proposal] = {}  # by index
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def check_room(self) -> None:
        """For what users of the group propose.  Raises Overloaded.

        The last place, and bytes for it, are kept for a change of members, of which one is in flight at most: of a group that is always
        full it would else have to wait for ever, or go beyond the bound."""
        if len(self._pending) >= PENDING_MAX - 1 or self._bytes >= PENDING_BYTES_MAX - CHANGE_BYTES_MAX:
            raise Overloaded(f"group {self._group_id} has {len(self._pending)} proposals in flight", limit=PENDING_MAX)

    def add(self, index: int, term: int, size: int, done: Done) -> None:
        self._pending[index] = _Proposal(term, size, done)
        self._bytes += size

    def on_applied(self, entry: Entry, result: object) -> None:
        proposal = self._pending.pop(entry.index, None)
        if proposal is None:
            return
        self._bytes -= proposal.size
        if proposal.term == entry.term:
            isolated(self._group_id, proposal.done, result, None)
            return
        # Log matching: one index and one term are one entry.  With another term this proposal's entry was cut off and never will be.
        another = NotLeader(f"another leader's entry took the place of this proposal in group {self._group_id}")
        isolated(self._group_id, proposal.done, None, another)

    def on_passed_over(self, index: int) -> None:
        """What is committed at ``index`` was damaged before it was applied."""
        proposal = self._pending.pop(index, None)
        if proposal is not None:
            self._bytes -= proposal.size
            lost = ProposalLost(f"entry {index} of group {self._group_id} was stored and damaged before it was applied")
            isolated(self._group_id, proposal.done, None, lost)

    def end(self, error: SteleError) -> None:
        """All of them: whoever leads next decides what becomes of their entries, and nobody here will learn it (H12).

        So no error that says *definite* reaches a proposer from here, true as it is of those who ask from now on: whoever sends again
        what has no number of its own would have it stored twice."""
        if error.definite:
            error = ProposalLost(f"{error.message}; the proposal may have been stored")
        pending, self._pending, self._bytes = self._pending, {}, 0
        for proposal in pending.values():
            isolated(self._group_id, proposal.done, None, error)

    def validate(self) -> None:
        assert self._bytes == sum(p.size for p in self._pending.values())
        assert len(self._pending) <= PENDING_MAX


def isolated(group_id: int, done: Callable[..., None], *outcome: Any) -> None:
    """Calls ``done``.  An exception that went on from here would leave the entry half applied: repeated or skipped (H11)."""
    try:
        done(*outcome)
    except Exception:
        log.exception("callback_failed", group=group_id)
