"""Wrong on purpose (H6): a restart takes the members that the group began with, whatever its log and snapshot say."""

from __future__ import annotations

from typing import Any

from stele.services.raft.journal import Journal
from stele.services.raft.membership import MemberHistory


class ForgetsTheLog(Journal):
    def __init__(self, log: Any, terms: Any, snapshots: Any, first_members: Any, **options: Any) -> None:
        super().__init__(log, terms, snapshots, first_members, **options)
        self.members = MemberHistory(0, first_members, [])
