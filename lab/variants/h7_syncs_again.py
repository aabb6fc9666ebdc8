"""Wrong on purpose (H7): a sync that failed is tried again, and its success is believed."""

from __future__ import annotations

from stele.datanode.log import SegmentLog
from stele.services.errors import StorageFailed


class SyncsAgain(SegmentLog):
    def sync(self) -> None:
        try:
            super().sync()
        except StorageFailed:
            self._failed = None
            super().sync()
