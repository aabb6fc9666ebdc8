"""Which replicas move where, so that a store can go.  Pure.

Guarantee: a replica moves only off a store that is to lose it, and only to one that is up, ready and heard and holds none of its
partition, so a move is never undone by a later plan; no more moves are under way than the limits say; cheapest first.  What does not move
is named with the reason.

How a move is carried out, step by step, is reconcile.py's.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from stele.nameserver.catalog import Catalog, PartitionEntry, StoreEntry, StoreState, TopicState
from stele.nameserver.reconcile import is_absent
from stele.nameserver.reports import LeaderReport, Reports
from stele.services.errors import NotEnoughStores
from stele.services.wording import counted


class Cause(StrEnum):
    OPERATOR = "operator"
    DECOMMISSION = "decommission"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """How many moves may be under way: of the whole cluster, and off or to one store."""

    moves_max: int = 8
    store_moves_max: int = 2


UNLIMITED = MoveLimits(1 << 30, 1 << 30)


@dataclass(frozen=True, slots=True)
class BeginMove:
    """``target`` takes the place of ``before``, the stores that were to hold the partition's replicas until now."""

    group: int
    before: tuple[int, ...]
    target: tuple[int, ...]
    cause: Cause
    source: int
    to: int
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stays:
    """A replica that does not move now."""

    group: int
    store_id: int
    why: str


@dataclass(frozen=True, slots=True)
class EnterTombstone:
    """Nothing of an offline store is left."""

    store_id: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    moves: tuple[BeginMove, ...] = ()
    stays: tuple[Stays, ...] = ()


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
    busy: dict[int, int] = {}
    under_way = 0
    for partition in catalog.partitions.values():
        if partition.target:
            under_way += 1
            for store_id in {*partition.going, partition.replicas[-1]}:  # the newest is the one that joins
                busy[store_id] = busy.get(store_id, 0) + 1
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
        why = _hindered(catalog, leaders, partition)
        if not why and group in moves:
            why = "another replica of its partition moves first"
        if not why and under_way >= limits.moves_max and not partition.target:
            why = f"{counted(under_way, 'move')} under way in the cluster"
        if not why and busy.get(store_id, 0) >= limits.store_moves_max:
            why = f"{counted(busy[store_id], 'move')} under way off store {store_id}"
        if not why:
            able = candidates(catalog, reports, partition, leaving.keys(), size)
            free = [s for s in able if busy.get(s, 0) < limits.store_moves_max]
            if not able:
                why = "no other store is up, ready, heard and without a replica of its partition, and has room"
            elif not free:
                why = f"every store that could take it has {counted(limits.store_moves_max, 'move')} under way"
        if why:
            stays.append(Stays(group, store_id, why))
            continue
        to = min(free, key=lambda s: (loads.get(s, 0), busy.get(s, 0), (s + group) % len(free), s))
        target = tuple(to if s == store_id else s for s in partition.wanted)
        moves[group] = BeginMove(group, partition.wanted, target, leaving[store_id], store_id, to, size)
        loads[store_id] = loads.get(store_id, 0) - 1
        loads[to] = loads.get(to, 0) + 1
        under_way += not partition.target
        for taking_part in (store_id, to):
            busy[taking_part] = busy.get(taking_part, 0) + 1
    return MovePlan(tuple(moves.values()), tuple(stays))


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
        return "is not up, registered and ready"
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


def _hindered(catalog: Catalog, leaders: Mapping[int, LeaderReport], partition: PartitionEntry) -> str:
    topic = catalog.topics.get(partition.topic)
    if topic is None or topic.state != TopicState.READY:
        return f"its topic is {topic.state if topic is not None else 'not recorded'}"
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
    """The other stores that are up and registered."""
    return [
        store
        for s, store in sorted(catalog.stores.items())
        if s != store_id and store.state == StoreState.UP and s in catalog.live_stores
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
