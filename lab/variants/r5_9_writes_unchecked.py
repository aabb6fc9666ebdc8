"""Wrong on purpose (R5.9): an assignment is written without asking ZooKeeper whether the broker that it names is still registered."""

from __future__ import annotations

from collections.abc import Sequence

from stele.nameserver.bundle_assignment import Assign
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.catalog import Catalog
from stele.services.coordination.records import BundleRecord


class WritesUnchecked(BundleWriter):
    async def _write(self, changes: Sequence[Assign], catalog: Catalog) -> None:
        transaction = self._leadership.transaction()
        for change in changes:
            record = BundleRecord(broker=change.broker, epoch=change.epoch)
            known = catalog.bundles.get(change.bundle)
            if known is None:
                transaction.create(f"bundles/{change.bundle}", record)
            else:
                transaction.set(f"bundles/{change.bundle}", record, known.node_version)
        await transaction.commit()
