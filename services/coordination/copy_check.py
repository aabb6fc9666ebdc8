"""What in a cluster's records contradicts the rest.  Pure.

Guarantee: an id that could be given out twice, a record that names what does not exist or was removed, and a bundle that overlaps with
another are each found and named.  What an interrupted change may leave behind for a moment, and the leading nameserver goes on with,
is none: partitions that a topic in creation still lacks, bundles that were never assigned, stores that wait for their replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stele.services.bundles import ranges
from stele.services.coordination.copy_document import MetadataCopy
from stele.services.coordination.records import (
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    DeletedTopicsRecord,
    EpochRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
)
from stele.services.coordination.schema import CLUSTER, EPOCH
from stele.services.errors import InvalidArgument
from stele.services.intervals import IntervalSet
from stele.services.wording import counted

T = TypeVar("T")
_NO_REMOVED = IntervalSet()


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """``path``: of the record that is wrong; ``says``: what about it."""

    path: str
    says: str


def faults(copy: MetadataCopy) -> list[Inconsistency]:
    """Everything that is wrong, by path."""
    readable, wrong = copy.without_what_is_unreadable()
    found = [Inconsistency(path, says) for path, says in wrong.items()]
    if not copy.records:
        return [Inconsistency(CLUSTER, f"there is no cluster {copy.cluster}: nothing is recorded")]
    found += _Check(readable, wrong).run()
    return sorted(found, key=lambda fault: (fault.path, fault.says))


class _Check:
    """``unreadable``: paths of records that are there; what they say is not known."""

    def __init__(self, copy: MetadataCopy, unreadable: Mapping[str, str]) -> None:
        self._copy, self._unreadable = copy, unreadable
        self._namespaces = _by_name(copy.of(NamespaceRecord))
        self._topics = _by_name(copy.of(TopicRecord))
        self._partitions = _by_number(copy.of(PartitionRecord))
        self._stores = _by_number(copy.of(StoreRecord))
        self._known_stores = {*self._stores, *(int(p.split("/")[1]) for p in unreadable if _is_store(p))}

    def run(self) -> Iterator[Inconsistency]:
        self._deleted, wrong_deleted = self._ids("deleted/topics", DeletedTopicsRecord)
        self._buried, wrong_buried = self._ids("stores/buried", BuriedRecord)
        yield from (*wrong_deleted, *wrong_buried)
        for path, record_type in ((CLUSTER, ClusterRecord), (EPOCH, EpochRecord)):
            if path not in self._unreadable and self._copy.get(path, record_type) is None:
                yield Inconsistency(path, "is missing")
        yield from self._counters()
        yield from self._check_stores()
        yield from self._check_topics()
        yield from self._check_partitions()
        yield from self._check_bundles()

    def _ids(
        self, path: str, record_type: type[DeletedTopicsRecord | BuriedRecord]
    ) -> tuple[IntervalSet, list[Inconsistency]]:
        record = self._copy.get(path, record_type)
        try:
            return IntervalSet.of(record.intervals if record is not None else ()), []
        except InvalidArgument as e:
            return _NO_REMOVED, [Inconsistency(path, e.message)]

    def _counters(self) -> Iterator[Inconsistency]:
        """The next id lies beyond all that were ever given out."""
        water = self._copy.high_water
        given = {
            "topics": {*(t.id for t in self._topics.values()), *_ends(self._deleted)},
            "groups": {*self._partitions},
            "stores": {*self._known_stores, *_ends(self._buried)},
        }
        for name, ids in given.items():
            path, following = f"{name}/alloc", getattr(water, name)
            if path not in self._unreadable and ids and max(ids) >= following:
                yield Inconsistency(path, f"the next id is {following}, and {max(ids)} was given out")

    def _check_stores(self) -> Iterator[Inconsistency]:
        for store_id, store in self._stores.items():
            path = f"stores/{store_id}"
            if store_id in self._buried:
                yield Inconsistency(path, "has a record and is buried")
            if store.state not in ("up", "offline", "tombstone"):
                yield Inconsistency(path, f"has the state {store.state!r}")
        for uuid, ids in _grouped((s.uuid, i) for i, s in self._stores.items()).items():
            if len(ids) > 1:
                yield Inconsistency(f"stores/{ids[1]}", f"is the directory {uuid} of store {ids[0]}, too")

    def _check_topics(self) -> Iterator[Inconsistency]:
        held = _grouped((p.topic, p) for p in self._partitions.values())
        for name, topic in self._topics.items():
            path = f"topics/{name}"
            namespace = name.partition("/")[0]
            if namespace not in self._namespaces and f"namespaces/{namespace}" not in self._unreadable:
                yield Inconsistency(path, f"there is no namespace {namespace}")
            if topic.state not in ("creating", "ready", "deleting"):
                yield Inconsistency(path, f"has the state {topic.state!r}")
            if topic.id in self._deleted:
                yield Inconsistency(path, f"its id {topic.id} is recorded as deleted")
            there = {p.index for p in held.get(name, ())}
            missing = [str(index) for index in range(topic.partitions) if index not in there]
            if topic.state == "ready" and missing and not any(p.startswith("partitions/") for p in self._unreadable):
                yield Inconsistency(
                    path, f"has no record of {counted(len(missing), 'partition')}: {', '.join(missing[:20])}"
                )
        for topic_id, names in _grouped((t.id, name) for name, t in self._topics.items()).items():
            if len(names) > 1:
                yield Inconsistency(f"topics/{names[1]}", f"has the id {topic_id} of {names[0]}")

    def _check_partitions(self) -> Iterator[Inconsistency]:
        places: dict[tuple[str, int], int] = {}
        for group, partition in sorted(self._partitions.items()):
            path, topic = f"partitions/{group}", self._topics.get(partition.topic)
            if topic is None and f"topics/{partition.topic}" not in self._unreadable:
                yield Inconsistency(path, f"there is no topic {partition.topic}")
            if topic is not None and partition.topic_id not in (0, topic.id):
                yield Inconsistency(
                    path,
                    f"is of the topic with the id {partition.topic_id}; {partition.topic} is the one with the id {topic.id}",
                )
            if topic is not None and not 0 <= partition.index < max(topic.partitions, topic.growing_to):
                yield Inconsistency(
                    path, f"is partition {partition.index} of {partition.topic}, which has {topic.partitions}"
                )
            other = places.setdefault((partition.topic, partition.index), group)
            if other != group:
                yield Inconsistency(
                    path, f"is partition {partition.index} of {partition.topic}, and so is group {other}"
                )
            for says in self._replicas(partition):
                yield Inconsistency(path, says)

    def _replicas(self, partition: PartitionRecord) -> Iterator[str]:
        if not partition.replicas:
            yield "names no store"
        for store_id, times in _grouped((s, s) for s in partition.replicas).items():
            if len(times) > 1:
                yield f"names store {store_id} twice"
        for store_id in sorted({*partition.replicas, *partition.target}):
            yield from self._store(store_id, partition)
        for store_id in sorted({*partition.target} - {*partition.replicas}):
            yield f"is to move to store {store_id}, which may hold nothing of it"
        for store_id in sorted({*partition.leaving} & {*partition.replicas}):
            yield f"store {store_id} left it, and counts"

    def _store(self, store_id: int, partition: PartitionRecord) -> Iterator[str]:
        what = "is to move to" if store_id in partition.target else "names"
        store = self._stores.get(store_id)
        if store_id in self._buried:
            yield f"{what} store {store_id}, which was removed"
        elif store is None:
            if store_id not in self._known_stores:
                yield f"{what} store {store_id}, of which there is no record"
        elif store.state == "tombstone":
            yield f"{what} store {store_id}, which was removed"

    def _check_bundles(self) -> Iterator[Inconsistency]:
        """A range that nobody was assigned has no record yet; one that is no range of the namespace's overlaps with those."""
        for name, bundle in _by_name(self._copy.of(BundleRecord)).items():
            namespace, _, cut = name.partition("/")
            path, known = f"bundles/{name}", self._namespaces.get(namespace)
            if bundle.epoch < 0:
                yield Inconsistency(path, f"has the epoch {bundle.epoch}")
            if known is None:  # of a namespace that is gone: its epoch stays
                if bundle.broker and f"namespaces/{namespace}" not in self._unreadable:
                    yield Inconsistency(path, f"{bundle.broker} owns it, and there is no namespace {namespace}")
            elif bundle.broker and cut not in (cuts := _ranges(known)):  # of one that was split, the epoch may stay
                yield Inconsistency(path, f"overlaps with others: it is none of the {len(cuts)} ranges of {namespace}")


def _ranges(namespace: NamespaceRecord) -> frozenset[str]:
    try:
        return frozenset(ranges(namespace.bundles, namespace.splits))
    except InvalidArgument:
        return frozenset()


def _is_store(path: str) -> bool:
    return path.startswith("stores/") and path.split("/")[1].isdecimal()


def _ends(ids: IntervalSet) -> Iterator[int]:
    return (last for _, last in ids.intervals)


def _by_name(records: Mapping[str, T]) -> dict[str, T]:
    """By the path below the first folder."""
    return {path.partition("/")[2]: record for path, record in records.items()}


def _by_number(records: Mapping[str, T]) -> dict[int, T]:
    return {
        int(path.partition("/")[2]): record for path, record in records.items() if path.partition("/")[2].isdecimal()
    }


K = TypeVar("K")


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
