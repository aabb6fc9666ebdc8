"""Wrong on purpose (H8): a snapshot gets its name first and is synced afterwards, so that a crash in between leaves a name on nothing."""

from __future__ import annotations

from stele.datanode.log import SnapshotFiles
from stele.datanode.log.snapshot_format import SnapshotHeader
from stele.services.raft.storage import Snapshot


class NamesBeforeSyncing(SnapshotFiles):
    def write(self, snapshot: Snapshot, state: bytes) -> None:
        header = SnapshotHeader(snapshot, installed=False)
        path = self._path(snapshot.index)
        aside = path.with_name(path.name + ".new")
        file = self._fs.create(aside)
        file.pwrite([header.to_bytes(), state], 0)
        self._fs.rename(aside, path)
        self._fs.fsync_dir(self._directory)
        file.fdatasync()
        file.close()
        self._headers = tuple(sorted((*self._headers, header), key=lambda h: h.snapshot.index))
