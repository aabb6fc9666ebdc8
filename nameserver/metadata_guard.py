"""Whether ZooKeeper holds less than it once did, by what the stores were told.

Guarantee: while a store that this nameserver has heard of was told of a higher epoch, or of ids that ZooKeeper has not given out yet, no
id is given out and no order sent: the records are those of an older copy, and what they would do was never meant for what the
stores hold.  What the mirror says is enough to go on, and never enough to stop: ZooKeeper itself is asked before that.

Records that an operator has imported are such a copy by his word: nothing is done by them either before every store that they name has
said what it has seen, and then they rise above that without being told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from stele.nameserver.catalog import MemberState
from stele.nameserver.ids import GROUPS, STORES, TOPICS
from stele.nameserver.reports import is_heard
from stele.nameserver.view import View, awaits, behind
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import CounterRecord, EpochRecord
from stele.services.coordination.schema import EPOCH
from stele.services.errors import CoordinationUnknown, NotReady
from stele.services.high_water import HighWater

_COUNTERS = {"topics": TOPICS, "groups": GROUPS, "stores": STORES}

_log = structlog.get_logger()


class MetadataGuard:
    """One per term of office."""

    def __init__(self, leadership: Leadership, metadata: MetadataStore, view: Callable[[], View]) -> None:
        self._leadership, self._metadata, self._view = leadership, metadata, view

    async def check(self) -> None:
        """MetadataBehind; NotReady while imported records wait for stores, and where ZooKeeper does not answer: whoever asks has begun
        nothing yet."""
        try:
            await self._check()
        except CoordinationUnknown as e:
            raise NotReady(f"it is not known whether the records are those of an older copy: {e.message}") from e

    async def _check(self) -> None:
        view = self._view()
        if view.catalog.imported and (await self._epoch()).imported:
            raise NotReady(awaits(view.unheard_since_import()))
        if not view.seen.beyond(view.catalog.high_water):
            return
        await self._metadata.session.sync()
        recorded = await self._recorded()
        if view.seen.beyond(recorded):
            raise behind(recorded, view.seen)

    async def carry_forward(self) -> None:
        """Once every store of imported records is heard, they rise above what those have seen."""
        view = self._view()
        if view.catalog.imported and not view.unheard_since_import():
            await self.recover()

    async def recover(self) -> tuple[HighWater, HighWater]:
        """An operator's word that the older copy is the one to go on with: what is recorded rises to what the stores have seen.  Before
        and after.  NotReady while a registered store has not been heard."""
        view = self._view()
        unheard = [
            member.name
            for store_id, member in view.catalog.live_stores.items()
            if member.state == MemberState.LOADING or not is_heard(view.reports, store_id)
        ]
        if unheard:
            raise NotReady(f"{', '.join(unheard)} did not say yet what they have seen; wait until they are ready")
        recorded = await self._recorded()
        raised = recorded.joined(view.seen)
        transaction = self._leadership.transaction()
        for name, path in _COUNTERS.items():
            if getattr(raised, name) > getattr(recorded, name):
                known = await self._metadata.get(path, CounterRecord)
                record = CounterRecord(next=getattr(raised, name))
                if known is None:
                    transaction.create(path, record)
                else:
                    transaction.set(path, record, known.version)
        epoch = await self._epoch()
        ends = raised.epoch > recorded.epoch or epoch.imported
        if ends:
            risen = replace(epoch, epoch=raised.epoch, importing="", imported=False)
            transaction.set(EPOCH, risen, self._leadership.epoch_version)
        await transaction.commit()
        _log.warning("metadata_recovered", before=str(recorded), after=str(raised))
        if ends:
            self._leadership.end()  # its epoch is over; who is elected next has one that every store obeys
        return recorded, raised

    async def _epoch(self) -> EpochRecord:
        found = await self._metadata.get(EPOCH, EpochRecord)
        return found.record if found is not None else EpochRecord(epoch=0)

    async def _recorded(self) -> HighWater:
        epoch = await self._epoch()
        paths = _COUNTERS.values()
        counters = await asyncio.gather(*(self._metadata.get(path, CounterRecord) for path in paths))
        return HighWater(
            epoch.epoch,
            **{n: c.record.next if c is not None else 0 for n, c in zip(_COUNTERS, counters, strict=True)},
        )
