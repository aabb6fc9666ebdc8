"""Copies of a small cluster's records."""

from __future__ import annotations

from dataclasses import replace

from stele.services.bundles import bundles_of
from stele.services.coordination.copy_document import MetadataCopy, ZnodeValue, record_value
from stele.services.coordination.records import (
    BundleRecord,
    ClusterRecord,
    CounterRecord,
    EpochRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
    ZnodeRecord,
)

TOPIC = TopicRecord(id=1, partitions=2, replication=3, state="ready", created_ms=1)
PARTITION = PartitionRecord(topic="demo/t", index=0, replicas=(1, 2, 3), version=4, materialised=(1, 2, 3))
RECORDS: dict[str, ZnodeRecord | None] = {
    "cluster": ClusterRecord(id="c1", created_ms=1),
    "epoch": EpochRecord(epoch=5),
    "stores/alloc": CounterRecord(next=4),
    "groups/alloc": CounterRecord(next=3),
    "topics/alloc": CounterRecord(next=2),
    **{f"stores/{s}": StoreRecord(name=f"dn{s}", state="up", uuid=f"u{s}", registered_ms=1) for s in (1, 2, 3)},
    "namespaces/demo": NamespaceRecord(bundles=4, replication=3),
    "topics/demo": None,
    "topics/demo/t": TOPIC,
    "partitions/1": PARTITION,
    "partitions/2": replace(PARTITION, index=1),
    "bundles/demo": None,
    **{f"bundles/{b}": BundleRecord(broker="br1", epoch=7) for b in bundles_of("demo", 4)},
}


def copy_with(**changes: ZnodeRecord | str | None) -> MetadataCopy:
    """The copy with other records; ``"gone"``: without it.  ``__`` stands for ``/``."""
    named = {path.replace("__", "/"): record for path, record in changes.items()}
    records = {path: record for path, record in {**RECORDS, **named}.items() if record != "gone"}
    return MetadataCopy("c", {p: _value(r) for p, r in records.items()})


def _value(record: ZnodeRecord | str | None) -> ZnodeValue:
    assert not isinstance(record, str)
    return None if record is None else record_value(record)
