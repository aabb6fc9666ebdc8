"""Wrong on purpose (H8): segments are dropped before the snapshot that covers them is durable."""

from __future__ import annotations

from stele.services.raft.storage import OpenStorage, Snapshot


def compact(storage: OpenStorage, snapshot: Snapshot, state: bytes) -> None:
    storage.log.drop_before(snapshot.index + 1)
    storage.snapshots.write(snapshot, state)
    storage.snapshots.drop_before(snapshot.index)
