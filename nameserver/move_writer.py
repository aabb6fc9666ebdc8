"""The leader's writes of moves, and of what becomes of stores that are removed.

Guarantee: every write is one ZooKeeper transaction that carries the leader's epoch and the version of what it was decided by, and each
says for itself whether it still applies to what is recorded now; whatever a leader that died had written, the next one goes on from there.

A store goes ``up → offline → tombstone``, and then its record goes and its id is buried, in one transaction; ``offline → up`` is the way
back (R2.7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import structlog

from stele.nameserver.catalog import Catalog, StoreEntry, StoreState, TopicState, removed, unknown
from stele.nameserver.moves import BeginMove, Cause, check_may_go, others_up
from stele.nameserver.recorded import READS_AT_ONCE_MAX, read_now
from stele.nameserver.topic_writer import check_up, partition_path, store_path, topic_path
from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import (
    BuriedRecord,
    PartitionRecord,
    RebalanceRecord,
    StoreRecord,
    TopicRecord,
    Versioned,
)
from stele.services.errors import CoordinationUnknown, InvalidArgument, RecordExists, RecordMissing, VersionConflict
from stele.services.intervals import IntervalSet

BURIED = "stores/buried"
REBALANCE = "operations/rebalance"
ROUNDS_MAX = 8

_log = structlog.get_logger()

Change = Callable[[PartitionRecord], PartitionRecord | None]


class MoveWriter:
    """One per term of office."""

    def __init__(self, leadership: Leadership, metadata: MetadataStore, clock: Clock = SYSTEM) -> None:
        self._leadership, self._metadata, self._clock = leadership, metadata, clock

    # --- moves ------------------------------------------------------------------------------------------------------

    async def begin(self, move: BeginMove, caused_by: str = "") -> bool:
        """Records the wish, and the store that joins as one that may count.  False: something else is recorded by now."""

        def begun(record: PartitionRecord) -> PartitionRecord | None:
            wanted = record.target or record.replicas
            if wanted != move.before or {*move.target} & {*record.leaving}:
                return None
            joining = tuple(s for s in move.target if s not in record.replicas)
            return replace(
                record,
                replicas=(*record.replicas, *joining),
                target=move.target,
                cause=str(move.cause),
                caused_by=caused_by,
                moves_since_ms=record.moves_since_ms or self._clock.wall_ms(),
                version=record.version + 1,
            )

        written = await self._change(move.group, begun, joining={*move.target} - {*move.before})
        if written is not None:
            _log.info("move_begun", group=move.group, before=move.before, target=move.target, cause=str(move.cause))
        return written is not None

    async def cancel(self, group: int) -> bool:
        """The stores that joined go again, and those that were to go stay, also one that its group does not count any more.  False: there
        is no move, or it goes back already."""

        def turned_back(record: PartitionRecord) -> PartitionRecord | None:
            if not record.target:
                return None
            before = record.replicas[: len(record.target)]  # those that join stand behind
            return replace(record, target=before, version=record.version + 1) if before != record.target else None

        written = await self._change(group, turned_back)
        if written is not None:
            _log.info("move_cancelled", group=group)
        return written is not None

    async def record_left(self, group: int, store_id: int) -> None:
        """What the store holds may be deleted from now on, unless it is wanted again."""

        def left(record: PartitionRecord) -> PartitionRecord | None:
            if not record.target or store_id in record.target or store_id not in record.replicas:
                return None
            replicas = _without(record.replicas, store_id)
            ended = set(replicas) == set(record.target)
            return replace(
                record,
                replicas=record.target if ended else replicas,
                materialised=_without(record.materialised, store_id),
                leaving=(*record.leaving, store_id),
                target=() if ended else record.target,
                cause="" if ended else record.cause,
                caused_by="" if ended else record.caused_by,
                moves_since_ms=0 if ended else record.moves_since_ms,
                version=record.version + 1,
            )

        if await self._change(group, left) is not None:
            _log.info("replica_left", group=group, store=store_id)

    async def record_arrived(self, group: int) -> None:
        def arrived(record: PartitionRecord) -> PartitionRecord | None:
            if not record.target or set(record.replicas) != set(record.target):
                return None
            return replace(
                record, replicas=record.target, target=(), cause="", caused_by="", version=record.version + 1
            )

        if await self._change(group, arrived) is not None:
            _log.info("replicas_arrived", group=group)

    async def record_extra(self, group: int, store_id: int) -> None:
        """What the store holds may be deleted, unless it is wanted."""

        def extra(record: PartitionRecord) -> PartitionRecord | None:
            if store_id in (*record.replicas, *record.leaving):
                return None
            return replace(record, leaving=(*record.leaving, store_id))

        if await self._change(group, extra) is not None:
            _log.info("replica_extra", group=group, store=store_id)

    async def record_gone(self, group: int, store_id: int) -> None:
        def gone(record: PartitionRecord) -> PartitionRecord | None:
            return replace(record, leaving=_without(record.leaving, store_id)) if store_id in record.leaving else None

        await self._change(group, gone)

    async def has_left(self, group: int, store_id: int) -> bool:
        """Whether ZooKeeper says now that what the store holds of the group is to be deleted; whoever deletes asks this before."""
        known = await self._metadata.get(partition_path(group), PartitionRecord)
        return known is not None and store_id in known.record.leaving and store_id not in known.record.replicas

    async def _change(self, group: int, changed: Change, joining: Iterable[int] = ()) -> PartitionRecord | None:
        """The record as it was written; None where ``changed`` makes nothing of what is recorded, or the topic goes."""
        for _ in range(ROUNDS_MAX):
            known = await self._metadata.get(partition_path(group), PartitionRecord)
            topic = await self._metadata.get(topic_path(known.record.topic), TopicRecord) if known is not None else None
            if known is None or topic is None or topic.record.state != TopicState.READY:
                return None
            if known.record.index >= topic.record.partitions:
                return None  # nobody knows of it yet: it is still being made
            record = changed(known.record)
            if record is None:
                return None
            transaction = self._leadership.transaction()
            # Deleting the topic changes its version, so that no move is written once that has begun.
            transaction.check(topic_path(known.record.topic), topic.version)
            await check_up(self._metadata, transaction, joining)
            try:
                await transaction.set(partition_path(group), record, known.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue  # read again: somebody else was first, or it was written after all
            return record
        raise CoordinationUnknown(f"the change of group {group} is not settled after {ROUNDS_MAX} rounds", group=group)

    # --- evening out ------------------------------------------------------------------------------------------------

    async def ask_rebalance(self) -> None:
        """It goes on until :meth:`end_rebalance`.  Idempotent."""
        for _ in range(ROUNDS_MAX):
            if await self._metadata.get(REBALANCE, RebalanceRecord) is not None:
                return
            record = RebalanceRecord(asked_ms=self._clock.wall_ms())
            try:
                await self._leadership.transaction().create(REBALANCE, record).commit()
            except (RecordExists, CoordinationUnknown):
                continue
            _log.info("rebalance_asked")
            return
        raise CoordinationUnknown(f"the rebalance is not settled after {ROUNDS_MAX} rounds")

    async def end_rebalance(self) -> bool:
        """False: there is none."""
        for _ in range(ROUNDS_MAX):
            known = await self._metadata.get(REBALANCE, RebalanceRecord)
            if known is None:
                return False
            try:
                await self._leadership.transaction().delete(REBALANCE, known.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue
            _log.info("rebalance_ended")
            return True
        raise CoordinationUnknown(f"the end of the rebalance is not settled after {ROUNDS_MAX} rounds")

    # --- stores -----------------------------------------------------------------------------------------------------

    async def store(self, store_id: int) -> Versioned[StoreRecord]:
        """StoreUnknown, StoreTombstone (buried)."""
        known = await self._metadata.get(store_path(store_id), StoreRecord)
        if known is None:
            if store_id in await self._buried():
                raise removed(store_id)
            raise unknown(store_id)
        return known

    async def enter(self, store_id: int, before: StoreState, after: StoreState) -> bool:
        """False: the store is not in ``before``."""

        def entered(record: StoreRecord) -> StoreRecord | None:
            return replace(record, state=str(after)) if record.state == before else None

        return await self._change_store(store_id, entered)

    async def cordon(self, store_id: int, cordoned: bool) -> bool:
        """False: it is so already.  StoreUnknown, StoreTombstone."""

        def marked(record: StoreRecord) -> StoreRecord | None:
            if record.state == StoreState.TOMBSTONE:
                raise removed(store_id)
            return replace(record, cordoned=cordoned) if record.cordoned != cordoned else None

        return await self._change_store(store_id, marked)

    async def _change_store(self, store_id: int, changed: Callable[[StoreRecord], StoreRecord | None]) -> bool:
        for _ in range(ROUNDS_MAX):
            known = await self.store(store_id)
            record = changed(known.record)
            if record is None:
                return False
            try:
                await self._leadership.transaction().set(store_path(store_id), record, known.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue
            _log.warning(
                "store_state_changed", store=store_id, name=record.name, state=record.state, cordoned=record.cordoned
            )
            return True
        raise CoordinationUnknown(f"the state of store {store_id} is not settled after {ROUNDS_MAX} rounds")

    async def take_out(self, store_id: int) -> StoreEntry:
        """The store is offline from now on, if it was up; as it is recorded then.  Whether it may go is asked of ZooKeeper, and what it
        rests on, that enough others are up, is written together with it.  StoreUnknown, StoreTombstone (buried), NotEnoughStores."""
        for _ in range(ROUNDS_MAX):
            catalog = await self.recorded()
            store = catalog.stores.get(store_id)
            if store is None:
                await self.store(store_id)  # which says why there is none
                continue
            if store.state != StoreState.UP:
                return store
            check_may_go(catalog, store)
            transaction = self._leadership.transaction()
            for other in others_up(catalog, store_id):
                transaction.check(store_path(other.store_id), other.node_version)
            known = await self.store(store_id)
            record = replace(known.record, state=StoreState.OFFLINE)
            try:
                await transaction.set(store_path(store_id), record, store.node_version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue
            _log.warning("store_state_changed", store=store_id, name=store.name, state=record.state)
            return replace(store, state=record.state)
        raise CoordinationUnknown(f"the state of store {store_id} is not settled after {ROUNDS_MAX} rounds")

    async def recorded(self) -> Catalog:
        """What R2.7 rests on: the stores, who is registered, and how many replicas topics have."""
        return await read_now(
            self._metadata.session, {"stores": 1, "members/datanodes": 1, "topics": 2, "namespaces": 1}
        )

    async def up(self) -> int:
        """How many stores are up, registered and not cordoned, by ZooKeeper's own word."""
        return len(others_up(await read_now(self._metadata.session, {"stores": 1, "members/datanodes": 1}), 0))

    async def names(self, store_id: int) -> int:
        """How many partitions name the store as one that may count.  Read from ZooKeeper: of an offline store it never grows."""
        groups = [int(name) for name in await self._metadata.children("partitions") if name.isdecimal()]
        found = 0
        left = iter(sorted(groups))
        while chunk := list(islice(left, READS_AT_ONCE_MAX)):
            records = await asyncio.gather(*(self._metadata.get(partition_path(g), PartitionRecord) for g in chunk))
            found += sum(known is not None and store_id in known.record.replicas for known in records)
        return found

    async def bury(self, store_id: int) -> None:
        """The tombstone's record goes, and its id is remembered for ever (R2.2).  InvalidArgument: it is no tombstone."""
        for _ in range(ROUNDS_MAX):
            known = await self.store(store_id)
            if known.record.state != StoreState.TOMBSTONE:
                raise InvalidArgument(f"store {store_id} is {known.record.state}, and no tombstone", store_id=store_id)
            transaction = self._leadership.transaction().delete(store_path(store_id), known.version)
            await self._add_buried(transaction, store_id)
            try:
                await transaction.commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                if store_id in await self._buried():
                    return
                continue
            _log.warning("store_buried", store=store_id, name=known.record.name)
            return
        raise CoordinationUnknown(f"burying store {store_id} is not settled after {ROUNDS_MAX} rounds")

    async def _add_buried(self, transaction: Transaction, store_id: int) -> None:
        known = await self._metadata.get(BURIED, BuriedRecord)
        ids = IntervalSet.of(known.record.intervals if known is not None else ()).add(store_id)
        record = BuriedRecord(intervals=ids.intervals)
        if known is None:
            transaction.create(BURIED, record)
        else:
            transaction.set(BURIED, record, known.version)

    async def _buried(self) -> IntervalSet:
        known = await self._metadata.get(BURIED, BuriedRecord)
        return IntervalSet.of(known.record.intervals) if known is not None else IntervalSet()


def operator_move(group: int, wanted: tuple[int, ...], source: int, to: int) -> BeginMove:
    """An operator's word.  InvalidArgument."""
    if source not in wanted:
        raise InvalidArgument(f"store {source} is to hold no replica of group {group}; {list(wanted)} are", group=group)
    if to in wanted:
        raise InvalidArgument(f"store {to} holds a replica of group {group} already", group=group)
    target = tuple(to if s == source else s for s in wanted)
    return BeginMove(group, wanted, target, Cause.OPERATOR, source, to)


def _without(stores: tuple[int, ...], store_id: int) -> tuple[int, ...]:
    return tuple(s for s in stores if s != store_id)
