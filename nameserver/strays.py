"""Which replicas that stores report are those of the records, and which stray.  Pure.

Guarantee: what a report says of a group counts for the group's recorded topic only where the replica is that topic's, by id; a stray is
counted nowhere, and nothing is created over it.  An *orphan*'s group has no record; a *stranger*'s has one, of another topic, as after
ZooKeeper was put back to an older copy.

Not promised: that a stray is one for good.  A catalog may lag behind its cluster: whoever destroys something asks ZooKeeper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stele.nameserver.catalog import Catalog, PartitionEntry, TopicEntry
from stele.nameserver.reports import Reports, StoreReport, Stray, StrayKind
from stele.services.pb.datanode_pb2 import ReplicaStatus


def set_apart(catalog: Catalog, reports: Reports) -> Reports:
    """The reports with their strays named as such.  Live: what becomes of ``reports`` shows, for not every change makes a new view."""
    return _Apart(catalog, reports)


class _Apart(Mapping[int, StoreReport]):
    def __init__(self, catalog: Catalog, reports: Reports) -> None:
        self._catalog, self._reports = catalog, reports
        self._known: dict[int, tuple[StoreReport, StoreReport]] = {}  # store id → the report as it came, and set apart

    def __getitem__(self, store_id: int) -> StoreReport:
        report = self._reports[store_id]
        known = self._known.get(store_id)
        if known is None or known[0] is not report:
            known = self._known[store_id] = (report, _with_strays(report, self._catalog))
        return known[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._reports)

    def __len__(self) -> int:
        return len(self._reports)


def _with_strays(report: StoreReport, catalog: Catalog) -> StoreReport:
    strays: dict[int, Stray] = {}
    for group, replica in report.replicas.items():
        kind = stray_kind(catalog, replica)
        if kind is not None:
            strays[group] = Stray(kind, replica)
    if not strays:
        return report
    own = {group: replica for group, replica in report.replicas.items() if group not in strays}
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
