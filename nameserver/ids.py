"""Ids that are given out once (R2.2, R3.6).  Pure.

Guarantee: an id is given out at most once in the life of a cluster: the counter rises in the same transaction that writes what the id
is for, and nothing ever lowers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stele.services.coordination.records import CounterRecord, Versioned

STORES, GROUPS, TOPICS = "stores/alloc", "groups/alloc", "topics/alloc"
FIRST_ID = 1  # 0 stands for "none" on the wire


class CounterWrites(Protocol):
    """What of a transaction (services/coordination/metadata.py) a counter needs."""

    def create(self, path: str, record: CounterRecord) -> object: ...

    def set(self, path: str, record: CounterRecord, version: int) -> object: ...


@dataclass(frozen=True, slots=True)
class IdCounter:
    """A counter as it was read; ``found`` None: not there yet."""

    path: str
    found: Versioned[CounterRecord] | None

    def take(self, transaction: CounterWrites, count: int) -> range:
        """The next ``count`` ids, given out if ``transaction`` commits; it fails if anybody else took some meanwhile."""
        first = FIRST_ID if self.found is None else self.found.record.next
        record = CounterRecord(next=first + count)
        if self.found is None:
            transaction.create(self.path, record)
        else:
            # Against the version that was read: two leaders that take the same ids cannot both commit.
            transaction.set(self.path, record, self.found.version)
        return range(first, first + count)
