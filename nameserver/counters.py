"""Ids that are given out once (R2.2, R3.6).

Guarantee: an id is given out at most once in the life of a cluster: the counter rises in the same transaction that writes what the id
is for, and nothing ever lowers it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import CounterRecord

STORES, GROUPS, TOPICS = "stores/alloc", "groups/alloc", "topics/alloc"
FIRST_ID = 1  # 0 stands for "none" on the wire


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter as it was read."""

    path: str
    next: int
    version: int | None  # None: not there yet

    def take(self, transaction: Transaction, count: int) -> range:
        """The next ``count`` ids, given out if ``transaction`` commits; it fails if anybody else took some meanwhile."""
        record = CounterRecord(next=self.next + count)
        if self.version is None:
            transaction.create(self.path, record)
        else:
            transaction.set(self.path, record, self.version)
        return range(self.next, self.next + count)


async def read_counter(metadata: MetadataStore, path: str) -> Counter:
    found = await metadata.get(path, CounterRecord)
    return Counter(path, FIRST_ID, None) if found is None else Counter(path, found.record.next, found.version)
