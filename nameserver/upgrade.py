"""The rise of the cluster's record format, at an operator's word.

Guarantee: the cluster comes to a format only while every process that is recorded is registered and knows it, and from then on nobody
joins who does not.  First it is written that it is about to rise: a member node is created against the version of that record, so whoever
is not found then is refused.  A leader that dies between leaves that behind, and the same command goes on from there, or takes it back.

Not promised: that a process of a version from before there was a record format is refused in the moment between its start and its
registration; it asks at its start alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from stele.nameserver.catalog import Catalog, StoreState
from stele.nameserver.finalization import Finalization, KnownFormat, finalization
from stele.services.coordination.election import Leadership
from stele.services.coordination.members import live
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.name_register import list_names
from stele.services.coordination.records import ClusterRecord, Versioned
from stele.services.coordination.schema import CLUSTER, KINDS
from stele.services.errors import CoordinationUnknown, FinalizeRefused, VersionConflict

ROUNDS_MAX = 8

_log = structlog.get_logger()


class Upgrade:
    """One per term of office."""

    def __init__(
        self,
        leadership: Leadership,
        metadata: MetadataStore,
        mirrored: Callable[[Callable[[Catalog], bool]], Awaitable[None]],
    ) -> None:
        """``mirrored`` waits until the view shows what was written."""
        self._leadership, self._metadata, self._mirrored = leadership, metadata, mirrored
        self._turn = asyncio.Lock()

    async def plan(self) -> Finalization:
        """As of now, by ZooKeeper's own word.  CoordinationUnknown."""
        return (await self._look())[0]

    async def finalize(self) -> Finalization:
        """The cluster is at the highest format that any process knows on return.  Idempotent.  FinalizeRefused, LeadershipLost,
        CoordinationUnknown."""
        async with self._turn:
            for _ in range(ROUNDS_MAX):
                try:
                    return await self._finalize()
                except VersionConflict:
                    continue
        raise CoordinationUnknown(f"the cluster's record format is not settled after {ROUNDS_MAX} rounds")

    async def _finalize(self) -> Finalization:
        plan, cluster = await self._look()
        if plan.to > plan.at and not plan.hindrances:
            # BEFORE the last look: who joins after it was written knows the format.
            await self._write(cluster, replace(cluster.record, finalizing=plan.to))
            plan, cluster = await self._look()
        if plan.hindrances or plan.to == plan.at:
            if cluster.record.finalizing:
                await self._write(cluster, replace(cluster.record, finalizing=0))
            if plan.hindrances:
                raise _refused(plan)
            return plan
        if cluster.record.finalizing != plan.to:  # somebody came who knows more
            raise VersionConflict("the cluster's record format is about to rise to another one", path=CLUSTER)
        await self._write(cluster, replace(cluster.record, format=plan.to, finalizing=0))
        _log.warning("upgrade_finalized", before=plan.at, format=plan.to)
        await self._mirrored(lambda c: c.record_format >= plan.to)
        return plan

    async def _look(self) -> tuple[Finalization, Versioned[ClusterRecord]]:
        session = self._metadata.session
        await session.sync()
        cluster = await self._metadata.get(CLUSTER, ClusterRecord)
        if cluster is None:
            raise CoordinationUnknown(f"{session.root} has no record of the cluster", path=CLUSTER)
        names = await list_names(session)
        # After the names: a process takes its name first.
        members = {
            name: KnownFormat(name, kind, record.record_format, record.version)
            for kind in KINDS
            for name, record in (await live(session, kind)).items()
        }
        silent = [
            KnownFormat(n.name, n.holder or ("datanodes" if n.store_id else ""), 0)
            for n in names
            if n.name not in members and n.store_state != StoreState.TOMBSTONE
        ]
        return finalization(cluster.record.format, [*members.values(), *silent]), cluster

    async def _write(self, cluster: Versioned[ClusterRecord], record: ClusterRecord) -> None:
        if record != cluster.record:
            await self._leadership.transaction().set(CLUSTER, record, cluster.version).commit()


def _refused(plan: Finalization) -> FinalizeRefused:
    return FinalizeRefused(
        f"the cluster stays at record format {plan.at}: {'; '.join(f'{name} {why}' for name, why in plan.hindrances)}",
        members=",".join(name for name, _ in plan.hindrances),
        format=plan.at,
    )
