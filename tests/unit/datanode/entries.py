"""Entries for partitions under test."""

from __future__ import annotations

from stele.services import batch
from stele.services.batch import BatchRecord


def make_batch(count: int = 1, producer_id: int = 0, sequence: int = 0, timestamp_ms: int = 0, size: int = 1) -> bytes:
    records = [BatchRecord(bytes([i % 256]) * size, timestamp_ms=timestamp_ms) for i in range(count)]
    return batch.encode(records, producer_id, sequence)
