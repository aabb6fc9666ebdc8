"""Wrong on purpose (H7): the first bad byte ends the log, whatever stands behind it and whoever was promised it."""

from __future__ import annotations

from stele.datanode.log import SegmentLog
from stele.datanode.log.recovery import scan
from stele.datanode.log.segment_list import opened
from stele.datanode.log.segments import Segment


class CutsAtDamage(SegmentLog):
    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = scan(file, active.header, active.file_bytes)
        file.truncate(found.frames_end)
        file.fdatasync()
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index
