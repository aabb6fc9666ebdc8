"""Messages that are taken or stored without being looked at, or late."""

from __future__ import annotations

from typing import Any

from stele.batching import PartitionBatches, PromiseT
from stele.services.batch import BatchHeader, read_header


def takes_by_reference(name: str, value: Any) -> Any:
    """A buffer is kept as it is handed over, so that whoever fills it again changes a message that was sent."""
    return value


def looks_at_the_header_alone(batch: bytes) -> BatchHeader:
    """A batch whose records cannot be read is stored, and stops everybody who consumes it."""
    return read_header(batch)


class GoesOnAsAnother(PartitionBatches[PromiseT]):
    """What cannot go on under a producer's sequence begins as another producer, of whom the partition does not know that it is the same."""

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        self.producer_id, self.next_sequence = self.producer_id + 1, 0
