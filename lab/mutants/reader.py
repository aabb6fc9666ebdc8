"""Readers of stored batches that give them other offsets than their own."""

from __future__ import annotations

from stele.datanode.batch_reader import BatchReader, LogFloor


class TakesDamageForNothing(BatchReader):
    """A damaged entry is passed over as if no message had stood in it."""

    def _count_back(self, index: int, at: int) -> LogFloor:
        return LogFloor(index + 1, at)
