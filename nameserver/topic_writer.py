"""The leader's writes of namespaces, topics and partitions.

Guarantee: every write is one ZooKeeper transaction that carries the leader's epoch; a topic's id and its groups' ids are
used once (R3.6); a topic has at most one group per index, whichever leaders took part in creating it.

Creating and deleting begin here with one transaction and are finished by reconciliation (reconcile.py), which calls the other methods.
Reads that decide a write go to ZooKeeper, not to the mirror: a leader's own session has seen everything committed before its epoch
began and everything it wrote itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

import structlog

from stele.nameserver.catalog import Catalog, StoreState, TopicState
from stele.nameserver.ids import GROUPS, TOPICS, IdCounter, IntervalSet
from stele.nameserver.placement import place
from stele.services.bundles import BUNDLES_MAX
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
    NamespaceExists,
    NotReady,
    RecordExists,
    RecordMissing,
    TopicNotFound,
    VersionConflict,
)
from stele.services.topics import FOR_EVER, Retention, check_name, check_retention, parse_topic

BUNDLES_DEFAULT = 16
REPLICATION_DEFAULT = 3
DEFAULTS = NamespaceRecord(bundles=BUNDLES_DEFAULT, replication=REPLICATION_DEFAULT)
PARTITIONS_MAX = 1024
REPLICATION_MAX = 9
RECORDS_PER_TRANSACTION_MAX = 80
ROUNDS_MAX = 8
RESERVED = "alloc"  # topics/alloc is a counter
DELETED_TOPICS = "deleted/topics"

_log = structlog.get_logger()


def topic_path(topic: str) -> str:
    return f"topics/{topic}"


def partition_path(group: int) -> str:
    return f"partitions/{group}"


def store_path(store_id: int) -> str:
    return f"stores/{store_id}"


def check_namespace(name: str) -> str:
    check_name("namespace", name)
    if name == RESERVED:
        raise InvalidArgument(f"the namespace name {RESERVED!r} is reserved", name=name)
    return name


def check_shape(partitions: int, replication: int) -> None:
    """``replication`` 0: the namespace's default."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidArgument(f"a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}", partitions=partitions)
    if not 0 <= replication <= REPLICATION_MAX:
        raise InvalidArgument(
            f"a partition has 1 to {REPLICATION_MAX} replicas (0: the namespace's default), not {replication}",
            replication=replication,
        )


class TopicWriter:
    """One per term of office.  Writes that place partitions take turns."""

    def __init__(self, leadership: Leadership, metadata: MetadataStore, *, clock: Clock = SYSTEM) -> None:
        self._leadership, self._metadata, self._clock = leadership, metadata, clock
        self.turn = asyncio.Lock()

    # --- namespaces -------------------------------------------------------------------------------------------------

    async def create_namespace(
        self, name: str, bundles: int, replication: int, retention: Retention, if_absent: bool
    ) -> bool:
        """True if it was created.  InvalidArgument, NamespaceExists."""
        check_namespace(name)
        check_retention(retention)
        record = NamespaceRecord(
            bundles=bundles or BUNDLES_DEFAULT,
            replication=replication or REPLICATION_DEFAULT,
            retention_bytes=retention.size_bytes,
            retention_ms=retention.age_ms,
        )
        if not 1 <= record.bundles <= BUNDLES_MAX:
            raise InvalidArgument(f"a namespace has 1 to {BUNDLES_MAX} bundles, not {bundles}", bundles=bundles)
        check_shape(1, record.replication)
        transaction = self._leadership.transaction()
        _create_namespace(transaction, name, record)
        try:
            await transaction.commit()
        except RecordExists:
            known = await self._metadata.get(f"namespaces/{name}", NamespaceRecord)
            if if_absent and known is not None and known.record == record:
                return False
            raise NamespaceExists(f"there is a namespace {name} already", namespace=name) from None
        _log.info("namespace_created", namespace=name, bundles=record.bundles, replication=record.replication)
        return True

    # --- topics -----------------------------------------------------------------------------------------------------

    async def read(self, name: str) -> Versioned[TopicRecord] | None:
        parse_topic(name)
        return await self._metadata.get(topic_path(name), TopicRecord)

    async def defaults(self, namespace: str) -> NamespaceRecord:
        """What a topic of the namespace is given where it asks for nothing else."""
        known = await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord)
        return known.record if known is not None else DEFAULTS

    async def begin_create(
        self, name: str, partitions: int, replication: int, catalog: Catalog, retention: Retention = FOR_EVER
    ) -> TopicRecord:
        """Records the topic as being created, with its first partitions.  RecordExists if there is one; NotEnoughStores."""
        namespace, _ = parse_topic(name)
        check_namespace(namespace)
        for _ in range(ROUNDS_MAX):
            ids = await self._counter(TOPICS)
            transaction = self._leadership.transaction()
            if await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord) is None:
                _create_namespace(transaction, namespace, DEFAULTS)
            topic = TopicRecord(
                id=ids.take(transaction, 1)[0],
                partitions=partitions,
                replication=replication,
                state=TopicState.CREATING,
                created_ms=self._clock.wall_ms(),
                retention_bytes=retention.size_bytes,
                retention_ms=retention.age_ms,
            )
            transaction.create(topic_path(name), topic)
            first = range(min(partitions, RECORDS_PER_TRANSACTION_MAX))
            await self._add_partitions(transaction, name, first, replication, catalog)
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

    async def record_partitions(self, name: str, catalog: Catalog) -> int:
        """Records the next partitions of a topic that is being created; how many are recorded now."""
        topic = await self.read(name)
        if topic is None or topic.record.state != TopicState.CREATING:
            return 0
        recorded = await self._recorded(name, catalog)
        missing = [i for i in range(topic.record.partitions) if i not in recorded.values()]
        chunk = missing[:RECORDS_PER_TRANSACTION_MAX]
        if chunk:
            transaction = self._leadership.transaction()
            # Deleting the topic changes its version, so no partition is recorded once that has begun.
            transaction.check(topic_path(name), topic.version)
            await self._add_partitions(transaction, name, chunk, topic.record.replication, catalog)
            await transaction.commit()
            _log.info(
                "partitions_recorded", topic=name, recorded=len(recorded) + len(chunk), of=topic.record.partitions
            )
        return len(recorded) + len(chunk)

    async def record_materialised(self, name: str, held: Mapping[int, Iterable[int]]) -> bool:
        """Records which stores have reported a replica of each group, beside those recorded before.  False: the topic goes, and
        nothing was recorded."""
        topic = await self.read(name)
        if topic is None or topic.record.state == TopicState.DELETING:
            return False
        left = iter(sorted(held))
        while chunk := list(islice(left, RECORDS_PER_TRANSACTION_MAX)):
            known = await asyncio.gather(*(self._metadata.get(partition_path(g), PartitionRecord) for g in chunk))
            transaction = self._leadership.transaction()
            transaction.check(topic_path(name), topic.version)
            for group, found in zip(chunk, known, strict=True):
                if found is not None and found.record.topic == name:
                    seen = {*found.record.materialised, *held[group]}
                    materialised = tuple(sorted(seen.intersection(found.record.replicas)))
                    record = replace(found.record, materialised=materialised)
                    transaction.set(partition_path(group), record, found.version)
            await transaction.commit()
        return True

    async def mark_ready(self, name: str) -> None:
        await self._enter(name, TopicState.CREATING, TopicState.READY)

    async def set_retention(self, name: str, changed: Callable[[Retention], Retention]) -> TopicRecord:
        """The topic's record with the retention that ``changed`` makes of its own.  InvalidArgument, TopicNotFound."""
        for _ in range(ROUNDS_MAX):
            topic = await self.read(name)
            if topic is None or topic.record.state == TopicState.DELETING:
                raise TopicNotFound(f"there is no topic {name}", topic=name)
            before = topic.record.retention
            after = check_retention(changed(before))
            if after == before:
                return topic.record
            record = replace(topic.record, retention_bytes=after.size_bytes, retention_ms=after.age_ms)
            try:
                await self._leadership.transaction().set(topic_path(name), record, topic.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue  # read again: somebody else was first, or it was written after all
            _log.info("topic_altered", topic=name, retention_bytes=after.size_bytes, retention_ms=after.age_ms)
            return record
        raise CoordinationUnknown(f"the change of {name} is not settled after {ROUNDS_MAX} rounds", topic=name)

    async def begin_delete(self, name: str) -> int:
        """The id of the topic, which is being deleted from now on.  TopicNotFound."""
        for _ in range(ROUNDS_MAX):
            topic = await self.read(name)
            if topic is None:
                raise TopicNotFound(f"there is no topic {name}", topic=name)
            if topic.record.state == TopicState.DELETING or await self._enter(
                name, topic.record.state, TopicState.DELETING
            ):
                return topic.record.id
        raise CoordinationUnknown(f"the deletion of {name} is not settled after {ROUNDS_MAX} rounds", topic=name)

    async def remove_records(self, name: str, catalog: Catalog) -> None:
        """Removes a topic that is being deleted; its own record last, so that an interrupted removal is taken up again.

        Its id is recorded as deleted in the transaction that removes it, so that a store that could not be asked is still told, whenever
        it comes back."""
        topic = await self.read(name)
        if topic is None or topic.record.state != TopicState.DELETING:
            return
        left = iter(sorted(await self._recorded(name, catalog)))
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
        topic = await self.read(partition.record.topic)
        return partition.record.topic, topic.record.id if topic is not None else 0

    # --- parts ------------------------------------------------------------------------------------------------------

    async def _enter(self, name: str, before: str, after: str) -> bool:
        topic = await self.read(name)
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
        self, transaction: Transaction, name: str, indexes: Iterable[int], replication: int, catalog: Catalog
    ) -> None:
        wanted = list(indexes)
        placed = place(len(wanted), replication, catalog.placeable_stores, catalog.replica_counts)
        await check_up(self._metadata, transaction, {s for replicas in placed for s in replicas})
        groups = (await self._counter(GROUPS)).take(transaction, len(wanted))
        for group, index, replicas in zip(groups, wanted, placed, strict=True):
            transaction.create(partition_path(group), PartitionRecord(topic=name, index=index, replicas=replicas))

    async def _recorded(self, name: str, catalog: Catalog) -> dict[int, int]:
        """Group → index of every recorded partition of the topic: the mirror's, and those that it has not seen yet."""
        present = {int(g) for g in await self._metadata.children("partitions") if g.isdecimal()}
        unseen = sorted(present - catalog.partitions.keys())
        fresh = await asyncio.gather(*(self._metadata.get(partition_path(g), PartitionRecord) for g in unseen))
        recorded = {g: p.index for g, p in catalog.partitions.items() if p.topic == name and g in present}
        for group, found in zip(unseen, fresh, strict=True):
            if found is not None and found.record.topic == name:
                recorded[group] = found.record.index
        return recorded


async def check_up(metadata: MetadataStore, transaction: Transaction, stores: Iterable[int]) -> None:
    """``transaction`` gives replicas to ``stores``, and fails if one of them is being removed by then: once that is recorded, no record
    begins to name it.  NotReady."""
    for store_id in sorted(stores):
        known = await metadata.get(store_path(store_id), StoreRecord)
        if known is None or known.record.state != StoreState.UP:
            raise NotReady(f"store {store_id} was to get a replica and is being removed", store_id=store_id)
        transaction.check(store_path(store_id), known.version)


def _create_namespace(transaction: Transaction, name: str, record: NamespaceRecord) -> None:
    transaction.create(f"namespaces/{name}", record).create(f"topics/{name}").create(f"bundles/{name}")
