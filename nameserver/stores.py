"""Registration of stores: who gets which id (F2).

Guarantee: a store's uuid gets one id, however often it asks; an id is never given to two stores, not after a removal, a failover or a cold
start (R2.2); a store of another cluster and a removed one are refused (R2.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from stele.nameserver.catalog import StoreState, removed
from stele.nameserver.ids import STORES, IdCounter
from stele.nameserver.view import behind
from stele.services.clock import SYSTEM, Clock
from stele.services.config import PROCESS_NAMES, is_process_name
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import BuriedRecord, CounterRecord, StoreRecord, Versioned
from stele.services.errors import (
    ClusterMismatch,
    CoordinationUnknown,
    InvalidArgument,
    RecordExists,
    StoreMismatch,
    StoreUnknown,
    VersionConflict,
)
from stele.services.high_water import HighWater
from stele.services.intervals import IntervalSet
from stele.services.pb import nameserver_pb2

ROUNDS_MAX = 8
UUID_CHARS_MAX = 128

_log = structlog.get_logger()

Take = Callable[[IdCounter, Transaction], int]


def take_next(counter: IdCounter, transaction: Transaction) -> int:
    """The id of a new store."""
    return counter.take(transaction, 1)[0]


class StoreRegister:
    """The leader's; one per term of office.  ``take`` gives out ids."""

    def __init__(
        self,
        leadership: Leadership,
        metadata: MetadataStore,
        cluster_id: str,
        *,
        clock: Clock = SYSTEM,
        take: Take = take_next,
        check: Callable[[], Awaitable[None]] | None = None,
        heard: Callable[[HighWater], None] = lambda seen: None,
    ) -> None:
        """``check`` raises while no id may be given out; ``heard`` is told what a store of this cluster was told before."""
        self._leadership, self._metadata, self._cluster_id = leadership, metadata, cluster_id
        self._clock, self._take, self._check, self._heard = clock, take, check, heard
        self._turn = asyncio.Lock()

    async def register(self, request: nameserver_pb2.RegisterStoreRequest) -> nameserver_pb2.RegisterStoreResponse:
        """InvalidArgument, ClusterMismatch, StoreTombstone, StoreUnknown, StoreMismatch, MetadataBehind, LeadershipLost,
        CoordinationUnknown."""
        if not 0 < len(request.uuid) <= UUID_CHARS_MAX:
            raise InvalidArgument(f"a store's uuid has 1 to {UUID_CHARS_MAX} characters, not {len(request.uuid)}")
        if request.rack and not is_process_name(request.rack):
            raise InvalidArgument(f"a store's rack {request.rack[:64]!r} is not accepted: {PROCESS_NAMES}")
        if not is_process_name(request.name):
            raise InvalidArgument(f"a store's name {request.name[:64]!r} is not accepted: {PROCESS_NAMES}")
        if request.cluster_id and request.cluster_id != self._cluster_id:
            raise ClusterMismatch(
                f"the store belongs to the cluster {request.cluster_id}, this is {self._cluster_id}",
                expected=self._cluster_id,
                got=request.cluster_id,
            )
        async with self._turn:
            store_id = await (self._reregister(request) if request.store_id else self._register_new(request))
        return nameserver_pb2.RegisterStoreResponse(store_id=store_id, cluster_id=self._cluster_id)

    async def _reregister(self, request: nameserver_pb2.RegisterStoreRequest) -> int:
        store_id = request.store_id
        if store_id in await self._buried():
            raise removed(store_id)
        known = await self._get(store_id)
        if known is None:
            return await self._take_back(request)
        if known.record.uuid != request.uuid:
            raise StoreMismatch(
                f"store {store_id} is {known.record.uuid}, not {request.uuid}: was the data directory copied?",
                expected=known.record.uuid,
                got=request.uuid,
            )
        await self._readmit(store_id, known, request)
        self._heard(HighWater.of(request.seen))
        return store_id

    async def _take_back(self, request: nameserver_pb2.RegisterStoreRequest) -> int:
        """A store whose id was given out and whose record is gone: ZooKeeper lost it, for no record of a store is ever removed but for
        an id that is buried.  MetadataBehind, StoreUnknown: the id was not given out by this ZooKeeper."""
        store_id = request.store_id
        counter = await self._metadata.get(STORES, CounterRecord)
        recorded = HighWater(stores=counter.record.next if counter is not None else 0)
        if store_id >= recorded.stores:
            seen = HighWater(stores=request.seen.stores)
            if seen.beyond(recorded):
                self._heard(HighWater.of(request.seen))
                if self._check is not None:
                    await self._check()  # NotReady, where imported records are about to rise
                raise behind(recorded, seen)
            raise StoreUnknown(f"store {store_id} was never seen in this cluster", store_id=store_id)
        record = StoreRecord(
            name=request.name,
            state=StoreState.UP,
            uuid=request.uuid,
            registered_ms=self._clock.wall_ms(),
            rack=request.rack,
        )
        await self._leadership.transaction().create(f"stores/{store_id}", record).commit()
        _log.warning("store_taken_back", store=store_id, name=request.name, uuid=request.uuid)
        self._heard(HighWater.of(request.seen))
        return store_id

    async def _register_new(self, request: nameserver_pb2.RegisterStoreRequest) -> int:
        for _ in range(ROUNDS_MAX):
            counter = IdCounter(STORES, await self._metadata.get(STORES, CounterRecord))
            # Read here and not from the mirror: the same store may ask again before the mirror has seen its first record.  And read
            # AFTER the counter: whoever registers this uuid in between takes an id, and the transaction below fails by the counter.
            known = await self._by_uuid(request.uuid)
            if known is not None:
                await self._readmit(*known, request)
                return known[0]
            if self._check is not None:
                await self._check()
            transaction = self._leadership.transaction()
            store_id = self._take(counter, transaction)
            record = StoreRecord(
                name=request.name,
                state=StoreState.UP,
                uuid=request.uuid,
                registered_ms=self._clock.wall_ms(),
                rack=request.rack,
            )
            transaction.create(f"stores/{store_id}", record)
            try:
                await transaction.commit()
            except (VersionConflict, RecordExists):
                continue
            _log.info("store_registered", store=store_id, name=request.name, uuid=request.uuid)
            return store_id
        raise CoordinationUnknown(f"registration of {request.name} is not settled after {ROUNDS_MAX} rounds")

    async def _readmit(
        self, store_id: int, known: Versioned[StoreRecord], request: nameserver_pb2.RegisterStoreRequest
    ) -> None:
        record = known.record
        if record.state == StoreState.TOMBSTONE:
            raise removed(store_id)
        changed = replace(record, name=request.name, rack=request.rack)
        if changed != record:
            await self._leadership.transaction().set(f"stores/{store_id}", changed, known.version).commit()
            _log.info(
                "store_changed", store=store_id, name=changed.name, rack=changed.rack, former=(record.name, record.rack)
            )

    async def _by_uuid(self, uuid: str) -> tuple[int, Versioned[StoreRecord]] | None:
        ids = [int(name) for name in await self._metadata.children("stores") if name.isdecimal()]
        for store_id, known in zip(ids, await asyncio.gather(*map(self._get, ids)), strict=True):
            if known is not None and known.record.uuid == uuid:
                return store_id, known
        return None

    async def _get(self, store_id: int) -> Versioned[StoreRecord] | None:
        return await self._metadata.get(f"stores/{store_id}", StoreRecord)

    async def _buried(self) -> IntervalSet:
        found = await self._metadata.get("stores/buried", BuriedRecord)
        return IntervalSet.of(found.record.intervals) if found is not None else IntervalSet()
