"""Wrong on purpose (R5.10): a partition that takes writes under any owner epoch, as one does that trusts whoever registered to be the
owner."""

from __future__ import annotations

from stele.datanode.commands import Outcome
from stele.datanode.partition import PartitionState


class IgnoresEpoch(PartitionState):
    def _apply(self, index: int, payload: bytes) -> Outcome:
        self.owner_epoch = 0
        return super()._apply(index, payload)
