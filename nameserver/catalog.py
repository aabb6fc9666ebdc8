"""What the cluster's metadata says at one moment: the nameserver's pure state.

Guarantee: a :class:`Catalog` is immutable and complete in itself; every decision of the nameserver (placement, bundles,
reconciliation, lookup, events) is a function of catalogs and of the datanodes' reports, never of ZooKeeper.

Not promised: that two parts of one catalog were read at one ZooKeeper transaction.  A topic may be seen before its
partitions; whoever destroys something on a catalog's word confirms it with a read of its own first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from stele.services.bundles import bundles_of
from stele.services.errors import StoreTombstone, StoreUnknown
from stele.services.high_water import HighWater
from stele.services.intervals import IntervalSet
from stele.services.topics import FOR_EVER, Retention


class MemberKind(StrEnum):
    NAMESERVERS = "nameservers"
    DATANODES = "datanodes"
    BROKERS = "brokers"


class MemberState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class TopicState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class StoreState(StrEnum):
    UP = "up"
    OFFLINE = "offline"
    TOMBSTONE = "tombstone"


class RackRule(StrEnum):
    """Whether a partition's replicas are on racks apart."""

    PREFER = "prefer"  # as far as there are racks for it
    REQUIRE = "require"  # or nowhere


@dataclass(frozen=True, slots=True)
class Member:
    """A registered process.  ``joined_zxid`` tells incarnations apart: a process that registers again has a higher one."""

    kind: MemberKind
    name: str
    endpoint: str
    advertised: str = ""
    raft_endpoint: str = ""
    store_id: int = 0
    state: str = MemberState.READY
    software: str = ""
    started_ms: int = 0
    loaded: int = 0
    total: int = 0
    joined_zxid: int = 0
    joined_ms: int = 0
    node_version: int = 0
    record_format: int = 1


@dataclass(frozen=True, slots=True)
class Leader:
    name: str
    endpoint: str
    epoch: int
    since_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoreEntry:
    store_id: int
    name: str
    state: str
    uuid: str
    registered_ms: int = 0
    node_version: int = 0
    cordoned: bool = False
    rack: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceEntry:
    name: str
    bundles: int
    replication: int
    retention: Retention = FOR_EVER
    splits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicEntry:
    """``name`` is namespace/topic.  ``topic_id`` is never used twice (R3.6).

    ``partitions`` are those that it shows; while it grows, further ones are recorded and made, up to ``growing_to``."""

    name: str
    topic_id: int
    partitions: int
    replication: int
    state: str
    created_ms: int = 0
    node_version: int = 0
    retention: Retention = FOR_EVER
    racks: str = RackRule.PREFER
    growing_to: int = 0

    @property
    def is_forming(self) -> bool:
        """Whether partitions of it are being made that nobody can use yet."""
        return self.state == TopicState.CREATING or (self.state == TopicState.READY and self.growing_to > 0)

    def is_shown(self, partition: PartitionEntry) -> bool:
        """Whether the partition is one that clients and brokers are told of; nothing was ever written to any other."""
        return self.state != TopicState.CREATING and partition.index < self.partitions


@dataclass(frozen=True, slots=True)
class PartitionEntry:
    """``group`` is never used twice (R3.6)."""

    group: int
    topic: str
    index: int
    replicas: tuple[int, ...]
    node_version: int = 0
    materialised: tuple[int, ...] = ()  # stores that have reported their replica once: it may have promised something
    target: tuple[int, ...] = ()  # of a move: the stores that are to hold the replicas in its end
    cause: str = ""
    leaving: tuple[int, ...] = ()  # left the group; what they hold of it is to be deleted
    moves_since_ms: int = 0
    topic_id: int = 0  # 0: recorded before this was
    caused_by: str = ""  # id of the event for which replicas move

    @property
    def wanted(self) -> tuple[int, ...]:
        """The stores that are to hold its replicas."""
        return self.target or self.replicas

    @property
    def joining(self) -> tuple[int, ...]:
        """Of those, the ones that have not held one yet, as far as is recorded."""
        return tuple(s for s in self.target if s not in self.materialised)

    @property
    def going(self) -> tuple[int, ...]:
        """Stores whose replica counts until those of the wanted ones do."""
        return tuple(s for s in self.replicas if s not in self.wanted)


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """``name`` is namespace/range.  ``assigned_zxid`` is when the assignment was written; a broker that registered after that
    is another incarnation than the one that was meant."""

    name: str
    broker: str
    epoch: int
    assigned_zxid: int = 0
    assigned_ms: int = 0
    node_version: int = 0
    cause: str = ""
    caused_by: str = ""  # id of the event for which it was given


@dataclass(frozen=True, slots=True)
class DrainedBroker:
    """An operator's word, which holds for every process of that name.  ``zxid`` tells two such words apart."""

    name: str
    zxid: int = 0


@dataclass(frozen=True, slots=True)
class Rebalance:
    """An operator has asked for replicas to be evened out, and they are not yet."""

    asked_ms: int


@dataclass(frozen=True)
class Catalog:
    namespaces: Mapping[str, NamespaceEntry] = field(default_factory=dict)
    topics: Mapping[str, TopicEntry] = field(default_factory=dict)
    partitions: Mapping[int, PartitionEntry] = field(default_factory=dict)
    bundles: Mapping[str, BundleEntry] = field(default_factory=dict)
    drained: Mapping[str, DrainedBroker] = field(default_factory=dict)
    stores: Mapping[int, StoreEntry] = field(default_factory=dict)
    buried: IntervalSet = field(default_factory=IntervalSet)
    deleted_topics: IntervalSet = field(default_factory=IntervalSet)  # ids
    counters: HighWater = field(default_factory=HighWater)  # as they are recorded
    record_format: int = 1  # that the cluster is at
    imported: bool = False  # from a copy, and what the stores have seen is not carried forward yet
    nameservers: Mapping[str, Member] = field(default_factory=dict)
    datanodes: Mapping[str, Member] = field(default_factory=dict)
    brokers: Mapping[str, Member] = field(default_factory=dict)
    leader: Leader | None = None
    rebalance: Rebalance | None = None

    @cached_property
    def topic_names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(sorted(self.topics))

    def topic_of(self, partition: PartitionEntry) -> TopicEntry | None:
        """The partition's topic; None: it is not seen.  Records are seen one by one: the topic that is seen under the name may be a former
        one, or a later one, and the partition is none of its."""
        topic = self.topics.get(partition.topic)
        return topic if topic is not None and partition.topic_id in (0, topic.topic_id) else None

    @cached_property
    def recorded_of(self) -> Mapping[str, tuple[PartitionEntry, ...]]:
        """The recorded partitions of each topic's name, by index; of a former topic of the name, too."""
        by_name: dict[str, list[PartitionEntry]] = {}
        for partition in self.partitions.values():
            by_name.setdefault(partition.topic, []).append(partition)
        return {t: tuple(sorted(ps, key=lambda p: (p.index, p.group))) for t, ps in by_name.items()}

    @cached_property
    def partitions_of(self) -> Mapping[str, tuple[PartitionEntry, ...]]:
        """Each topic's recorded partitions, by index; where there is no topic of the name, those of whatever has been."""
        return {name: counted for name in self.recorded_of if (counted := self.counted_of(name))}

    def counted_of(self, name: str) -> tuple[PartitionEntry, ...]:
        """``partitions_of`` of one name."""
        recorded = self.recorded_of.get(name, ())
        if name not in self.topics:
            return recorded
        counted = tuple(p for p in recorded if self.topic_of(p) is not None)
        return recorded if len(counted) == len(recorded) else counted

    @cached_property
    def high_water(self) -> HighWater:
        """How far the metadata has come: what the counters say, and what follows from records that were seen before a counter was."""
        return self.counters.joined(
            HighWater(
                epoch=self.leader.epoch if self.leader is not None else 0,
                topics=max((t.topic_id + 1 for t in self.topics.values()), default=0),
                groups=max((group + 1 for group in self.partitions), default=0),
                stores=max((store_id + 1 for store_id in self.stores), default=0),
            )
        )

    @property
    def known_format(self) -> int:
        """The highest record format that a registered process knows."""
        members = (*self.nameservers.values(), *self.datanodes.values(), *self.brokers.values())
        return max((m.record_format for m in members), default=self.record_format)

    @cached_property
    def wanted_bundles(self) -> Mapping[str, None]:
        """Every bundle of every namespace, in order; others that are recorded belong to nobody."""
        return dict.fromkeys(
            b for _, n in sorted(self.namespaces.items()) for b in bundles_of(n.name, n.bundles, n.splits)
        )

    @cached_property
    def live_stores(self) -> Mapping[int, Member]:
        """The registered datanode of each store, whatever its state."""
        return {m.store_id: m for m in self.datanodes.values() if m.store_id}

    def is_removed(self, store_id: int) -> bool:
        """Whether the store was removed for good: its record says so, or its id is buried (R2.2)."""
        store = self.stores.get(store_id)
        return store_id in self.buried or (store is not None and store.state == StoreState.TOMBSTONE)

    @cached_property
    def serving_stores(self) -> tuple[int, ...]:
        """Stores that are up, registered and ready."""
        return tuple(
            sorted(
                store_id
                for store_id, member in self.live_stores.items()
                if member.state == MemberState.READY
                and (store := self.stores.get(store_id)) is not None
                and store.state == StoreState.UP
            )
        )

    @cached_property
    def placeable_stores(self) -> tuple[int, ...]:
        """Of these, those that may be given new replicas (R4.6: one that loads is alive and gets none): the ones that are not cordoned."""
        return tuple(store_id for store_id in self.serving_stores if not self.stores[store_id].cordoned)

    @cached_property
    def racks(self) -> Mapping[int, str]:
        """Of each store that has one."""
        return {s: store.rack for s, store in self.stores.items() if store.rack}

    @cached_property
    def replica_counts(self) -> Mapping[int, int]:
        """How many replicas each store that has any is assigned, once every move has ended."""
        counts: dict[int, int] = {}
        for partition in self.partitions.values():
            for store_id in partition.wanted:
                counts[store_id] = counts.get(store_id, 0) + 1
        return counts

    def members(self, kind: MemberKind) -> Mapping[str, Member]:
        match kind:
            case MemberKind.NAMESERVERS:
                return self.nameservers
            case MemberKind.DATANODES:
                return self.datanodes
            case MemberKind.BROKERS:
                return self.brokers

    def validate(self) -> None:
        """Raises AssertionError where the records contradict one another in a way no interleaving of reads explains."""
        seen: dict[tuple[str, int, int], int] = {}
        for partition in self.partitions.values():
            place = (partition.topic, partition.topic_id, partition.index)
            assert place not in seen, f"{place} has the groups {seen[place]} and {partition.group}"
            seen[place] = partition.group
            assert len(set(partition.replicas)) == len(partition.replicas), f"{partition} names a store twice"
            assert set(partition.target) <= set(partition.replicas), f"{partition} moves to where nothing may be"
            assert not set(partition.leaving) & set(partition.replicas), f"{partition} deletes what counts"
        topic_ids = [t.topic_id for t in self.topics.values()]
        assert len(set(topic_ids)) == len(topic_ids), "two topics have one id"
        for bundle in self.bundles.values():
            assert bundle.epoch >= 0, f"{bundle} has a negative epoch"


def removed(store_id: int) -> StoreTombstone:
    """What a store that was removed for good is refused with (R2.2, R2.6)."""
    return StoreTombstone(f"store {store_id} was removed from this cluster", store_id=store_id)


def unknown(store_id: int) -> StoreUnknown:
    """What is said of a store that was never seen (R2.1)."""
    return StoreUnknown(f"there is no store {store_id}; `stele store ls` lists them", store_id=store_id)
