"""One catalog made from the one before and what changed since.  Pure.

Guarantee: the result equals the catalog that is made anew from all records, also in what is derived from them; its cost grows with the
change, but for the copying of the tables that it touches (a millisecond for 100,000 partitions).

Not promised: the order of the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stele.nameserver.catalog import BundleEntry, Catalog, PartitionEntry, TopicEntry
from stele.services.high_water import HighWater

K = TypeVar("K")
V = TypeVar("V")

# What is derived from topics and partitions alone.
DERIVED_OF_TABLES = ("topic_names", "recorded_of", "partitions_of", "replica_counts")
# What is derived from other records than those of topics, partitions and bundles.
_DERIVED_OF_OTHERS = ("wanted_bundles", "live_stores", "serving_stores", "placeable_stores", "racks")


@dataclass(slots=True)
class CatalogChange:
    """The entries that are to be put in the place of those of the same key; None: it is gone."""

    topics: dict[str, TopicEntry | None] = field(default_factory=dict)
    partitions: dict[int, PartitionEntry | None] = field(default_factory=dict)
    bundles: dict[str, BundleEntry | None] = field(default_factory=dict)

    def apply(self, before: Catalog) -> Catalog:
        """The catalog after it; everything else is as it was."""
        tables: dict[str, Any] = {}
        if self.topics:
            tables["topics"] = _replaced(before.topics, self.topics)
        if self.partitions:
            tables["partitions"] = _replaced(before.partitions, self.partitions)
        if self.bundles:
            tables["bundles"] = _replaced(before.bundles, self.bundles)
        after = dataclasses.replace(before, **tables)
        self._derive(before, after)
        return after

    def _derive(self, before: Catalog, after: Catalog) -> None:
        """What had been derived is brought up to date; what had not is derived when it is asked for."""
        known, derived = before.__dict__, after.__dict__
        for name in _DERIVED_OF_OTHERS:
            if name in known:
                derived[name] = known[name]
        if "topic_names" in known and all((n in before.topics) == (t is not None) for n, t in self.topics.items()):
            derived["topic_names"] = known["topic_names"]
        if "recorded_of" in known:
            derived["recorded_of"] = self._recorded_of(before)
            if "partitions_of" in known:
                names = {*self.topics, *self._topics_of_partitions(before)}
                counted: dict[str, tuple[PartitionEntry, ...] | None] = {n: after.counted_of(n) or None for n in names}
                derived["partitions_of"] = _replaced(before.partitions_of, counted)
        if "replica_counts" in known:
            derived["replica_counts"] = self._replica_counts(before)
        if "high_water" in known and not self._takes_ids(before):
            derived["high_water"] = before.high_water.joined(self._ids())

    def _topics_of_partitions(self, before: Catalog) -> set[str]:
        """Names of the topics whose partitions changed."""
        old = (before.partitions.get(group) for group in self.partitions)
        return {p.topic for p in (*old, *self.partitions.values()) if p is not None}

    def _recorded_of(self, before: Catalog) -> Mapping[str, tuple[PartitionEntry, ...]]:
        recorded: dict[str, dict[int, PartitionEntry]] = {
            name: {p.group: p for p in before.recorded_of.get(name, ())} for name in self._topics_of_partitions(before)
        }
        for group, entry in self.partitions.items():
            old = before.partitions.get(group)
            if old is not None:
                del recorded[old.topic][group]
            if entry is not None:
                recorded[entry.topic][group] = entry
        ordered: dict[str, tuple[PartitionEntry, ...] | None] = {
            name: tuple(sorted(entries.values(), key=lambda p: (p.index, p.group))) or None
            for name, entries in recorded.items()
        }
        return _replaced(before.recorded_of, ordered)

    def _replica_counts(self, before: Catalog) -> Mapping[int, int]:
        counts = dict(before.replica_counts)
        for group, entry in self.partitions.items():
            old = before.partitions.get(group)
            for store_id in old.wanted if old is not None else ():
                counts[store_id] -= 1
            for store_id in entry.wanted if entry is not None else ():
                counts[store_id] = counts.get(store_id, 0) + 1
        return {store_id: count for store_id, count in counts.items() if count}

    def _takes_ids(self, before: Catalog) -> bool:
        """Whether an id is gone with what changed: the highest of those that are left is not known then."""
        return any(
            (old := before.topics.get(name)) is not None and (new is None or new.topic_id < old.topic_id)
            for name, new in self.topics.items()
        ) or any(new is None and group in before.partitions for group, new in self.partitions.items())

    def _ids(self) -> HighWater:
        return HighWater(
            topics=max((t.topic_id + 1 for t in self.topics.values() if t is not None), default=0),
            groups=max((group + 1 for group, entry in self.partitions.items() if entry is not None), default=0),
        )


def _replaced(table: Mapping[K, V], entries: Mapping[K, V | None]) -> dict[K, V]:
    made = table.copy() if isinstance(table, dict) else dict(table)  # `copy` takes a tenth of the time
    for key, entry in entries.items():
        if entry is None:
            made.pop(key, None)
        else:
            made[key] = entry
    return made


def narrowed(catalog: Catalog, topics: Iterable[str], groups: Iterable[int], bundles: Iterable[str]) -> Catalog:
    """Of topics, partitions and bundles only these: what is told of a change follows from what it touched (events.py)."""
    return dataclasses.replace(
        catalog,
        topics={name: catalog.topics[name] for name in topics if name in catalog.topics},
        partitions={group: catalog.partitions[group] for group in groups if group in catalog.partitions},
        bundles={name: catalog.bundles[name] for name in bundles if name in catalog.bundles},
    )
