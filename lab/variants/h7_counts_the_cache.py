"""Wrong on purpose (H7): what a restarted process finds counts as durable without a sync of its own: entries, or names of segments."""

from __future__ import annotations

from stele.datanode.log import SegmentLog
from stele.datanode.log.recovery import recover
from stele.datanode.log.segment_list import opened
from stele.datanode.log.segments import Segment
from stele.lab.variants.h7_forgets_to_sync import ForgetsToSyncFolders


class CountsTheCache(SegmentLog):
    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = recover(file, active.header, active.path)
        if found.frames_end < active.file_bytes:
            file.truncate(found.frames_end)
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index


class CountsCachedNames(SegmentLog):
    def _open(self) -> None:
        segments = self._segments
        fs, segments._fs = segments._fs, ForgetsToSyncFolders(segments._fs)
        try:
            super()._open()
        finally:
            segments._fs = fs
