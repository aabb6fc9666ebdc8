"""What an operator's word makes of a topic's record.

Guarantee: a topic never comes to have fewer partitions; what nothing is said of stays; a word that was heeded before changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from stele.nameserver.catalog import Catalog, TopicState
from stele.nameserver.catalog_reader import topic_entry
from stele.nameserver.namespace_writer import check_shape
from stele.services.coordination.records import TopicRecord
from stele.services.errors import InvalidArgument, NotReady
from stele.services.pb import nameserver_pb2
from stele.services.topics import FOR_EVER, check_retention


def check_alteration(request: nameserver_pb2.AlterTopicRequest) -> None:
    """What can be said of it without its topic.  InvalidArgument."""
    check_retention(FOR_EVER.changed_by(request.retention))
    if request.partitions:
        check_shape(request.partitions, 0)
    check_shape(1, request.replication)


def altered(name: str, record: TopicRecord, request: nameserver_pb2.AlterTopicRequest) -> TopicRecord:
    """The record as asked.  InvalidArgument; NotReady while the topic is being created."""
    retention = check_retention(record.retention.changed_by(request.retention))
    record = replace(record, retention_bytes=retention.size_bytes, retention_ms=retention.age_ms)
    if (request.partitions or request.replication) and record.state == TopicState.CREATING:
        raise NotReady(f"the topic {name} is still being created", topic=name)
    if request.replication:
        record = replace(record, replication=request.replication)
    return _grown(name, record, request.partitions) if request.partitions else record


def _grown(name: str, record: TopicRecord, partitions: int) -> TopicRecord:
    if partitions < record.partitions:
        raise InvalidArgument(
            f"partitions: {name} has {record.partitions}, and none is taken away, for its messages would go with it: "
            f"{partitions} is refused",
            partitions=record.partitions,
        )
    if partitions < record.growing_to:
        raise InvalidArgument(
            f"partitions: {name} is being given {record.growing_to}, and {partitions} is refused", partitions=partitions
        )
    return replace(record, growing_to=partitions) if partitions > record.partitions else record


def shows(catalog: Catalog, name: str, record: TopicRecord) -> bool:
    """Whether the catalog has the record."""
    known = catalog.topics.get(name)
    return known is not None and topic_entry(name, record, known.node_version) == known


def grows_to(catalog: Catalog, topic_id: int, name: str, partitions: int) -> bool:
    known = catalog.topics.get(name)
    return known is not None and known.topic_id == topic_id and known.growing_to == partitions
