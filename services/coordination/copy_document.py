"""A copy of a cluster's records as one document, which people keep and read.  Pure.

Guarantee: what was read from ZooKeeper is in the document as it was, also fields that this version does not know; a document that is
none, of a later format, or cut short is refused with a line that says so.

Its records are the persistent ones of ``schema.TREE``.  Names, members, candidates and the leader are not among them: whoever lives
registers again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stele.services.coordination.records import (
    ClusterRecord,
    CounterRecord,
    EpochRecord,
    R,
    ZnodeRecord,
    decode,
    encode,
)
from stele.services.coordination.schema import CLUSTER, EPOCH, NAMES, TREE, Lifetime, ZnodeKind
from stele.services.errors import InvalidArgument, RecordUnreadable
from stele.services.high_water import HighWater

FORMAT = 1
KIND = "stele metadata"

COPIED = tuple(
    kind for kind in TREE if kind.lifetime is Lifetime.PERSISTENT and not kind.path.startswith(f"{NAMES}/")
)  # of nodes that are copied

ZnodeValue = Mapping[str, Any] | None  # of a node: its JSON, or None where it only holds others together


@dataclass(frozen=True, slots=True)
class MetadataCopy:
    """``records`` by path; ``taken_ms`` is for people."""

    cluster: str
    records: Mapping[str, ZnodeValue]
    taken_ms: int = 0
    software: str = ""

    @property
    def cluster_id(self) -> str:
        """Empty where no cluster is recorded."""
        found = self.get(CLUSTER, ClusterRecord)
        return found.id if found is not None else ""

    @property
    def epoch(self) -> EpochRecord:
        return self.get(EPOCH, EpochRecord) or EpochRecord(epoch=0)

    @property
    def high_water(self) -> HighWater:
        """As epoch and counters say."""
        counters = {name: self.get(f"{name}/alloc", CounterRecord) for name in ("topics", "groups", "stores")}
        return HighWater(self.epoch.epoch, **{n: c.next if c is not None else 0 for n, c in counters.items()})

    def get(self, path: str, record_type: type[R]) -> R | None:
        """RecordUnreadable."""
        value = self.records.get(path)
        return typed(path, value, record_type) if value is not None else None

    def of(self, record_type: type[R]) -> dict[str, R]:
        """Every record of that type by its path.  RecordUnreadable."""
        return {
            path: typed(path, value, record_type)
            for path, value in self.records.items()
            if value is not None and (kind := kind_of(path)) is not None and kind.record is record_type
        }

    def without_what_is_unreadable(self) -> tuple[MetadataCopy, dict[str, str]]:
        """And what is wrong with each record that was left out, by path."""
        wrong = dict(_unreadable(self.records))
        kept = {path: value for path, value in self.records.items() if path not in wrong}
        return MetadataCopy(self.cluster, kept, self.taken_ms, self.software), wrong


def kind_of(path: str) -> ZnodeKind | None:
    """What a node of that path is; None: nothing that is copied."""
    parts = path.split("/")
    for kind in (
        COPIED
    ):  # those with fixed names stand first in their folders, as ``stores/alloc`` before ``stores/<store id>``
        pattern = kind.path.split("/")
        if len(pattern) == len(parts) and all(p == q or p.startswith("<") for p, q in zip(pattern, parts, strict=True)):
            return kind
    return None


def value_of(path: str, stored: bytes) -> ZnodeValue:
    """A node's value as the document has it.  RecordUnreadable."""
    if not stored:
        return None
    try:
        value = json.loads(stored.decode())
    except (ValueError, RecursionError) as e:
        raise RecordUnreadable(f"{path} is no JSON: {e}", path=path) from None
    if not isinstance(value, dict):
        raise RecordUnreadable(f"{path} is no record", path=path)
    return value


def stored_value(value: ZnodeValue) -> bytes:
    """As it stands in ZooKeeper."""
    return b"" if value is None else json.dumps(value, ensure_ascii=False).encode()


def record_value(record: ZnodeRecord) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(encode(record))
    return value


def typed(path: str, value: Mapping[str, Any], record_type: type[R]) -> R:
    """RecordUnreadable."""
    return decode(stored_value(value), record_type, path)


def to_json(copy: MetadataCopy) -> str:
    body = {
        "format": FORMAT,
        "kind": KIND,
        "cluster": copy.cluster,
        "cluster_id": copy.cluster_id,
        "taken_ms": copy.taken_ms,
        "software": copy.software,
        "records": {path: copy.records[path] for path in sorted(copy.records)},
    }
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> MetadataCopy:
    """``name``: what the document is called in errors.  InvalidArgument; records in it may still be unreadable one by one."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"{name} is no copy of a cluster's records, or not all of one: {e}") from None
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise InvalidArgument(f"{name} is no copy of a cluster's records: its kind is not {KIND!r}")
    if body.get("format") != FORMAT:
        raise InvalidArgument(f"{name} has the format {str(body.get('format'))[:20]}; this version reads {FORMAT}")
    cluster, records = body.get("cluster"), body.get("records")
    taken_ms, software = body.get("taken_ms", 0), body.get("software", "")
    if not (isinstance(cluster, str) and isinstance(records, dict)):
        raise InvalidArgument(f"{name} does not say which cluster it is of, or has no records")
    if not (isinstance(taken_ms, int) and isinstance(software, str)):
        raise InvalidArgument(f"{name} says in no readable way when and by what it was taken")
    for path, value in records.items():
        if kind_of(path) is None or not (value is None or isinstance(value, dict)):
            raise InvalidArgument(f"{name} has a record that is none of a cluster: {path[:200]!r}")
    return MetadataCopy(cluster, records, taken_ms, software)


def _unreadable(records: Mapping[str, ZnodeValue]) -> Iterator[tuple[str, str]]:
    for path, value in records.items():
        kind = kind_of(path)
        record_type = kind.record if kind is not None else None
        try:
            if record_type is not None:
                typed(path, value or {}, record_type)
        except RecordUnreadable as e:
            yield path, e.message
