"""Which replicas that stores report are those of the records, and which stray.  Pure.

Guarantee: what a report says of a group counts for the group's recorded topic only where the replica is that topic's, by id; a stray is
counted nowhere, and nothing is created over it.  An *orphan*'s group has no record; a *stranger*'s has one, of another topic, as after
ZooKeeper was put back to an older copy.

Not promised: that a stray is one for good.  A catalog may lag behind its cluster: whoever destroys something asks ZooKeeper.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from stele.nameserver.catalog import Catalog, PartitionEntry, TopicEntry
from stele.nameserver.reports import Reports, StoreReport, Stray, StrayKind, copied
from stele.services.pb.datanode_pb2 import ReplicaStatus


def set_apart(catalog: Catalog, reports: Reports) -> Reports:
    """The reports with their strays named as such."""
    return {store_id: _with_strays(report, catalog) for store_id, report in reports.items()}


class ReportsApart(Mapping[int, StoreReport]):
    """``set_apart`` kept up to date: ``reported`` after each message of a store, ``recorded`` after each change of the catalog, with the
    groups of which something may have changed.  Live: not every message makes a new view, and what it says shows."""

    def __init__(self) -> None:
        self._catalog = Catalog()
        self._came: dict[int, StoreReport] = {}
        self._apart: dict[int, StoreReport] = {}

    def reported(self, store_id: int, report: StoreReport | None, groups: Collection[int] | None) -> None:
        """``report`` is what the store's messages add up to, None: it is gone; ``groups`` None: all of it is new."""
        if report is None:
            self._came.pop(store_id, None)
            self._apart.pop(store_id, None)
            return
        known = self._apart.get(store_id) if groups is not None else None
        self._came[store_id] = report
        self._apart[store_id] = self._set_apart(report, known, groups or ())

    def recorded(self, catalog: Catalog, groups: Collection[int]) -> None:
        self._catalog = catalog
        for store_id, report in self._came.items():
            held = [group for group in groups if group in report.replicas]
            if held:
                self._apart[store_id] = self._set_apart(report, self._apart[store_id], held)

    def __getitem__(self, store_id: int) -> StoreReport:
        return self._apart[store_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._apart)

    def __len__(self) -> int:
        return len(self._apart)

    def _set_apart(self, report: StoreReport, known: StoreReport | None, groups: Collection[int]) -> StoreReport:
        strays: dict[int, Stray] = dict(known.strays) if known is not None else {}
        for group in report.replicas if known is None else groups:
            replica = report.replicas.get(group)
            kind = stray_kind(self._catalog, replica) if replica is not None else None
            if replica is None or kind is None:
                strays.pop(group, None)
            else:
                strays[group] = Stray(kind, replica)
        return _without(report, strays)


def _with_strays(report: StoreReport, catalog: Catalog) -> StoreReport:
    kinds = ((group, replica, stray_kind(catalog, replica)) for group, replica in report.replicas.items())
    return _without(report, {group: Stray(kind, replica) for group, replica, kind in kinds if kind is not None})


def _without(report: StoreReport, strays: dict[int, Stray]) -> StoreReport:
    if not strays:
        return report
    own = copied(report.replicas)
    for group in strays:
        del own[group]
    return replace(report, replicas=own, strays=strays)


def stray_kind(catalog: Catalog, replica: ReplicaStatus) -> StrayKind | None:
    partition = catalog.partitions.get(replica.group)
    if partition is None:
        return StrayKind.ORPHAN
    topic = catalog.topic_of(partition)
    # A topic that is not seen yet: a catalog may have a partition before its topic, and nothing is concluded from that.
    return None if topic is None or is_of(topic, partition, replica) else StrayKind.STRANGER


def is_of(topic: TopicEntry, partition: PartitionEntry, replica: ReplicaStatus) -> bool:
    """Whether the replica is the recorded one.  Its topic's name has to do where it was written before ids were known; one that cannot
    say whose it is (its files are not readable) is taken for the recorded one, which keeps anything from being created over it."""
    if not replica.topic and not replica.topic_id:
        return True
    return replica.topic_id in (0, topic.topic_id) and (replica.topic, replica.partition) == (
        topic.name,
        partition.index,
    )
