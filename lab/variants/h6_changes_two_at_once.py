"""Wrong on purpose (H6): a membership change does not wait for the one before it, nor for the leader's first own entry."""

from __future__ import annotations

from stele.services.raft import membership
from stele.services.raft.engine import Done, Engine
from stele.services.raft.storage import MEMBERSHIP, Members


class ChangesTwoAtOnce(Engine):
    def change_members(self, members: Members, done: Done) -> None:
        self._enter()
        self._check_leads()
        membership.check_change(self.members, members)
        self._append(MEMBERSHIP, membership.encode(members), done)
        self._members_may_have_changed()
