"""Wrong on purpose (H10): a snapshot is written although the entries that it stands for are not synced here: a majority of others has
them, this log may lose them."""

from __future__ import annotations

from stele.services.raft.snapshotting import Snapshotting


class SnapshotsBeforeTheSync(Snapshotting):
    async def _until_synced(self, index: int) -> None:
        """Does not wait."""
