"""Wrong on purpose (H8): a truncation begins with the older bytes, so that a crash in between leaves a hole instead of a prefix."""

from __future__ import annotations

from stele.datanode.log import SegmentLog


class TruncatesOldestFirst(SegmentLog):
    def truncate_from(self, index: int) -> None:
        if index > self.last_index:
            return
        keep = self._segments.find(index)
        for segment in self._segments.all:
            if segment.base > keep.base:
                self._fs.unlink(segment.path)
                self._fs.fsync_dir(self._directory)
        self._segments.all = [segment for segment in self._segments.all if segment.base <= keep.base]
        super().truncate_from(index)
