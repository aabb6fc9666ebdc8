"""From the coordination tree's nodes to a :class:`Catalog`.  Pure.

Guarantee: the same nodes give the same catalog; a node that did not change is not decoded again; a record that cannot be read is left out
and named in ``unreadable``, and everything else is still there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    DrainedBroker,
    Leader,
    Member,
    MemberKind,
    NamespaceEntry,
    PartitionEntry,
    Rebalance,
    StoreEntry,
    TopicEntry,
)
from stele.nameserver.catalog_change import DERIVED_OF_TABLES, CatalogChange
from stele.services.coordination.records import (
    BrokerRecord,
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    CounterRecord,
    DeletedTopicsRecord,
    EpochRecord,
    LeaderRecord,
    MemberRecord,
    NamespaceRecord,
    PartitionRecord,
    RebalanceRecord,
    StoreRecord,
    TopicRecord,
    decode,
)
from stele.services.coordination.znode import Node
from stele.services.errors import RecordUnreadable
from stele.services.high_water import HighWater
from stele.services.intervals import IntervalSet

Nodes = Mapping[str, Node]


class CatalogReader:
    """``reader.read(nodes)`` begins; ``reader.update(nodes)`` for each change, with the nodes that changed alone; None: it is gone.

    Nodes of different subtrees may be put together in one mapping."""

    def __init__(self) -> None:
        self._others: dict[str, object] = {}  # path → fact, of what there is little of
        self._versions: dict[str, int] = {}  # path → the transaction of the value that was read
        self._catalog = Catalog()
        self.unreadable: dict[str, str] = {}

    def read(self, nodes: Nodes) -> Catalog:
        """The catalog of these nodes and no others."""
        gone: dict[str, Node | None] = {path: None for path in (*self._versions, *self.unreadable) if path not in nodes}
        return self.update({**gone, **nodes}).catalog

    def update(self, nodes: Mapping[str, Node | None]) -> Update:
        """The catalog in which these nodes are as given, and the others as before."""
        change, others_changed = CatalogChange(), False
        for path, node in nodes.items():
            if node is not None and self._versions.get(path) == node.stat.mzxid and path not in self.unreadable:
                continue
            self.unreadable.pop(path, None)
            fact = self._fact(path, node)
            place = _place(path)
            if place is not None:
                table, key = place
                getattr(change, table)[key] = fact
            elif fact is not self._others.get(path):
                others_changed = True
                if fact is None:
                    del self._others[path]
                else:
                    self._others[path] = fact
        self._catalog = change.apply(self._catalog)
        if others_changed:
            # What is derived of topics and partitions is not lost with it: there is much of them, and nothing of it changed.
            found: dict[type, list[Any]] = {}
            for fact in self._others.values():
                found.setdefault(type(fact), []).append(fact)
            self._catalog = _assemble(found, self._catalog)
        return Update(self._catalog, set(change.topics), set(change.partitions), set(change.bundles), others_changed)

    def _fact(self, path: str, node: Node | None) -> object | None:
        """None: it states nothing, is gone, or cannot be read."""
        if node is None:
            self._versions.pop(path, None)
            return None
        try:
            fact = _read(path, node)
        except RecordUnreadable as e:
            self._versions.pop(path, None)
            self.unreadable[path] = e.message
            return None
        self._versions[path] = node.stat.mzxid
        return fact


class Update(NamedTuple):
    """What became of a change: the catalog, and which of its entries are to be looked at anew."""

    catalog: Catalog
    topics: set[str]
    groups: set[int]
    bundles: set[str]
    others: bool  # anything else


def _place(path: str) -> tuple[str, str | int] | None:
    """Table and key of an entry of which there are many."""
    folder, _, rest = path.partition("/")
    if folder == "partitions" and rest.isdecimal():
        return "partitions", int(rest)
    if folder in ("topics", "bundles") and rest.count("/") == 1:
        return folder, rest
    return None


class _Deleted(NamedTuple):
    topics: IntervalSet


class _Cluster(NamedTuple):
    record_format: int


class _Epoch(NamedTuple):
    epoch: int
    imported: bool


def _assemble(found: Mapping[type, list[Any]], known: Catalog) -> Catalog:
    """``known`` with everything but topics, partitions and bundles as it was found."""
    members: dict[MemberKind, dict[str, Member]] = {kind: {} for kind in MemberKind}
    for member in found.get(Member, ()):
        members[member.kind][member.name] = member
    epoch = next(iter(found.get(_Epoch, ())), _Epoch(0, False))
    made = dataclasses.replace(
        known,
        namespaces={n.name: n for n in found.get(NamespaceEntry, ())},
        drained={d.name: d for d in found.get(DrainedBroker, ())},
        stores={s.store_id: s for s in found.get(StoreEntry, ())},
        buried=next(iter(found.get(IntervalSet, ())), IntervalSet()),
        counters=functools.reduce(HighWater.joined, found.get(HighWater, ()), HighWater(epoch=epoch.epoch)),
        record_format=next(iter(found.get(_Cluster, ())), _Cluster(1)).record_format,
        imported=epoch.imported,
        deleted_topics=next((deleted.topics for deleted in found.get(_Deleted, ())), IntervalSet()),
        nameservers=members[MemberKind.NAMESERVERS],
        datanodes=members[MemberKind.DATANODES],
        brokers=members[MemberKind.BROKERS],
        leader=next(iter(found.get(Leader, ())), None),
        rebalance=next(iter(found.get(Rebalance, ())), None),
    )
    made.__dict__.update({name: known.__dict__[name] for name in DERIVED_OF_TABLES if name in known.__dict__})
    return made


def _read(path: str, node: Node) -> object | None:
    """The fact that a node states; None for one that only holds others together."""
    folder, *rest = path.split("/")
    reader = _READERS.get((folder, len(rest)))
    return reader(path, rest, node) if reader is not None else None


def _leader(path: str, rest: list[str], node: Node) -> Leader:
    record = decode(node.value, LeaderRecord, path)
    return Leader(record.name, record.endpoint, record.epoch, node.stat.created_ms)


def _member(path: str, rest: list[str], node: Node) -> Member | None:
    kind, name = rest
    if kind not in tuple(MemberKind) or not node.stat.is_ephemeral:
        return None  # a persistent leftover is no sign of life (R5.9)
    record = decode(node.value, MemberRecord, path)
    return Member(
        kind=MemberKind(kind),
        name=name,
        endpoint=record.endpoint,
        advertised=record.advertised,
        raft_endpoint=record.raft_endpoint,
        store_id=record.store_id,
        state=record.state,
        software=record.version,
        started_ms=record.started_ms,
        loaded=record.loaded,
        total=record.total,
        joined_zxid=node.stat.czxid,
        joined_ms=node.stat.created_ms,
        node_version=node.stat.version,
        record_format=record.record_format,
    )


def _cluster(path: str, rest: list[str], node: Node) -> _Cluster:
    return _Cluster(decode(node.value, ClusterRecord, path).format)


def _epoch(path: str, rest: list[str], node: Node) -> _Epoch:
    record = decode(node.value, EpochRecord, path)
    return _Epoch(record.epoch, record.imported)


def _counter(path: str, rest: list[str], node: Node) -> HighWater | None:
    """``groups/alloc``, ``topics/alloc``; the other nodes there hold topics together."""
    if rest[0] != "alloc":
        return None
    return HighWater(**{path.partition("/")[0]: decode(node.value, CounterRecord, path).next})


def _store(path: str, rest: list[str], node: Node) -> StoreEntry | IntervalSet | HighWater | None:
    if rest[0] == "alloc":
        return _counter(path, rest, node)
    if rest[0] == "buried":
        return IntervalSet.of(decode(node.value, BuriedRecord, path).intervals)
    if not rest[0].isdecimal():
        return None
    record = decode(node.value, StoreRecord, path)
    return StoreEntry(
        int(rest[0]),
        record.name,
        record.state,
        record.uuid,
        record.registered_ms,
        node.stat.version,
        record.cordoned,
        record.rack,
    )


def _deleted(path: str, rest: list[str], node: Node) -> _Deleted | None:
    if rest[0] != "topics":
        return None
    return _Deleted(IntervalSet.of(decode(node.value, DeletedTopicsRecord, path).intervals))


def _namespace(path: str, rest: list[str], node: Node) -> NamespaceEntry:
    record = decode(node.value, NamespaceRecord, path)
    return NamespaceEntry(rest[0], record.bundles, record.replication, record.retention, record.splits)


def _topic(path: str, rest: list[str], node: Node) -> TopicEntry:
    return topic_entry("/".join(rest), decode(node.value, TopicRecord, path), node.stat.version)


def topic_entry(name: str, record: TopicRecord, node_version: int = 0) -> TopicEntry:
    return TopicEntry(
        name=name,
        topic_id=record.id,
        partitions=record.partitions,
        replication=record.replication,
        state=record.state,
        created_ms=record.created_ms,
        node_version=node_version,
        retention=record.retention,
        racks=record.racks,
        growing_to=record.growing_to,
    )


def _partition(path: str, rest: list[str], node: Node) -> PartitionEntry | None:
    if not rest[0].isdecimal():
        return None
    record = decode(node.value, PartitionRecord, path)
    return PartitionEntry(
        int(rest[0]),
        record.topic,
        record.index,
        record.replicas,
        node.stat.version,
        record.materialised,
        record.target,
        record.cause,
        record.leaving,
        record.moves_since_ms,
        record.topic_id,
        record.caused_by,
    )


def _bundle(path: str, rest: list[str], node: Node) -> BundleEntry:
    record = decode(node.value, BundleRecord, path)
    return BundleEntry(
        "/".join(rest),
        record.broker,
        record.epoch,
        node.stat.mzxid,
        node.stat.modified_ms,
        node.stat.version,
        record.cause,
        record.caused_by,
    )


def _broker(path: str, rest: list[str], node: Node) -> DrainedBroker | None:
    drained = decode(node.value, BrokerRecord, path).drained
    return DrainedBroker(rest[0], node.stat.mzxid) if drained else None


def _operation(path: str, rest: list[str], node: Node) -> Rebalance | None:
    if rest[0] != "rebalance":
        return None
    return Rebalance(decode(node.value, RebalanceRecord, path).asked_ms)


# By first folder and how many names follow it.
_READERS: dict[tuple[str, int], Callable[[str, list[str], Node], object | None]] = {
    ("cluster", 0): _cluster,
    ("leader", 0): _leader,
    ("members", 2): _member,
    ("stores", 1): _store,
    ("epoch", 0): _epoch,
    ("groups", 1): _counter,
    ("topics", 1): _counter,
    ("deleted", 1): _deleted,
    ("namespaces", 1): _namespace,
    ("topics", 2): _topic,
    ("partitions", 1): _partition,
    ("bundles", 2): _bundle,
    ("brokers", 1): _broker,
    ("operations", 1): _operation,
}
