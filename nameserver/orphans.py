"""What operators have done with replicas that no record speaks for.

Guarantee: an orphan is adopted with all that its stores say of its topic, in one transaction, or not at all; one is removed only where
ZooKeeper, and not the mirror alone, has no record of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from stele.nameserver.adoption import Adoption, adopt
from stele.nameserver.catalog import Catalog, StoreState, TopicState
from stele.nameserver.effects import DeleteReplica
from stele.nameserver.namespace_writer import DEFAULTS, add_namespace, check_namespace
from stele.nameserver.replicas import ReplicaOrders
from stele.nameserver.topic_writer import TopicWriter, partition_path, store_path, topic_path
from stele.nameserver.view import View
from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import NamespaceRecord, PartitionRecord, StoreRecord, TopicRecord
from stele.services.errors import (
    CoordinationUnknown,
    GroupNotFound,
    InvalidArgument,
    NotReady,
    RecordExists,
    RecordMissing,
    VersionConflict,
)
from stele.services.topics import parse_topic

_log = structlog.get_logger()


class Orphans:
    """One per term of office."""

    def __init__(
        self,
        leadership: Leadership,
        metadata: MetadataStore,
        topics: TopicWriter,
        orders: ReplicaOrders,
        view: Callable[[], View],
        check: Callable[[], Awaitable[None]],
        mirrored: Callable[[Callable[[Catalog], bool]], Awaitable[None]],
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        """``check`` raises while the records are those of an older copy."""
        self._leadership, self._metadata, self._topics, self._orders = leadership, metadata, topics, orders
        self._view, self._check, self._mirrored, self._clock = view, check, mirrored, clock

    async def remove(self, store_id: int, group: int, topic_id: int) -> None:
        """An operator's word that a replica which no record speaks for may go.  Returns once its store has moved it to its trash.
        GroupNotFound: there is no such stray; InvalidArgument: it is none after all."""
        view = self._view()
        report, member = view.reports.get(store_id), view.catalog.live_stores.get(store_id)
        stray = report.strays.get(group) if report is not None and report.connected else None
        if stray is None or member is None or stray.replica.topic_id != topic_id:
            raise GroupNotFound(
                f"store {store_id} reports no orphan of group {group} and topic id {topic_id}; `stele store orphans ls` lists them",
                group=group,
                store_id=store_id,
            )
        recorded = await self._topics.recorded(group)
        if recorded is not None and (topic_id in (0, recorded[1]) or not recorded[1]):
            raise InvalidArgument(
                f"group {group} is recorded as one of {recorded[0]}: it goes with that topic", group=group
            )
        await self._orders.give(member, DeleteReplica(store_id, group, topic_id))
        _log.warning("orphan_removed", store=store_id, group=group, topic=stray.replica.topic, topic_id=topic_id)

    async def adopt(self, topic: str, topic_id: int, partitions: int) -> TopicRecord:
        """An operator's word that the topic is to be again what its stores hold of it.  ``topic_id`` 0: there is but one of that name;
        ``partitions``: how many it had, where those that no store reports are to begin empty; 0: as many as are reported.

        Errors: as adoption.py says; MetadataBehind; LeadershipLost; CoordinationUnknown.
        """
        namespace, _ = parse_topic(topic)
        check_namespace(namespace)
        await self._check()
        async with self._topics.turn:
            found = adopt(self._view().catalog, self._view().reports, topic, topic_id, partitions)
            record = await self._record(namespace, found)
            groups = {p.group for p in found.adopted}
            await self._mirrored(lambda c: topic in c.topics and groups <= c.partitions.keys())
        _log.warning(
            "orphans_adopted", topic=topic, topic_id=found.topic_id, groups=sorted(groups), empty=found.missing
        )
        return record

    async def _record(self, namespace: str, found: Adoption) -> TopicRecord:
        transaction = self._leadership.transaction()
        if await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord) is None:
            await add_namespace(self._metadata, transaction, namespace, DEFAULTS)
        known = await self._topics.read(found.topic)
        # CREATING where partitions begin empty: reconciliation records those, and every adopted replica counts as reported before.
        state = TopicState.CREATING if found.missing else TopicState.READY
        if known is None:
            record = TopicRecord(
                id=found.topic_id,
                partitions=found.partitions,
                replication=found.replication,
                state=state,
                created_ms=self._clock.wall_ms(),
                retention_bytes=found.retention.size_bytes,
                retention_ms=found.retention.age_ms,
            )
            transaction.create(topic_path(found.topic), record)
        elif known.record.id != found.topic_id or known.record.state == TopicState.DELETING:
            raise InvalidArgument(f"the topic {found.topic} is {known.record.state}, with the id {known.record.id}")
        elif known.record.growing_to:
            raise NotReady(
                f"{found.topic} is being given more partitions; ask again when it has them", topic=found.topic
            )
        else:
            record = replace(known.record, partitions=found.partitions, state=state)
            transaction.set(topic_path(found.topic), record, known.version)
        await self._check_up(transaction, {s for p in found.adopted for s in p.replicas})
        for p in found.adopted:
            partition = PartitionRecord(
                topic=found.topic,
                topic_id=record.id,
                index=p.index,
                replicas=p.replicas,
                materialised=p.replicas,
            )
            recorded = await self._metadata.get(partition_path(p.group), PartitionRecord)
            if recorded is None:
                transaction.create(partition_path(p.group), partition)
            else:  # the topic's record alone was lost
                transaction.set(partition_path(p.group), partition, recorded.version)
        try:
            await transaction.commit()
        except (VersionConflict, RecordMissing, RecordExists) as e:
            raise NotReady(f"something else was recorded of {found.topic} meanwhile ({e.message}); ask again") from e
        except CoordinationUnknown:
            # The id is the topic's alone, and this transaction records all of it: finding it means that it was committed.
            written = await self._topics.read(found.topic)
            if known is not None or written is None or written.record.id != found.topic_id:
                raise
        return record

    async def _check_up(self, transaction: Transaction, stores: set[int]) -> None:
        """As for replicas that are given out (topic_writer.py), but a cordoned store keeps what it has.  NotReady."""
        for store_id in sorted(stores):
            known = await self._metadata.get(store_path(store_id), StoreRecord)
            if known is None:
                raise NotReady(f"store {store_id} holds a replica and has no record: start it first", store_id=store_id)
            if known.record.state != StoreState.UP:
                raise NotReady(
                    f"store {store_id} holds a replica and is {known.record.state}: its decommission is to be cancelled first",
                    store_id=store_id,
                )
            transaction.check(store_path(store_id), known.version)
