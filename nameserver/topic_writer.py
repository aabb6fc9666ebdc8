"""The leader's writes of topics and partitions.

Guarantee: every write is one ZooKeeper transaction that carries the leader's epoch; a topic's id and its groups' ids are
used once (R3.6); a topic has at most one group per index, whichever leaders took part in creating it.

Creating and deleting begin here with one transaction and are finished by reconciliation (reconcile.py), which calls the other methods.
Reads that decide a write go to ZooKeeper, not to the mirror: a leader's own session has seen everything committed before its epoch
began and everything it wrote itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import islice

import structlog

from stele.nameserver.catalog import Catalog, PartitionEntry, RackRule, StoreState, TopicState
from stele.nameserver.ids import GROUPS, TOPICS, IdCounter
from stele.nameserver.namespace_writer import DEFAULTS, add_namespace, check_namespace
from stele.nameserver.placement import place, spread
from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import (
    CounterRecord,
    DeletedTopicsRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
    Versioned,
)
from stele.services.coordination.znode import ANY_VERSION
from stele.services.errors import (
    CoordinationUnknown,
    InvalidArgument,
    NotReady,
    RecordExists,
    RecordMissing,
    TopicNotFound,
    TopicReplaced,
    VersionConflict,
)
from stele.services.intervals import IntervalSet
from stele.services.topics import FOR_EVER, Retention, parse_topic

RECORDS_PER_TRANSACTION_MAX = 80
ROUNDS_MAX = 8
DELETED_TOPICS = "deleted/topics"

_log = structlog.get_logger()


def topic_path(topic: str) -> str:
    return f"topics/{topic}"


def partition_path(group: int) -> str:
    return f"partitions/{group}"


def store_path(store_id: int) -> str:
    return f"stores/{store_id}"


class TopicWriter:
    """One per term of office.  Writes that place partitions take turns."""

    def __init__(self, leadership: Leadership, metadata: MetadataStore, *, clock: Clock = SYSTEM) -> None:
        self._leadership, self._metadata, self._clock = leadership, metadata, clock
        self.turn = asyncio.Lock()

    async def read(self, name: str) -> Versioned[TopicRecord] | None:
        parse_topic(name)
        return await self._metadata.get(topic_path(name), TopicRecord)

    async def defaults(self, namespace: str) -> NamespaceRecord:
        """What a topic of the namespace is given where it asks for nothing else."""
        known = await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord)
        return known.record if known is not None else DEFAULTS

    async def begin_create(
        self,
        name: str,
        partitions: int,
        replication: int,
        catalog: Catalog,
        retention: Retention = FOR_EVER,
        racks: str = RackRule.PREFER,
    ) -> TopicRecord:
        """Records the topic as being created, with its first partitions.  RecordExists if there is one; NotEnoughStores."""
        namespace, _ = parse_topic(name)
        check_namespace(namespace)
        for _ in range(ROUNDS_MAX):
            ids = await self._counter(TOPICS)
            transaction = self._leadership.transaction()
            if await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord) is None:
                await add_namespace(self._metadata, transaction, namespace, DEFAULTS)
            topic = TopicRecord(
                id=ids.take(transaction, 1)[0],
                partitions=partitions,
                replication=replication,
                state=TopicState.CREATING,
                created_ms=self._clock.wall_ms(),
                retention_bytes=retention.size_bytes,
                retention_ms=retention.age_ms,
                racks=racks,
            )
            transaction.create(topic_path(name), topic)
            first = range(min(partitions, RECORDS_PER_TRANSACTION_MAX))
            await self._add_partitions(transaction, name, first, topic, catalog)
            try:
                await transaction.commit()
            except (VersionConflict, RecordMissing):
                continue
            except RecordExists as e:
                if e.facts.get("path") == topic_path(name):
                    raise
                continue
            except CoordinationUnknown:
                # The id is this transaction's alone: finding it means that it was committed.
                written = await self._metadata.get(topic_path(name), TopicRecord)
                if written is None or written.record.id != topic.id:
                    raise
            _log.info("topic_creating", topic=name, id=topic.id, partitions=partitions, replication=replication)
            return topic
        raise CoordinationUnknown(f"the creation of {name} is not settled after {ROUNDS_MAX} rounds", topic=name)

    async def record_partitions(self, name: str, topic_id: int, catalog: Catalog) -> int:
        """Records the next partitions of a topic that is being created or grows; how many are recorded now."""
        topic = await self._read(name, topic_id)
        if topic is None or topic.record.state == TopicState.DELETING:
            return 0
        recorded = await self._recorded(name, topic_id, catalog)
        wanted = max(topic.record.partitions, topic.record.growing_to)
        missing = [i for i in range(wanted) if i not in recorded.values()]
        chunk = missing[:RECORDS_PER_TRANSACTION_MAX]
        if chunk:
            transaction = self._leadership.transaction()
            # Deleting the topic changes its version, so no partition is recorded once that has begun.
            transaction.check(topic_path(name), topic.version)
            await self._add_partitions(transaction, name, chunk, topic.record, catalog)
            await transaction.commit()
            _log.info("partitions_recorded", topic=name, recorded=len(recorded) + len(chunk), of=wanted)
        return len(recorded) + len(chunk)

    async def record_materialised(self, name: str, topic_id: int, held: Mapping[int, Iterable[int]]) -> bool:
        """Records which stores have reported a replica of each group, beside those recorded before.  False: the topic goes, and
        nothing was recorded."""
        topic = await self._read(name, topic_id)
        if topic is None or topic.record.state == TopicState.DELETING:
            return False
        left = iter(sorted(held))
        while chunk := list(islice(left, RECORDS_PER_TRANSACTION_MAX)):
            known = await asyncio.gather(*(self._metadata.get(partition_path(g), PartitionRecord) for g in chunk))
            transaction = self._leadership.transaction()
            transaction.check(topic_path(name), topic.version)
            for group, found in zip(chunk, known, strict=True):
                if found is not None and _is_of(found.record, name, topic_id):
                    seen = {*found.record.materialised, *held[group]}
                    materialised = tuple(sorted(seen.intersection(found.record.replicas)))
                    record = replace(found.record, materialised=materialised)
                    transaction.set(partition_path(group), record, found.version)
            await transaction.commit()
        return True

    async def mark_ready(self, name: str, topic_id: int) -> None:
        await self._enter(name, topic_id, TopicState.CREATING, TopicState.READY)

    async def show_partitions(self, name: str, topic_id: int, partitions: int) -> None:
        """The topic has as many from now on, if that is what it grows to."""
        topic = await self._read(name, topic_id)
        if topic is None or topic.record.state != TopicState.READY:
            return
        if topic.record.growing_to == partitions:
            record = replace(topic.record, partitions=partitions, growing_to=0)
            await self._leadership.transaction().set(topic_path(name), record, topic.version).commit()
            _log.info("topic_grown", topic=name, id=topic_id, partitions=partitions)

    async def alter(self, name: str, topic_id: int, changed: Callable[[TopicRecord], TopicRecord]) -> TopicRecord:
        """The topic's record as ``changed`` makes it, in one write.  ``topic_id`` 0: of whichever topic has the name.  TopicNotFound,
        TopicReplaced, and what ``changed`` raises."""
        for _ in range(ROUNDS_MAX):
            topic = await self.read(name)
            if topic is None or topic.record.state == TopicState.DELETING:
                raise TopicNotFound(f"there is no topic {name}", topic=name)
            if topic_id not in (0, topic.record.id):
                raise TopicReplaced(
                    f"topic {name} was deleted and made anew", topic=name, expected=topic_id, got=topic.record.id
                )
            record = changed(topic.record)
            if record == topic.record:
                return record
            try:
                await self._leadership.transaction().set(topic_path(name), record, topic.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue  # read again: somebody else was first, or it was written after all
            _log.info("topic_altered", topic=name, **_differences(topic.record, record))
            return record
        raise CoordinationUnknown(f"the change of {name} is not settled after {ROUNDS_MAX} rounds", topic=name)

    async def begin_delete(self, name: str) -> int:
        """The id of the topic, which is being deleted from now on.  TopicNotFound."""
        for _ in range(ROUNDS_MAX):
            topic = await self.read(name)
            if topic is None:
                raise TopicNotFound(f"there is no topic {name}", topic=name)
            if topic.record.state == TopicState.DELETING or await self._enter(
                name, topic.record.id, topic.record.state, TopicState.DELETING
            ):
                return topic.record.id
        raise CoordinationUnknown(f"the deletion of {name} is not settled after {ROUNDS_MAX} rounds", topic=name)

    async def remove_records(self, name: str, topic_id: int, catalog: Catalog) -> None:
        """Removes a topic that is being deleted; its own record last, so that an interrupted removal is taken up again.

        Its id is recorded as deleted in the transaction that removes it, so that a store that could not be asked is still told, whenever
        it comes back."""
        topic = await self._read(name, topic_id)
        if topic is None or topic.record.state != TopicState.DELETING:
            return
        left = iter(sorted(await self._recorded(name, topic_id, catalog)))
        while chunk := list(islice(left, RECORDS_PER_TRANSACTION_MAX)):
            transaction = self._leadership.transaction()
            transaction.check(topic_path(name), topic.version)
            for group in chunk:
                transaction.delete(partition_path(group), ANY_VERSION)
            await transaction.commit()
        transaction = self._leadership.transaction().delete(topic_path(name), topic.version)
        known = await self._metadata.get(DELETED_TOPICS, DeletedTopicsRecord)
        deleted = IntervalSet.of(known.record.intervals if known is not None else ()).add(topic.record.id)
        record = DeletedTopicsRecord(intervals=deleted.intervals)
        if known is None:
            transaction.create(DELETED_TOPICS, record)
        else:
            transaction.set(DELETED_TOPICS, record, known.version)
        await transaction.commit()
        _log.info("topic_removed", topic=name, id=topic.record.id)

    async def recorded(self, group: int) -> tuple[str, int] | None:
        """Name and id of the topic that the group is recorded for, beyond doubt: the empty transaction proves that we still led when we
        began to read.  None: there is no such record."""
        await self._leadership.transaction().commit()
        partition = await self._metadata.get(partition_path(group), PartitionRecord)
        if partition is None:
            return None
        if partition.record.topic_id:
            return partition.record.topic, partition.record.topic_id
        topic = await self.read(partition.record.topic)
        return partition.record.topic, topic.record.id if topic is not None else 0

    # --- parts ------------------------------------------------------------------------------------------------------

    async def _read(self, name: str, topic_id: int) -> Versioned[TopicRecord] | None:
        """The topic with this id, if it has the name still: what was decided of one is nothing to the next of its name."""
        topic = await self.read(name)
        return topic if topic is not None and topic.record.id == topic_id else None

    async def _enter(self, name: str, topic_id: int, before: str, after: str) -> bool:
        topic = await self._read(name, topic_id)
        if topic is None or topic.record.state != before:
            return False
        record = topic.record
        changed = replace(record, state=after)
        try:
            await self._leadership.transaction().set(topic_path(name), changed, topic.version).commit()
        except VersionConflict:
            return False
        _log.info(f"topic_{after}", topic=name, id=record.id)
        return True

    async def _counter(self, path: str) -> IdCounter:
        return IdCounter(path, await self._metadata.get(path, CounterRecord))

    async def _add_partitions(
        self, transaction: Transaction, name: str, indexes: Iterable[int], topic: TopicRecord, catalog: Catalog
    ) -> None:
        wanted = list(indexes)
        placed = place(
            len(wanted),
            topic.replication,
            catalog.placeable_stores,
            catalog.replica_counts,
            catalog.racks,
            apart=topic.racks == RackRule.REQUIRE,
        )
        together = sum(bool(catalog.racks) and spread(stores, catalog.racks) < len(stores) for stores in placed)
        if together:
            _log.warning("replicas_share_a_rack", topic=name, partitions=together, racks=topic.racks)
        await check_up(self._metadata, transaction, {s for replicas in placed for s in replicas})
        groups = (await self._counter(GROUPS)).take(transaction, len(wanted))
        for group, index, replicas in zip(groups, wanted, placed, strict=True):
            transaction.create(partition_path(group), _partition(name, topic, index, replicas))

    async def _recorded(self, name: str, topic_id: int, catalog: Catalog) -> dict[int, int]:
        """Group → index of every recorded partition of the topic: the mirror's, and those that it has not seen yet."""
        present = {int(g) for g in await self._metadata.children("partitions") if g.isdecimal()}
        unseen = sorted(present - catalog.partitions.keys())
        fresh = await asyncio.gather(*(self._metadata.get(partition_path(g), PartitionRecord) for g in unseen))
        recorded = {g: p.index for g, p in catalog.partitions.items() if g in present and _is_of(p, name, topic_id)}
        for group, found in zip(unseen, fresh, strict=True):
            if found is not None and _is_of(found.record, name, topic_id):
                recorded[group] = found.record.index
        return recorded


def _partition(name: str, topic: TopicRecord, index: int, replicas: tuple[int, ...]) -> PartitionRecord:
    return PartitionRecord(topic=name, topic_id=topic.id, index=index, replicas=replicas)


def _is_of(partition: PartitionRecord | PartitionEntry, name: str, topic_id: int) -> bool:
    return partition.topic == name and partition.topic_id in (0, topic_id)


def check_racks(racks: str) -> str:
    """The rule that is meant.  InvalidArgument."""
    if racks not in ("", *RackRule):
        raise InvalidArgument(f"racks: {racks[:64]!r} is not {' or '.join(RackRule)}")
    return racks or RackRule.PREFER


def _differences(before: TopicRecord, after: TopicRecord) -> dict[str, int]:
    return {f: value for f, value in asdict(after).items() if value != getattr(before, f)}


async def check_up(metadata: MetadataStore, transaction: Transaction, stores: Iterable[int]) -> None:
    """``transaction`` gives replicas to ``stores``, and fails if one of them is being removed or cordoned by then: once that is
    recorded, no record begins to name it.  NotReady."""
    for store_id in sorted(stores):
        known = await metadata.get(store_path(store_id), StoreRecord)
        if known is None or known.record.state != StoreState.UP:
            raise NotReady(f"store {store_id} was to get a replica and is being removed", store_id=store_id)
        if known.record.cordoned:
            raise NotReady(f"store {store_id} was to get a replica and is cordoned", store_id=store_id)
        transaction.check(store_path(store_id), known.version)
