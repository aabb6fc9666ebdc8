"""Wrong on purpose (H8): a reset removes the old segments first and names the new one afterwards: in between there is no log at all."""

from __future__ import annotations

from stele.datanode.log import SegmentLog
from stele.datanode.log.segments import SegmentHeader


class RemovesBeforeNaming(SegmentLog):
    def reset(self, index: int, term: int) -> None:
        for segment in reversed(self._segments.all):
            self._fs.unlink(segment.path)
            self._fs.fsync_dir(self._directory)
        new = self._segments.create(SegmentHeader(index + 1, self._new_seed(), previous_term=term))
        self._segments.all = [new]
