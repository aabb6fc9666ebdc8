"""Wrong on purpose (H7): after a failed sync the bytes stay in the system's cache, where a restarted process takes them for stored."""

from __future__ import annotations

from stele.datanode.log import SegmentLog, SnapshotFiles
from stele.datanode.log.segment_list import opened
from stele.datanode.log.segments import Segment


class LeavesEntries(SegmentLog):
    def _sync_file(self, segment: Segment, doing: str) -> None:
        try:
            opened(segment).fdatasync()
        except OSError as e:
            raise self._fail(doing, e) from e


class LeavesATransfer(SnapshotFiles):
    def _remove_part(self) -> None:
        """Nothing."""
