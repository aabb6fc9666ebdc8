"""Wrong: a persistent node of the same name is written to and taken for one's own."""

from __future__ import annotations

from stele.services.coordination.members import Holder, Membership, Seen


class AdoptsALeftover(Membership):
    def judge(self, seen: Seen) -> Holder:
        holder = super().judge(seen)
        return Holder.US if holder is Holder.LEFTOVER else holder
