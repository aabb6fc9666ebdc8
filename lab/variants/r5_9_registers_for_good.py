"""Wrong: the member node is persistent, and a graceful stop hides it by deleting it."""

from __future__ import annotations

from stele.services.coordination.members import Decision, Holder, Membership, Seen
from stele.services.coordination.nodes import Create, Op
from stele.services.coordination.records import MemberRecord, encode


class RegistersForGood(Membership):
    def judge(self, seen: Seen) -> Holder:
        return Holder.US if seen.present else Holder.NOBODY

    def writes(self, decision: Decision, seen: Seen, mine: MemberRecord) -> list[Op]:
        ops = super().writes(decision, seen, mine)
        return [Create(op.path, encode(mine)) if isinstance(op, Create) else op for op in ops]
