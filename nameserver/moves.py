"""Which replicas move where, so that a store can go; and what any move rests on.  Pure.

Guarantee: a replica moves only off a store that is to lose it, and only to one that is up, ready and heard and holds none of its
partition, so a move is never undone by a later plan; no more moves are under way than the limits say; cheapest first.  What does not move
is named with the reason.

How a move is carried out, step by step, is reconcile.py's; which even replicas out, replica_balance.py's.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from stele.nameserver.catalog import Catalog, PartitionEntry, RackRule, StoreEntry, StoreState, TopicState
from stele.nameserver.placement import spread
from stele.nameserver.reconcile import is_absent
from stele.nameserver.reports import LeaderReport, Reports
from stele.services.errors import NotEnoughStores
from stele.services.wording import counted


class Cause(StrEnum):
    OPERATOR = "operator"
    DECOMMISSION = "decommission"
    REPAIR = "repair"
    BALANCE = "balance"
    REPLICATION = "replication"


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """How many moves may be under way: of the whole cluster, and off or to one store.  ``differ_max``: by how many replicas stores may
    differ before any moves by itself; 0: none does."""

    moves_max: int = 8
    store_moves_max: int = 2
    differ_max: int = 16


UNLIMITED = MoveLimits(1 << 30, 1 << 30)


@dataclass(frozen=True, slots=True)
class BeginMove:
    """``target`` takes the place of ``before``, the stores that were to hold the partition's replicas until now.  ``source`` and ``to``:
    of one that goes to another store."""

    group: int
    before: tuple[int, ...]
    target: tuple[int, ...]
    cause: Cause
    source: int = 0
    to: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stays:
    """A replica that does not move now; ``store_id`` 0: a partition that is not resized."""

    group: int
    store_id: int
    why: str
    waits: bool = True  # what stands in its way may pass; else it is where it belongs


@dataclass(frozen=True, slots=True)
class EnterTombstone:
    """Nothing of an offline store is left."""

    store_id: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    moves: tuple[BeginMove, ...] = ()
    stays: tuple[Stays, ...] = ()


class Places:
    """How many more moves may begin."""

    def __init__(self, catalog: Catalog, limits: MoveLimits) -> None:
        self._limits = limits
        self.busy: dict[int, int] = {}  # store → moves off or to it
        self.under_way = 0
        for partition in catalog.partitions.values():
            if partition.target:
                self.under_way += 1
                for store_id in {*partition.going, partition.replicas[-1]}:  # the newest is the one that joins
                    self.busy[store_id] = self.busy.get(store_id, 0) + 1

    def full(self, store_id: int, moves_already: bool = False) -> str:
        """Why no move off the store may begin."""
        if self.under_way >= self._limits.moves_max and not moves_already:
            return f"{counted(self.under_way, 'move')} under way in the cluster"
        if not self.is_free(store_id):
            return f"{counted(self.busy[store_id], 'move')} under way off store {store_id}"
        return ""

    def is_free(self, store_id: int) -> bool:
        return self.busy.get(store_id, 0) < self._limits.store_moves_max

    @property
    def all_taken(self) -> str:
        """What is said where no store that could take a replica is free."""
        return f"every store that could take it has {counted(self._limits.store_moves_max, 'move')} under way"

    def take(self, source: int, to: int, moves_already: bool = False) -> None:
        self.under_way += not moves_already
        for taking_part in (source, to):
            self.busy[taking_part] = self.busy.get(taking_part, 0) + 1


def due(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    down: frozenset[int] = frozenset(),
    limits: MoveLimits = MoveLimits(),
) -> list[BeginMove | EnterTombstone]:
    """What is to be recorded next.  ``down``: stores that have been away for so long that their replicas are built anew elsewhere."""
    leaving = {s: Cause.REPAIR for s in down if s in catalog.stores and catalog.stores[s].state == StoreState.UP}
    leaving |= {s: Cause.DECOMMISSION for s, store in catalog.stores.items() if store.state == StoreState.OFFLINE}
    if not leaving:
        return []
    tombstones = [
        EnterTombstone(s)
        for s, cause in leaving.items()
        if cause is Cause.DECOMMISSION and not left_on(catalog, reports, s)
    ]
    return [*plan_moves(catalog, reports, leaders, leaving, limits).moves, *tombstones]


def plan_moves(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    leaving: Mapping[int, Cause],
    limits: MoveLimits = UNLIMITED,
) -> MovePlan:
    """The moves that may begin now, and why the other replicas on stores of ``leaving`` stay."""
    loads = dict(catalog.replica_counts)
    places = Places(catalog, limits)
    waiting = sorted(
        (log_bytes(reports, partition), partition.group, store_id)
        for partition in catalog.partitions.values()
        for store_id in partition.wanted
        if store_id in leaving
    )
    moves: dict[int, BeginMove] = {}
    stays: list[Stays] = []
    for size, group, store_id in waiting:
        partition = catalog.partitions[group]
        why = hindered(catalog, leaders, partition)
        if not why and group in moves:
            why = "another replica of its partition moves first"
        why = why or places.full(store_id, bool(partition.target))
        if not why:
            able = candidates(catalog, reports, partition, leaving.keys(), size)
            apart = [s for s in able if not shares_rack(catalog, partition, store_id, s)]
            free = [s for s in apart or able if places.is_free(s)]
            if not able:
                why = "no other store is up, ready, heard, not cordoned and without a replica of its partition, and has room"
            elif not apart and requires_racks(catalog, partition):
                why = f"its topic requires racks apart, and {SHARES_RACK} wherever it could go"
            elif not free:
                why = places.all_taken
        if why:
            stays.append(Stays(group, store_id, why))
            continue
        to = min(free, key=lambda s: (loads.get(s, 0), places.busy.get(s, 0), (s + group) % len(free), s))
        target = tuple(to if s == store_id else s for s in partition.wanted)
        moves[group] = BeginMove(group, partition.wanted, target, leaving[store_id], store_id, to, size)
        loads[store_id] = loads.get(store_id, 0) - 1
        loads[to] = loads.get(to, 0) + 1
        places.take(store_id, to, bool(partition.target))
    return MovePlan(tuple(moves.values()), tuple(stays))


SHARES_RACK = "it would share a rack with another replica of its partition"


def requires_racks(catalog: Catalog, partition: PartitionEntry) -> bool:
    topic = catalog.topic_of(partition)
    return topic is not None and topic.racks == RackRule.REQUIRE


def shares_rack(catalog: Catalog, partition: PartitionEntry, source: int, to: int) -> bool:
    """Whether the partition would be on fewer racks than it is, were ``to`` to hold what ``source`` does."""
    target = tuple(to if s == source else s for s in partition.wanted)
    return spread(target, catalog.racks) < spread(partition.wanted, catalog.racks)


def candidates(
    catalog: Catalog, reports: Reports, partition: PartitionEntry, excluded: Container[int], size_bytes: int
) -> list[int]:
    """Stores that a replica of the partition may be given to."""
    return [
        s
        for s in catalog.placeable_stores
        if s not in excluded and not hindrance(catalog, reports, partition, s, size_bytes)
    ]


def hindrance(catalog: Catalog, reports: Reports, partition: PartitionEntry, store_id: int, size_bytes: int) -> str:
    """Why the store can be given no replica of the partition now, as what is said of the store; nothing: it can."""
    if store_id in (*partition.replicas, *partition.leaving):
        return f"holds one of group {partition.group}, or did"
    if store_id not in catalog.placeable_stores:
        return "is cordoned" if store_id in catalog.serving_stores else "is not up, registered and ready"
    if not is_absent(catalog, reports, partition, store_id):
        return f"has not said that it holds nothing of group {partition.group}"
    free_bytes = reports[store_id].status.disk_free_bytes
    return "" if free_bytes >= size_bytes else f"has room for {free_bytes} bytes, not for {size_bytes}"


def log_bytes(reports: Reports, partition: PartitionEntry) -> int:
    """Of its largest replica, as far as any was reported."""
    return max(
        (
            report.replicas[partition.group].log_bytes
            for s in partition.replicas
            if (report := reports.get(s)) is not None and partition.group in report.replicas
        ),
        default=0,
    )


def hindered(catalog: Catalog, leaders: Mapping[int, LeaderReport], partition: PartitionEntry) -> str:
    """Why none of the partition's replicas can move now; nothing: they can."""
    topic = catalog.topic_of(partition)
    if topic is None or topic.state != TopicState.READY:
        return f"its topic is {topic.state if topic is not None else 'not recorded'}"
    if not topic.is_shown(partition):
        return "it is new, and its topic still grows"
    leader = leaders.get(partition.group)
    return "" if leader is not None and leader.confirmed else "its partition has no leader"


def left_on(catalog: Catalog, reports: Reports, store_id: int) -> str:
    """What a store still holds or is meant to hold, in words; nothing: it may go.  What one that is away holds nobody will ask for."""
    named = sum(store_id in p.replicas for p in catalog.partitions.values())
    if named:
        return counted(named, "replica")
    report = reports.get(store_id)
    if store_id not in catalog.live_stores:
        return ""
    if report is None or not report.connected or not report.complete:
        return "it is not known which replicas"
    if report.strays:
        return counted(len(report.strays), "orphan")
    deleting = sum(store_id in p.leaving for p in catalog.partitions.values())
    held = max(len(report.replicas), deleting)
    return f"{counted(held, 'replica')} being deleted" if held else ""


def highest_replication(catalog: Catalog) -> int:
    """Of any topic, and of what a namespace that is in use gives its topics."""
    topics = [t for t in catalog.topics.values() if t.state != TopicState.DELETING]
    used = {t.name.partition("/")[0] for t in topics}
    return max(
        (*(t.replication for t in topics), *(n.replication for n in catalog.namespaces.values() if n.name in used)),
        default=0,
    )


def others_up(catalog: Catalog, store_id: int) -> list[StoreEntry]:
    """The other stores that are up and registered, and take replicas."""
    return [
        store
        for s, store in sorted(catalog.stores.items())
        if s != store_id and store.state == StoreState.UP and not store.cordoned and s in catalog.live_stores
    ]


def check_may_go(catalog: Catalog, store: StoreEntry) -> None:
    """Raises NotEnoughStores while fewer others are up than a topic has replicas (R2.7)."""
    up, wanted = len(others_up(catalog, store.store_id)), highest_replication(catalog)
    if up < wanted:
        raise NotEnoughStores(
            f"without {store.name} {counted(up, 'store')} would be up, and topics have up to {counted(wanted, 'replica')}",
            up=up,
            wanted=wanted,
        )


def as_if_offline(catalog: Catalog, store: StoreEntry) -> Catalog:
    """The catalog once the store is being removed."""
    return replace(catalog, stores={**catalog.stores, store.store_id: replace(store, state=StoreState.OFFLINE)})
