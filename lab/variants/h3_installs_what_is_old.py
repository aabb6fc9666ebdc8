"""Wrong on purpose (H3): a snapshot is installed whatever was applied since it was taken."""

from __future__ import annotations

from stele.services.raft.engine import Engine
from stele.services.raft.storage import Snapshot


class InstallsWhatIsOld(Engine):
    def install(self, snapshot: Snapshot, state: bytes) -> bool:
        self.machine.restore(state)
        self.journal.install(snapshot)
        self._applied = snapshot.index
        self._SyncObj__raftCommitIndex = self._SyncObj__raftLastApplied = snapshot.index
        return True
