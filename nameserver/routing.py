"""What brokers are told of the cluster: each what concerns it, and after the beginning what changed.  Pure.

Guarantee: a broker that has taken every part of a message knows what the view says of the partitions whose bundles are recorded as its own,
of every topic, bundle and member; a message is sent in parts, each far below what one call may carry; what changed since is named by
revision, and who is further behind than ``CHANGES_MAX`` of them is told everything anew.

Not promised: that a partition of which the broker is no longer the owner is told of, or that it is named as gone: the bundle is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from stele.nameserver.catalog import Catalog, PartitionEntry
from stele.nameserver.view import View, broker_info, member_info, topic_info
from stele.services.bundles import bundle_of
from stele.services.pb import nameserver_pb2 as pb

CHANGES_MAX: Final = 256
PART_BYTES_MAX: Final = 32 * 1024  # but for what is told of all bundles and members; making one holds up look-ups
PARTITIONS_OF_A_PART: Final = 500  # of one topic


@dataclass(slots=True)
class RoutingChange:
    """What may have changed: names of topics, bundles, datanodes and brokers, and groups."""

    topics: set[str] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)
    bundles: set[str] = field(default_factory=set)
    datanodes: set[str] = field(default_factory=set)
    brokers: set[str] = field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.topics or self.groups or self.bundles or self.datanodes or self.brokers or self.everything)

    def add(self, other: RoutingChange) -> None:
        self.topics |= other.topics
        self.groups |= other.groups
        self.bundles |= other.bundles
        self.datanodes |= other.datanodes
        self.brokers |= other.brokers
        self.everything = self.everything or other.everything


def changed_members(before: Catalog, after: Catalog) -> RoutingChange:
    """Of members and namespaces; topics, partitions and bundles are known from the records that changed."""
    return RoutingChange(
        datanodes={
            n
            for n in before.datanodes.keys() | after.datanodes.keys()
            if before.datanodes.get(n) != after.datanodes.get(n)
        },
        brokers={
            n
            for n in before.brokers.keys() | after.brokers.keys()
            if before.brokers.get(n) != after.brokers.get(n) or (n in before.drained) != (n in after.drained)
        },
        everything=before.wanted_bundles.keys() != after.wanted_bundles.keys(),
    )


class RoutingChanges:
    """The last changes, by revision; and which partitions each bundle has."""

    def __init__(self) -> None:
        self.revision = 1
        self._changes: deque[RoutingChange] = deque(maxlen=CHANGES_MAX)
        self._bundles: dict[int, str] = {}  # group → bundle
        self._groups: dict[str, set[int]] = {}

    def record(self, change: RoutingChange, catalog: Catalog) -> None:
        if not change:
            return
        if change.everything:
            self._bundles.clear()
            self._groups.clear()
        for group in catalog.partitions if change.everything else change.groups:
            self._place(group, catalog)
        self.revision += 1
        self._changes.append(change)

    def since(self, revision: int) -> RoutingChange:
        """Everything, where it is not known any more."""
        behind = self.revision - revision
        if revision == 0 or behind > len(self._changes):
            return RoutingChange(everything=True)
        found = RoutingChange()
        for back in range(1, behind + 1):
            found.add(self._changes[-back])
        return found

    def bundle(self, group: int) -> str:
        """Empty while its namespace is not seen."""
        return self._bundles.get(group, "")

    @property
    def bundles(self) -> Collection[str]:
        return self._groups.keys()

    def groups(self, bundle: str) -> Collection[int]:
        return self._groups.get(bundle, ())

    def _place(self, group: int, catalog: Catalog) -> None:
        before = self._bundles.pop(group, "")
        if before:
            self._groups[before].discard(group)
        partition = catalog.partitions.get(group)
        namespace = catalog.namespaces.get(partition.topic.partition("/")[0]) if partition is not None else None
        if partition is not None and namespace is not None:
            bundle = self._bundles[group] = bundle_of(
                partition.topic, partition.index, namespace.bundles, namespace.splits
            )
            self._groups.setdefault(bundle, set()).add(group)


class BrokerRouting:
    """What one broker is to be told on one stream: ``take``, then ``part`` until it says that no more follows."""

    def __init__(self, broker: str, changes: RoutingChanges) -> None:
        self._broker, self._changes = broker, changes
        self._taken = 0  # the revision of the changes that are taken
        self._told = 0  # of the message before
        self._topics: set[str] = set()  # that it was told of
        self._due = RoutingChange()
        self._due_topics: dict[str, None] = {}
        self._is_whole = False
        self._is_begun = False  # a part of the message was sent

    @property
    def is_due(self) -> bool:
        """Whether there may be something to tell; ``take`` finds out."""
        return self._changes.revision != self._taken or not self._told

    def take(self, view: View) -> bool:
        """Whether there is something to tell now."""
        change = self._changes.since(self._taken)
        self._taken = self._changes.revision
        if change.everything:
            self._is_whole, self._is_begun = True, False
            self._due_topics = dict.fromkeys((*view.catalog.topics, *self._topics))
            change = RoutingChange(
                bundles=set(view.catalog.bundles),
                datanodes=set(view.catalog.datanodes),
                brokers=set(view.catalog.brokers),
            )
        else:
            self._due_topics.update(dict.fromkeys(self._touched(change, view.catalog)))
        # Whether a bundle's owner is seen depends on registrations.
        owners = {b.name for b in view.catalog.bundles.values() if b.broker in change.brokers} if change.brokers else ()
        self._due.bundles |= change.bundles.union(owners)
        self._due.datanodes |= change.datanodes
        self._due.brokers |= change.brokers
        return bool(self._due_topics or self._due or self._is_whole)

    def _touched(self, change: RoutingChange, catalog: Catalog) -> Iterable[str]:
        """Topics that have something to tell of."""
        yield from sorted(change.topics)
        groups = set(change.groups)
        for bundle in change.bundles:
            groups.update(self._changes.groups(bundle))
        for group in sorted(groups):
            partition = catalog.partitions.get(group)
            if partition is not None and self._is_own(partition, catalog):
                yield partition.topic

    def _is_own(self, partition: PartitionEntry, catalog: Catalog) -> bool:
        """By the record, whichever process of the name it means: one whose registration is not seen serves on meanwhile."""
        bundle = catalog.bundles.get(self._changes.bundle(partition.group))
        return bundle is not None and bundle.broker == self._broker

    def part(self, view: View) -> pb.Routing:
        """The next one; also where nothing is due.  ``take`` BEFORE each: the last part is as new as the view."""
        routing = pb.Routing(filtered=True, changes=not self._is_whole or self._is_begun, since=self._told)
        if self._is_whole and not self._is_begun:
            routing.since = 0
        self._tell_members(view, routing)
        size = 0
        while self._due_topics and size < PART_BYTES_MAX:
            name = next(iter(self._due_topics))
            del self._due_topics[name]
            size += self._tell_topic(view, name, routing)
        routing.more = bool(self._due_topics)
        routing.revision = self._taken
        if routing.more:
            self._is_begun = True
        else:
            self._is_whole, self._is_begun, self._told = False, False, self._taken
        return routing

    def _tell_members(self, view: View, routing: pb.Routing) -> None:
        catalog, due = view.catalog, self._due
        self._due = RoutingChange()
        routing.leader_epoch = catalog.leader.epoch if catalog.leader is not None else 0
        routing.datanodes.extend(
            member_info(catalog.datanodes[n]) for n in sorted(due.datanodes & catalog.datanodes.keys())
        )
        for name in sorted(due.brokers):
            member = catalog.brokers.get(name)
            if member is not None:
                routing.brokers.append(broker_info(member, name in catalog.drained))
            else:
                routing.gone_brokers.append(name)
        routing.bundles.extend(view.assignment(n) for n in sorted(due.bundles) if n in catalog.bundles)

    def _tell_topic(self, view: View, name: str, routing: pb.Routing) -> int:
        """How many bytes that are."""
        topic = view.catalog.topics.get(name)
        if topic is None:
            if name in self._topics:
                self._topics.discard(name)
                routing.gone_topics.append(name)
            return len(name)
        self._topics.add(name)
        own = [
            view.slim_route(p, self._changes.bundle(p.group))
            for p in view.shown(topic)
            if self._is_own(p, view.catalog)
        ]
        size = 0
        for begin in range(0, max(len(own), 1), PARTITIONS_OF_A_PART):
            told = pb.TopicRouting(topic=topic_info(topic), partitions=own[begin : begin + PARTITIONS_OF_A_PART])
            routing.topics.append(told)
            size += told.ByteSize()
        return size
