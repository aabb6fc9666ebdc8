"""Carries bundle assignments (bundle_assignment.py) into ZooKeeper.

Guarantee: an assignment is committed only while this leadership lasts, only onto the record that it was decided on, and
only while the broker that it names is registered: the transaction checks the member node, so no assignment made after a
broker is gone names it (R5.9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import structlog

from stele.nameserver.bundle_assignment import (
    EVENING_MOVES_MAX,
    Assign,
    BrokerCandidate,
    BundleCause,
    Pulse,
    assign,
    takers,
)
from stele.nameserver.catalog import Catalog, Member
from stele.nameserver.causes import Newest, behind_assignment
from stele.services.coordination.election import Leadership
from stele.services.coordination.records import BundleRecord
from stele.services.errors import RecordExists, RecordMissing, VersionConflict

ASSIGNMENTS_PER_TRANSACTION_MAX = 64
EVENING_INTERVAL_S = 1.0

_log = structlog.get_logger()

Assigner = Callable[..., list[Assign]]


class Measured(Protocol):
    """What is known of the traffic of bundles."""

    @property
    def costs(self) -> Mapping[str, float]: ...

    def knows(self, member: Member) -> bool:
        """Whether the traffic of what it owns is among that."""
        ...


class Idle:
    """Nothing goes through any bundle."""

    costs: Mapping[str, float] = MappingProxyType({})

    def knows(self, member: Member) -> bool:
        return True


class BundleWriter:
    """One per term of office.  ``await writer.settle(catalog)`` makes one round and says how many bundles were assigned.

    Whoever changes what is decided by holds ``turn`` until the view shows it."""

    def __init__(
        self,
        leadership: Leadership,
        pulse: Callable[[Member], Pulse],
        measured: Measured | None = None,
        newest: Newest = lambda subject, kinds, fits=None: None,
        *,
        assigner: Assigner = assign,
    ) -> None:
        self._leadership, self._pulse, self._assigner = leadership, pulse, assigner
        self._measured, self._newest = measured or Idle(), newest
        self._evened_at = float("-inf")
        self.turn = asyncio.Lock()

    def candidates(self, catalog: Catalog) -> dict[str, BrokerCandidate]:
        """The registered brokers, by name."""
        return {
            name: BrokerCandidate(member, self._pulse(member), name in catalog.drained)
            for name, member in catalog.brokers.items()
        }

    async def settle(self, catalog: Catalog, seen: Mapping[str, int] | None = None) -> int:
        """LeadershipLost, CoordinationUnknown; a broker or record that changed meanwhile is left to the next round."""
        now = asyncio.get_running_loop().time()
        candidates = self.candidates(catalog)
        # What nobody has said yet is not taken for nothing: a leader that was elected a moment ago would even out by count alone.
        measured = all(self._measured.knows(candidates[name].member) for name in takers(candidates.values()))
        may_even = measured and now - self._evened_at >= EVENING_INTERVAL_S
        changes = self._assigner(
            list(catalog.wanted_bundles),
            catalog.bundles,
            candidates,
            EVENING_MOVES_MAX if may_even else 0,
            seen,
            self._measured.costs,
        )
        if any(change.cause is BundleCause.EVEN for change in changes):
            self._evened_at = now
        return await self.write(changes, catalog)

    @property
    def costs(self) -> Mapping[str, float]:
        """Of each bundle, beside what it costs by being there."""
        return self._measured.costs

    async def write(self, changes: Sequence[Assign], catalog: Catalog) -> int:
        """How many were recorded: the first ones, up to where something had changed meanwhile.  LeadershipLost, CoordinationUnknown."""
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
            caused_by = behind_assignment(change, catalog, self._newest)
            record = BundleRecord(broker=change.broker, epoch=change.epoch, cause=change.cause, caused_by=caused_by)
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
