"""Wrong: the node of one's own previous session is written to; it goes when that session does."""

from __future__ import annotations

from stele.services.coordination.members import Holder, Membership, Seen


class AdoptsThePreviousSession(Membership):
    def judge(self, seen: Seen) -> Holder:
        holder = super().judge(seen)
        return Holder.US if holder is Holder.PAST else holder


class OwnPastIsAStranger(Membership):
    """Wrong: the node of one's own previous session is another's."""

    def judge(self, seen: Seen) -> Holder:
        holder = super().judge(seen)
        return Holder.OTHER if holder is Holder.PAST else holder
