"""Wrong on purpose (H8): an install resets the log first and gives the snapshot its name afterwards: in between there is neither."""

from __future__ import annotations

from stele.services.raft.storage import OpenStorage, Snapshot


def install(storage: OpenStorage, snapshot: Snapshot) -> None:
    storage.snapshots.check_staged(snapshot)
    storage.log.reset(snapshot.index, snapshot.term)
    storage.snapshots.install_staged(snapshot)
