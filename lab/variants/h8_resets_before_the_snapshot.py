"""Wrong on purpose (H8): the log is emptied before the snapshot that stands for it is durable."""

from __future__ import annotations

from stele.services.raft.journal import Journal
from stele.services.raft.storage import Snapshot


class ResetsFirst(Journal):
    def install(self, snapshot: Snapshot) -> None:
        super().install(snapshot)
        self._changes[-1], self._changes[-2] = self._changes[-2], self._changes[-1]
