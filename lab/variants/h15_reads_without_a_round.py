"""Wrong on purpose (H15): a leader answers reads from what it has applied, without asking whether it still leads."""

from __future__ import annotations

from stele.services.raft.engine import Engine
from stele.services.raft.reads import ReadDone


class ReadsWithoutARound(Engine):
    def read_index(self, done: ReadDone) -> None:
        self._check_leads()
        done(self.applied_index, None)
