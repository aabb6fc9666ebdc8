"""The leader's writes of namespaces.

Guarantee: each change is one transaction, which fails where this leadership is over.  A namespace goes only while it has no topic, by
ZooKeeper's own word.  What its bundles' epochs have come to stays recorded: one of its name that is made later goes on above them, for
brokers never believe in a lower one.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import structlog

from stele.nameserver.catalog import BundleEntry, Catalog
from stele.services.bundles import BUNDLES_MAX, bundles_of
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import BundleRecord, NamespaceRecord, Versioned
from stele.services.coordination.znode import ANY_VERSION
from stele.services.errors import (
    CoordinationUnknown,
    InvalidArgument,
    NamespaceExists,
    NamespaceNotEmpty,
    NamespaceNotFound,
    RecordExists,
    RecordMissing,
    VersionConflict,
)
from stele.services.pb import common_pb2
from stele.services.topics import Retention, check_name, check_retention
from stele.services.wording import counted

BUNDLES_DEFAULT = 16
REPLICATION_DEFAULT = 3
DEFAULTS = NamespaceRecord(bundles=BUNDLES_DEFAULT, replication=REPLICATION_DEFAULT)
PARTITIONS_MAX = 1024
REPLICATION_MAX = 9
RELEASED_PER_TRANSACTION_MAX = 64
ROUNDS_MAX = 8
RESERVED = "alloc"  # topics/alloc is a counter

_log = structlog.get_logger()


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


class NamespaceWriter:
    """One per term of office.  Whoever creates or deletes holds the turn of the topics' writer."""

    def __init__(self, leadership: Leadership, metadata: MetadataStore) -> None:
        self._leadership, self._metadata = leadership, metadata

    async def create(self, name: str, bundles: int, replication: int, retention: Retention, if_absent: bool) -> bool:
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
        await add_namespace(self._metadata, transaction, name, record)
        try:
            await transaction.commit()
        except RecordExists:
            known = await self._read(name)
            if if_absent and known is not None and replace(known.record, splits=()) == record:
                return False
            raise NamespaceExists(f"there is a namespace {name} already", namespace=name) from None
        _log.info("namespace_created", namespace=name, bundles=record.bundles, replication=record.replication)
        return True

    async def alter(self, name: str, replication: int, retention: common_pb2.Retention) -> NamespaceRecord:
        """As it is then.  ``replication`` 0, and bounds that are not given: as before.  InvalidArgument, NamespaceNotFound."""
        check_namespace(name)
        check_shape(1, replication)
        for _ in range(ROUNDS_MAX):
            known = await self._read(name)
            if known is None:
                raise NamespaceNotFound(f"there is no namespace {name}", namespace=name)
            before = known.record
            kept = check_retention(before.retention.changed_by(retention))
            record = replace(
                before,
                replication=replication or before.replication,
                retention_bytes=kept.size_bytes,
                retention_ms=kept.age_ms,
            )
            if record == before:
                return record
            try:
                await self._leadership.transaction().set(_path(name), record, known.version).commit()
            except (VersionConflict, RecordMissing, CoordinationUnknown):
                continue  # read again: somebody else was first, or it was written after all
            _log.info("namespace_altered", namespace=name, replication=record.replication, **asdict(kept))
            return record
        raise CoordinationUnknown(f"the change of {name} is not settled after {ROUNDS_MAX} rounds", namespace=name)

    async def delete(self, name: str) -> None:
        """Only if it has no topic.  NamespaceNotFound, NamespaceNotEmpty."""
        check_namespace(name)
        for _ in range(ROUNDS_MAX):
            known = await self._read(name)
            if known is None:
                raise NamespaceNotFound(f"there is no namespace {name}", namespace=name)
            topics = await self._metadata.children(f"topics/{name}")
            if topics:
                has = counted(len(topics), "topic")
                raise NamespaceNotEmpty(
                    f"the namespace {name} has {has}; `stele topic ls {name}` lists them",
                    namespace=name,
                    topics=len(topics),
                )
            # The second one fails where a topic was recorded meanwhile.
            transaction = self._leadership.transaction().delete(_path(name), known.version)
            try:
                await transaction.delete(f"topics/{name}", ANY_VERSION).commit()
            except (VersionConflict, RecordMissing):
                continue
            except CoordinationUnknown:
                if await self._read(name) is not None:
                    continue
            _log.info("namespace_deleted", namespace=name)
            return
        raise CoordinationUnknown(f"the deletion of {name} is not settled after {ROUNDS_MAX} rounds", namespace=name)

    async def release(self, catalog: Catalog) -> None:
        """Bundles of namespaces that are gone, or are cut in other places by now, belong to nobody."""
        left: dict[str, list[BundleEntry]] = {}
        for bundle in catalog.bundles.values():
            if bundle.broker and bundle.name not in catalog.wanted_bundles:
                left.setdefault(bundle.name.partition("/")[0], []).append(bundle)
        for name, bundles in sorted(left.items()):
            known = await self._read(name)
            layout = bundles_of(name, known.record.bundles, known.record.splits) if known is not None else ()
            if any(b.name in layout for b in bundles):  # the view lags
                continue
            for start in range(0, len(bundles), RELEASED_PER_TRANSACTION_MAX):
                transaction = self._leadership.transaction()
                for b in bundles[start : start + RELEASED_PER_TRANSACTION_MAX]:
                    transaction.set(f"bundles/{b.name}", BundleRecord(broker="", epoch=b.epoch + 1), b.node_version)
                try:
                    await transaction.commit()
                except (VersionConflict, RecordMissing):
                    break  # left to the next round
            else:
                _log.info("namespace_released", namespace=name, bundles=len(bundles))

    async def _read(self, name: str) -> Versioned[NamespaceRecord] | None:
        return await self._metadata.get(_path(name), NamespaceRecord)


async def add_namespace(metadata: MetadataStore, transaction: Transaction, name: str, record: NamespaceRecord) -> None:
    """``transaction`` creates the namespace.  That of its bundles may be there, of one of its name that is gone."""
    transaction.create(_path(name), record).create(f"topics/{name}")
    if name not in await metadata.children("bundles"):
        transaction.create(f"bundles/{name}")


def _path(name: str) -> str:
    return f"namespaces/{name}"
