"""Wrong: whoever comes last gets the name."""

from __future__ import annotations

from stele.services.coordination.names import Guard, NameHold, Seen


class TakesFromTheLive(NameHold):
    def judge(self, seen: Seen) -> Guard:
        guard = super().judge(seen)
        return Guard.PAST if guard in (Guard.LIVE, Guard.UNPROVEN) else guard
