"""Carries bundle assignments (bundle_assignment.py) into ZooKeeper.

Guarantee: an assignment is committed only while this leadership lasts, only onto the record that it was decided on, and
only while the broker that it names is registered: the transaction checks the member node, so no assignment made after a
broker is gone names it (R5.9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from stele.nameserver.bundle_assignment import EVENING_MOVES_MAX, Assign, BrokerCandidate, Pulse, assign
from stele.nameserver.catalog import Catalog, Member
from stele.services.bundles import bundles_of
from stele.services.coordination.election import Leadership
from stele.services.coordination.records import BundleRecord
from stele.services.errors import RecordExists, RecordMissing, VersionConflict

ASSIGNMENTS_PER_TRANSACTION_MAX = 64
EVENING_INTERVAL_S = 1.0

_log = structlog.get_logger()

Assigner = Callable[..., list[Assign]]


class BundleWriter:
    """One per term of office.  ``await writer.settle(catalog)`` makes one round and says how many bundles were assigned."""

    def __init__(
        self, leadership: Leadership, pulse: Callable[[Member], Pulse], *, assigner: Assigner = assign
    ) -> None:
        self._leadership, self._pulse, self._assigner = leadership, pulse, assigner
        self._evened_at = float("-inf")

    async def settle(self, catalog: Catalog, seen: Mapping[str, int] | None = None) -> int:
        """LeadershipLost, CoordinationUnknown; a broker or record that changed meanwhile is left to the next round."""
        now = asyncio.get_running_loop().time()
        may_even = now - self._evened_at >= EVENING_INTERVAL_S
        wanted = [b for n in catalog.namespaces.values() for b in bundles_of(n.name, n.bundles)]
        brokers = {name: BrokerCandidate(member, self._pulse(member)) for name, member in catalog.brokers.items()}
        changes = self._assigner(wanted, catalog.bundles, brokers, EVENING_MOVES_MAX if may_even else 0, seen)
        if any(change.cause == "even" for change in changes):
            self._evened_at = now
        written = 0
        for start in range(0, len(changes), ASSIGNMENTS_PER_TRANSACTION_MAX):
            chunk = changes[start : start + ASSIGNMENTS_PER_TRANSACTION_MAX]
            try:
                await self._write(chunk, catalog)
            except (VersionConflict, RecordMissing, RecordExists) as e:
                _log.info("bundles_changed_meanwhile", path=e.facts.get("path", ""))
                break
            written += len(chunk)
        return written

    async def _write(self, changes: Sequence[Assign], catalog: Catalog) -> None:
        transaction = self._leadership.transaction()
        for name in sorted({change.broker for change in changes if change.broker}):
            member = catalog.brokers.get(name)
            transaction.check(f"members/brokers/{name}", member.node_version if member is not None else 0)
        for change in changes:
            record = BundleRecord(broker=change.broker, epoch=change.epoch)
            known = catalog.bundles.get(change.bundle)
            if known is None:
                transaction.create(f"bundles/{change.bundle}", record)
            else:
                transaction.set(f"bundles/{change.bundle}", record, known.node_version)
        await transaction.commit()
        for change in changes:
            _log.info(
                "bundle_assigned",
                bundle=change.bundle,
                broker=change.broker,
                former=change.former,
                epoch=change.epoch,
                cause=change.cause,
            )
