"""Wrong on purpose (H7): what a restarted process finds in its log counts as durable without a sync of its own."""

from __future__ import annotations

from datanode.log import SegmentLog
from datanode.log.chain import opened
from datanode.log.recovery import recover
from datanode.log.segments import Segment


class CountsTheCache(SegmentLog):
    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = recover(file, active.header, active.path)
        if found.frames_end < active.file_bytes:
            file.truncate(found.frames_end)
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index
