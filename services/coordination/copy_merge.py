"""What an import of a copy leaves recorded, and what it would lose.  Pure.

Guarantee: nothing that is recorded as deleted or removed comes back by it, no counter, no epoch and no record format goes back, and nothing
is lost that is newer than the copy (``lost`` names it).  What the copy lacks because it is newer is kept by the stores, as orphans.

A copy says what was to be done when it was taken, and not what has been done since.  So two things of it are left out: the stores that
had left a group (one of them may have come back to it meanwhile, and would have to delete what counts), and who owned the bundles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from stele.services.coordination.copy_document import MetadataCopy, ZnodeValue, record_value
from stele.services.coordination.records import (
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    CounterRecord,
    DeletedTopicsRecord,
    EpochRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
)
from stele.services.coordination.schema import CLUSTER, EPOCH
from stele.services.intervals import IntervalSet

# More than the owners that a bundle, and the leaders that a cluster can have had since the copy was taken; what stores have seen of them
# counts besides, but a broker that was paused since may hold an epoch that no store has seen.
EPOCH_LEAP = 1 << 20
DELETED, BURIED = "deleted/topics", "stores/buried"

T = TypeVar("T")


def lost(copy: MetadataCopy, live: MetadataCopy) -> list[str]:
    """What is recorded now, of the same cluster, and newer than the copy: a line each.  RecordUnreadable."""
    return [*_ids_given_out(copy, live), *_what_is_newer(copy, live)]


def merged(copy: MetadataCopy, live: MetadataCopy) -> dict[str, ZnodeValue]:
    """The nodes as they are to be in the end, but for the epoch's, by path.  ``live``: of the same cluster, or of none."""
    wanted = {path: value for path, value in copy.records.items() if path != EPOCH}
    water = copy.high_water.joined(live.high_water)
    for name in ("topics", "groups", "stores"):
        if following := getattr(water, name):
            wanted[f"{name}/alloc"] = record_value(CounterRecord(next=following))
    if deleted := _intervals(copy, DELETED, DeletedTopicsRecord) + _intervals(live, DELETED, DeletedTopicsRecord):
        wanted[DELETED] = record_value(DeletedTopicsRecord(intervals=IntervalSet.of(deleted).intervals))
    if buried := _intervals(copy, BURIED, BuriedRecord) + _intervals(live, BURIED, BuriedRecord):
        wanted[BURIED] = record_value(BuriedRecord(intervals=IntervalSet.of(buried).intervals))
    wanted[CLUSTER] = cluster_value(copy, live)
    for path, partition in copy.of(PartitionRecord).items():
        if partition.leaving:
            wanted[path] = record_value(replace(partition, leaving=()))
    known = live.of(BundleRecord)
    for path, bundle in {**known, **copy.of(BundleRecord)}.items():
        epoch = max(bundle.epoch, known[path].epoch if path in known else 0)
        wanted[path] = record_value(BundleRecord(broker="", epoch=epoch + EPOCH_LEAP))
    for path in copy.of(NamespaceRecord):
        namespace = path.partition("/")[2]
        wanted |= {f"topics/{namespace}": None, f"bundles/{namespace}": None}
    for path in list(wanted):
        if path.startswith(("topics/", "bundles/")):
            wanted.setdefault(path.rpartition("/")[0], None)
    return {path: value for path, value in wanted.items() if "/" in path or path == CLUSTER}


def cluster_value(copy: MetadataCopy, live: MetadataCopy) -> ZnodeValue:
    """Of the cluster's own record."""
    ours, theirs = copy.get(CLUSTER, ClusterRecord), live.get(CLUSTER, ClusterRecord)
    if ours is None or theirs is None:
        return copy.records.get(CLUSTER)
    return record_value(replace(ours, format=max(ours.format, theirs.format), finalizing=0))


def begun(copy: MetadataCopy, live: MetadataCopy, digest: str) -> EpochRecord:
    """While it is imported."""
    return EpochRecord(epoch=max(copy.epoch.epoch, live.epoch.epoch) + EPOCH_LEAP, importing=digest)


def is_empty(live: MetadataCopy) -> bool:
    """Whether nothing is recorded of a cluster but that there is one, as a process records that starts over a ZooKeeper that was wiped."""
    return not any(live.of(kind) for kind in (TopicRecord, PartitionRecord, StoreRecord, NamespaceRecord)) and not any(
        (live.high_water.topics, live.high_water.groups, live.high_water.stores)
    )


def _ids_given_out(copy: MetadataCopy, live: MetadataCopy) -> Iterator[str]:
    ours, theirs = copy.high_water, live.high_water
    for name, what in (("topics", "topic"), ("groups", "group"), ("stores", "store")):
        if getattr(theirs, name) > getattr(ours, name):
            yield f"{what} ids have come to {getattr(theirs, name)}, in the copy to {getattr(ours, name)}"
    known = {t.id for t in copy.of(TopicRecord).values()}
    gone = IntervalSet.of(_intervals(copy, DELETED, DeletedTopicsRecord))
    for path, topic in live.of(TopicRecord).items():
        if topic.id not in known and topic.id not in gone:
            yield f"{path} with the id {topic.id} is not in the copy"
    for topic_id in _beyond(live, copy, DELETED, DeletedTopicsRecord):
        yield f"the topic with the id {topic_id} was deleted since the copy was taken"
    buried = IntervalSet.of(_intervals(copy, BURIED, BuriedRecord))
    for path in live.of(StoreRecord):
        if path not in copy.records and int(path.partition("/")[2]) not in buried:
            yield f"{path} is not in the copy"
    for store_id in _beyond(live, copy, BURIED, BuriedRecord):
        yield f"the store {store_id} was removed since the copy was taken"


def _what_is_newer(copy: MetadataCopy, live: MetadataCopy) -> Iterator[str]:
    """Records without an id that says how old they are: older than the copy, if fewer leaders have been."""
    partitions = copy.of(PartitionRecord)
    for path, partition in live.of(PartitionRecord).items():
        if path in partitions and partition.version > partitions[path].version:
            yield f"{path} was changed since the copy was taken"
    if live.epoch.epoch < copy.epoch.epoch:
        return
    for kind in (NamespaceRecord, TopicRecord, StoreRecord):
        ours: Mapping[str, object] = copy.of(kind)
        theirs: Mapping[str, object] = live.of(kind)
        for path, record in theirs.items():
            if path in ours and ours[path] != record:
                yield f"{path} is not what it is in the copy"
            elif path not in ours and kind is NamespaceRecord:
                yield f"{path} is not in the copy"


def _intervals(
    copy: MetadataCopy, path: str, record_type: type[DeletedTopicsRecord | BuriedRecord]
) -> list[tuple[int, int]]:
    record = copy.get(path, record_type)
    return list(record.intervals) if record is not None else []


def _beyond(
    live: MetadataCopy, copy: MetadataCopy, path: str, record_type: type[DeletedTopicsRecord | BuriedRecord]
) -> Iterator[int]:
    """The ids that stand in the one and not in the other."""
    known = IntervalSet.of(_intervals(copy, path, record_type))
    for first, last in _intervals(live, path, record_type):
        yield from (number for number in range(first, last + 1) if number not in known)
