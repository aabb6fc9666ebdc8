"""Wrong: whoever registers last gets the member node."""

from __future__ import annotations

from stele.services.coordination.members import Holder, Membership, Seen


class OverwritesTheLive(Membership):
    def judge(self, seen: Seen) -> Holder:
        holder = super().judge(seen)
        return Holder.PAST if holder in (Holder.OTHER, Holder.UNPROVEN) else holder
