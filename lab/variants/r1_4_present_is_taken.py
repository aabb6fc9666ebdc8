"""Wrong: a name that is there and guarded is taken, whoever holds it."""

from __future__ import annotations

from stele.services.coordination.names import Guard, NameHold, Seen


class PresentIsTaken(NameHold):
    def judge(self, seen: Seen) -> Guard:
        return Guard.LIVE if seen.guard_session else Guard.ABSENT
