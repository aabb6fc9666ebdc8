"""Wrong on purpose (R3.6): a new partition gets the lowest group id without a record, and so a deleted one's."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from stele.nameserver.catalog import Catalog
from stele.nameserver.topic_writer import TopicWriter, partition_path
from stele.services.coordination.metadata import Transaction
from stele.services.coordination.records import PartitionRecord


class ReusesGroups(TopicWriter):
    async def _add_partitions(
        self, transaction: Transaction, name: str, indexes: Iterable[int], replication: int, catalog: Catalog
    ) -> None:
        used = {int(g) for g in await self._metadata.children("partitions")}
        free = (g for g in count(1) if g not in used)
        for index, group in zip(indexes, free, strict=False):
            transaction.create(partition_path(group), PartitionRecord(topic=name, index=index, replicas=(1,)))
