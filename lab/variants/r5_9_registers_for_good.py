"""Wrong: the member node is persistent, and a graceful stop hides it by deleting it."""

from __future__ import annotations

from stele.services.coordination.members import Decision, Holder, Membership, Seen
from stele.services.coordination.records import MemberRecord, encode
from stele.services.coordination.znode import CreateOp, Op


class RegistersForGood(Membership):
    def judge(self, seen: Seen) -> Holder:
        return Holder.US if seen.present else Holder.NOBODY

    def writes(self, decision: Decision, seen: Seen, mine: MemberRecord) -> list[Op]:
        ops = super().writes(decision, seen, mine)
        return [CreateOp(op.path, encode(mine)) if isinstance(op, CreateOp) else op for op in ops]
