"""Which replicas move so that no store has more than its share.  Pure.

Guarantee: a replica moves only to a store that has at least two fewer than the one that it leaves, so that what is even stays so and
nothing moves back; the shortest logs first, no more at a time than the limits say; of a partition alone whose replicas are all in order,
and while no store is being emptied or missed.  What does not move is named with the reason.

By themselves replicas move only where stores differ by more than a setting says; by an operator's word until they differ by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from stele.nameserver.absence import is_cold
from stele.nameserver.catalog import Catalog, PartitionEntry, StoreState
from stele.nameserver.moves import (
    SHARES_RACK,
    UNLIMITED,
    BeginMove,
    Cause,
    MoveLimits,
    MovePlan,
    Places,
    Stays,
    hindered,
    hindrance,
    log_bytes,
    shares_rack,
)
from stele.nameserver.reports import VOTING, LeaderReport, Reports

HELD_THERE = "the stores that have fewer hold one of its partition already"
EVEN = 1  # by how many replicas stores differ that are even


@dataclass(frozen=True, slots=True)
class EndRebalance:
    """What an operator has asked for is done."""


def due(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport], limits: MoveLimits
) -> list[BeginMove | EndRebalance]:
    """What is to be recorded next."""
    asked = catalog.rebalance is not None
    if waits_for(catalog, reports) or not (asked or _is_uneven(catalog, limits.differ_max)):
        return []
    found = plan_balance(catalog, reports, leaders, EVEN if asked else limits.differ_max, limits)
    if asked and is_done(catalog, found):
        return [EndRebalance()]
    return list(found.moves)


def is_done(catalog: Catalog, found: MovePlan) -> bool:
    """Whether nothing moves to even replicas out, and nothing would if what stands in its way were gone."""
    moving = any(p.target and p.cause == Cause.BALANCE for p in catalog.partitions.values())
    return not moving and not found.moves and not any(s.waits for s in found.stays)


def _is_uneven(catalog: Catalog, differ_max: int) -> bool:
    loads = [catalog.replica_counts.get(s, 0) for s in catalog.placeable_stores]
    return differ_max > 0 and bool(loads) and max(loads) - min(loads) > differ_max


def waits_for(catalog: Catalog, reports: Reports) -> str:
    """Why nothing is evened out at all now; nothing: it is."""
    if is_cold(catalog, reports):
        return "more than one store is not heard"
    for store_id in sorted(catalog.replica_counts):
        store = catalog.stores.get(store_id)
        if store is not None and store.state != StoreState.UP:
            return f"{store.name} is being decommissioned"
        if store_id not in catalog.live_stores:
            return f"{store.name if store is not None else store_id} is away"
    return ""


def plan_balance(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    differ_max: int = EVEN,
    limits: MoveLimits = UNLIMITED,
) -> MovePlan:
    """The moves that may begin now so that no two stores differ by more than ``differ_max``, and why the other replicas stay."""
    loads = {s: catalog.replica_counts.get(s, 0) for s in catalog.placeable_stores}
    if not loads:
        return MovePlan()
    places = Places(catalog, limits)
    held = _held(catalog, reports, loads)
    moves: dict[int, BeginMove] = {}
    hindrances: dict[tuple[int, int], str] = {}
    while (found := _next(catalog, reports, leaders, loads, held, places, moves, hindrances, differ_max)) is not None:
        moves[found.group] = found
        loads[found.source] -= 1
        loads[found.to] += 1
        places.take(found.source, found.to)
    return MovePlan(tuple(moves.values()), tuple(_stays(loads, held, moves, hindrances, differ_max)))


Held = Mapping[int, list[tuple[int, PartitionEntry]]]


def _held(catalog: Catalog, reports: Reports, stores: Iterable[int]) -> Held:
    """By store, its partitions with the size of their logs, the shortest first."""
    held: dict[int, list[tuple[int, PartitionEntry]]] = {s: [] for s in stores}
    for partition in catalog.partitions.values():
        size = log_bytes(reports, partition)
        for store_id in partition.wanted:
            if store_id in held:
                held[store_id].append((size, partition))
    for partitions in held.values():
        partitions.sort(key=lambda sized: (sized[0], sized[1].group))
    return held


def _next(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    loads: Mapping[int, int],
    held: Held,
    places: Places,
    moves: Mapping[int, BeginMove],
    hindrances: dict[tuple[int, int], str],
    differ_max: int,
) -> BeginMove | None:
    """The shortest log of the store with the most that can give one, to the store with the fewest that can take it.  What hinders the
    others goes to ``hindrances``, by group and store."""
    by_load = sorted(loads, key=lambda s: (loads[s], s))
    for source in reversed(by_load):
        takers = [s for s in by_load if loads[source] - loads[s] > differ_max]
        for size, partition in held[source] if takers else ():
            group = partition.group
            if group in moves:
                continue
            why = hindrances.get((group, source), "")
            if not why and not (why := places.full(source) or _unsteady(catalog, reports, leaders, partition)):
                to, why = _taker(catalog, reports, partition, source, takers, places, size)
                if not why:
                    target = tuple(to if s == source else s for s in partition.wanted)
                    return BeginMove(group, partition.wanted, target, Cause.BALANCE, source, to, size)
            hindrances[group, source] = why
    return None


def _taker(
    catalog: Catalog,
    reports: Reports,
    partition: PartitionEntry,
    source: int,
    takers: list[int],
    places: Places,
    size: int,
) -> tuple[int, str]:
    """The store that takes a replica of the partition, or why none does."""
    able = [s for s in takers if s not in partition.wanted]
    why = HELD_THERE
    for store_id in able:
        if shares_rack(catalog, partition, source, store_id):
            why = SHARES_RACK
        elif problem := hindrance(catalog, reports, partition, store_id, size):
            why = f"store {store_id}, which has fewer, {problem}"
        elif not places.is_free(store_id):
            why = places.all_taken
        else:
            return store_id, ""
    return 0, why


def _unsteady(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport], partition: PartitionEntry
) -> str:
    """Why the partition is left alone for now: it loses nothing by waiting, and a move is a change of its group."""
    if partition.target:
        return f"its partition moves already ({partition.cause})"
    if why := hindered(catalog, leaders, partition):
        return why
    said = reports[leaders[partition.group].store_id].replicas[partition.group]
    for store_id in partition.wanted:
        report = reports.get(store_id)
        replica = report.replicas.get(partition.group) if report is not None and report.connected else None
        if replica is None or replica.state not in VOTING or store_id not in said.voters:
            return f"its partition's replica on store {store_id} is not in order"
    return ""


def _stays(
    loads: Mapping[int, int],
    held: Held,
    moves: Mapping[int, BeginMove],
    hindrances: Mapping[tuple[int, int], str],
    differ_max: int,
) -> Iterator[Stays]:
    fewest = min(loads.values())
    for source, partitions in sorted(held.items()):
        for _, partition in partitions:
            group, move = partition.group, moves.get(partition.group)
            if move is not None and move.source == source:
                continue
            if loads[source] - fewest <= differ_max:
                yield Stays(group, source, f"its store has no more than its share ({loads[source]})", waits=False)
            elif move is not None:
                yield Stays(group, source, "another replica of its partition moves first")
            else:
                why = hindrances[group, source]
                yield Stays(group, source, why, waits=why not in (HELD_THERE, SHARES_RACK))
