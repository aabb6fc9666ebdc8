"""Wrong: whatever an earlier session left is another process's, and reason to exit."""

from __future__ import annotations

from stele.services.coordination.names import Guard, NameHold, Seen


class OwnPastIsAStranger(NameHold):
    def judge(self, seen: Seen) -> Guard:
        return Guard.LIVE if seen.guard_session not in (0, self._session.session_id) else super().judge(seen)
