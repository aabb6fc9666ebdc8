"""A topic of which nothing is recorded any more, from what the stores that hold its replicas say of it.  Pure.

Guarantee: what is recorded of a group are the members that its leader says are committed, so nobody counts whom the group does not
count, and a topic that is recorded, or was deleted, is not made a second time.  Where that is not certain, nothing is adopted.

Not promised: how many partitions the topic had.  No replica knows; the ones with the highest numbers may be on stores that are away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from stele.nameserver.catalog import Catalog
from stele.nameserver.reports import ReplicaState, Reports, StrayKind, retention_of
from stele.services.errors import InvalidArgument, NotReady, TopicExists, TopicNotFound
from stele.services.pb.datanode_pb2 import ReplicaStatus
from stele.services.topics import Retention
from stele.services.wording import counted


@dataclass(frozen=True, slots=True)
class AdoptedPartition:
    group: int
    index: int
    replicas: tuple[int, ...]  # stores


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be recorded.  ``missing``: partitions that begin empty, by an operator's word."""

    topic: str
    topic_id: int
    partitions: int
    replication: int
    retention: Retention
    adopted: tuple[AdoptedPartition, ...]
    missing: tuple[int, ...] = ()


def adopt(catalog: Catalog, reports: Reports, topic: str, topic_id: int = 0, partitions: int = 0) -> Adoption:
    """The orphans of ``topic`` as partitions of it.  ``topic_id`` 0: that of all of them; ``partitions`` 0: as many as are there.

    TopicNotFound: no store reports an orphan of it; TopicExists: another topic has its name by now; InvalidArgument; NotReady: too little
    is known of it as long as stores are away.
    """
    orphans = [status for status in _orphans(catalog, reports) if status.topic == topic]
    topic_id = topic_id or _only_id(topic, {status.topic_id for status in orphans})
    groups = sorted({status.group for status in orphans if status.topic_id == topic_id})
    if not groups:
        raise TopicNotFound(f"no store reports an orphan of {topic}; `stele store orphans ls` lists them", topic=topic)
    _check_topic(catalog, topic, topic_id)
    by_index = {p.index: p.group for p in catalog.partitions_of.get(topic, ())}
    adopted: list[AdoptedPartition] = []
    retention = Retention()
    for group in groups:
        said = _leaders_word(group, [status for status in orphans if status.group == group])
        if by_index.setdefault(said.partition, group) != group:
            raise InvalidArgument(
                f"groups {by_index[said.partition]} and {group} both say that they are partition {said.partition} of {topic}",
                group=group,
            )
        adopted.append(AdoptedPartition(group, said.partition, _kept(catalog, said)))
        retention = retention_of(said)
    known = catalog.topics.get(topic)
    count = max(partitions, known.partitions if known is not None else 0, max(by_index) + 1)
    missing = tuple(index for index in range(count) if index not in by_index)
    if missing and partitions != count:
        listed = ", ".join(map(str, missing))
        raise NotReady(
            f"no store reports {counted(len(missing), 'partition')} of {topic} ({listed}): start the stores that hold them; if they are "
            f"lost, say that it had {count} partitions, and those begin empty",
            topic=topic,
        )
    return Adoption(
        topic,
        topic_id,
        count,
        known.replication if known is not None else max(len(p.replicas) for p in adopted),
        known.retention if known is not None else retention,
        tuple(sorted(adopted, key=lambda p: p.index)),
        missing,
    )


def _orphans(catalog: Catalog, reports: Reports) -> Iterator[ReplicaStatus]:
    """Those that stores report now, and replicas of partitions whose topic alone has no record."""
    for report in reports.values():
        if report.connected:
            yield from (stray.replica for stray in report.strays.values() if stray.kind is StrayKind.ORPHAN)
            for group, status in report.replicas.items():
                partition = catalog.partitions.get(group)
                if partition is not None and partition.topic not in catalog.topics:
                    yield status


def _only_id(topic: str, ids: Collection[int]) -> int:
    if len(ids) > 1:
        listed = ", ".join(map(str, sorted(ids)))
        raise InvalidArgument(
            f"there are orphans of several topics that were named {topic}, with the ids {listed}: say which",
            topic=topic,
        )
    if set(ids) == {0}:
        raise InvalidArgument(
            f"the orphans of {topic} were written before topics had ids: whose they are is not certain", topic=topic
        )
    return next(iter(ids), 0)


def _check_topic(catalog: Catalog, topic: str, topic_id: int) -> None:
    known = catalog.topics.get(topic)
    if topic_id in catalog.deleted_topics:
        raise InvalidArgument(f"the topic {topic} with the id {topic_id} was deleted", topic=topic)
    if known is not None and known.topic_id != topic_id:
        raise TopicExists(
            f"there is another topic {topic} by now, with the id {known.topic_id}: its orphans have {topic_id}",
            topic=topic,
        )
    other = next((t.name for t in catalog.topics.values() if t.topic_id == topic_id and t.name != topic), "")
    if other:
        raise InvalidArgument(f"the id {topic_id} is that of {other}", topic=topic)


def _leaders_word(group: int, replicas: Iterable[ReplicaStatus]) -> ReplicaStatus:
    """NotReady while no leader says who its members are, committed: any other replica may be behind."""
    leading = [r for r in replicas if r.state == ReplicaState.LEADER and r.members_settled]
    if not leading:
        raise NotReady(f"group {group} has no leader that says which stores hold it: start the other ones", group=group)
    return max(leading, key=lambda r: r.term)


def _kept(catalog: Catalog, said: ReplicaStatus) -> tuple[int, ...]:
    """Without those that were removed for good, which leave the group as soon as the record does not name them."""
    return tuple(sorted(s for s in said.voters if not catalog.is_removed(s)))
