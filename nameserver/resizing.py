"""Which replicas a partition is given, or gives up, so that it has as many as its topic asks for.  Pure.

Guarantee: a replica is given only to a store that is up, ready and heard and holds none of its partition; one that is given up stands on a
store that does not answer before one that does, and the leader's goes last; of those that stay most answer.  What is not resized is named
with the reason.

How it is carried out, step by step, is reconcile.py's: who joins counts before anybody goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from stele.nameserver.catalog import Catalog, PartitionEntry, StoreState, TopicEntry, TopicState
from stele.nameserver.moves import (
    SHARES_RACK,
    UNLIMITED,
    BeginMove,
    Cause,
    EnterTombstone,
    MoveLimits,
    MovePlan,
    Places,
    Stays,
    candidates,
    hindered,
    log_bytes,
    requires_racks,
)
from stele.nameserver.placement import spread
from stele.nameserver.reports import VOTING, LeaderReport, Reports

NOBODY = "no other store is up, ready, heard, not cordoned and without a replica of its partition, and has room"


def plan_resizes(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport], limits: MoveLimits = UNLIMITED
) -> MovePlan:
    """What may begin now, and why the other partitions that have too many or too few replicas stay as they are."""
    places = Places(catalog, limits)
    loads = dict(catalog.replica_counts)
    wrong = [p for p in catalog.partitions.values() if _surplus(catalog, p)]
    moves: list[BeginMove] = []
    stays: list[Stays] = []
    for size, group in sorted((log_bytes(reports, p), p.group) for p in wrong):
        partition = catalog.partitions[group]
        surplus = _surplus(catalog, partition)
        why = hindered(catalog, leaders, partition) or places.full(0, bool(partition.target))
        target: tuple[int, ...] = ()
        if not why and surplus > 0:
            target, why = _fewer(catalog, reports, leaders, partition, surplus, loads)
        elif not why:
            able = candidates(catalog, reports, partition, (), size)
            target, why = _more(catalog, partition, able, -surplus, places, loads)
        if why:
            stays.append(Stays(group, 0, why))
            continue
        moves.append(BeginMove(group, partition.wanted, target, Cause.REPLICATION, log_bytes=size))
        places.under_way += not partition.target
        for store_id in {*target} ^ {*partition.wanted}:
            places.busy[store_id] = places.busy.get(store_id, 0) + 1
            loads[store_id] = loads.get(store_id, 0) + (1 if store_id in target else -1)
    return MovePlan(tuple(moves), tuple(stays))


def due_resizes(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    begun: Iterable[BeginMove | EnterTombstone],
    limits: MoveLimits = MoveLimits(),
) -> list[BeginMove]:
    """What is to be recorded beside ``begun``, of other partitions than those."""
    moves = {m.group for m in begun if isinstance(m, BeginMove)}
    planned = plan_resizes(_with_begun(catalog, begun), reports, leaders, limits)
    return [m for m in planned.moves if m.group not in moves]


def is_any_unsettled(catalog: Catalog) -> bool:
    """Whether any partition has too many or too few replicas."""
    return any(_surplus(catalog, p) for p in catalog.partitions.values())


def _with_begun(catalog: Catalog, effects: Iterable[BeginMove | EnterTombstone]) -> Catalog:
    """The catalog once these moves are recorded."""
    effects = list(effects)
    if not effects:
        return catalog  # with what is derived of it
    partitions = dict(catalog.partitions)
    for move in effects:
        if isinstance(move, BeginMove):
            p = partitions[move.group]
            joining = tuple(s for s in move.target if s not in p.replicas)
            partitions[move.group] = replace(p, replicas=(*p.replicas, *joining), target=move.target)
    return replace(catalog, partitions=partitions)


def unsettled(catalog: Catalog, topic: TopicEntry) -> list[PartitionEntry]:
    """The topic's partitions that do not have their replicas as it asks yet."""
    return [
        p
        for p in catalog.partitions_of.get(topic.name, ())
        if _surplus(catalog, p) or (p.target and p.cause == Cause.REPLICATION)
    ]


def _surplus(catalog: Catalog, partition: PartitionEntry) -> int:
    """How many replicas it is to have more than its topic asks for; negative: fewer."""
    topic = catalog.topic_of(partition)
    if topic is None or topic.state != TopicState.READY or not topic.is_shown(partition):
        return 0
    return len(partition.wanted) - topic.replication


def _more(
    catalog: Catalog,
    partition: PartitionEntry,
    able: list[int],
    lacking: int,
    places: Places,
    loads: Mapping[int, int],
) -> tuple[tuple[int, ...], str]:
    """The stores that are to hold one, or why none is given one: on further racks first, then where there are the fewest."""
    target = partition.wanted
    free = [s for s in able if places.is_free(s)]
    why = places.all_taken if able else NOBODY
    for _ in range(lacking):
        left = [s for s in free if s not in target]
        apart = [s for s in left if spread((*target, s), catalog.racks) > spread(target, catalog.racks)]
        if left and not apart and requires_racks(catalog, partition):
            left, why = [], f"its topic requires racks apart, and {SHARES_RACK} wherever it could go"
        if not left:
            break
        order = {s: (loads.get(s, 0), places.busy.get(s, 0), (s + partition.group) % len(left), s) for s in left}
        target = (*target, min(apart or left, key=lambda s: order[s]))
    return (target, "") if target != partition.wanted else ((), why)


def _fewer(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    partition: PartitionEntry,
    surplus: int,
    loads: Mapping[int, int],
) -> tuple[tuple[int, ...], str]:
    """The stores that keep theirs, or why none gives its replica up."""
    leader = leaders[partition.group].store_id
    if not _answers(reports, partition, leader):
        return (), "its partition has no leader"
    voters = reports[leader].replicas[partition.group].voters
    answering = {s for s in partition.wanted if s in voters and _answers(reports, partition, s)}

    kept = list(partition.wanted)

    def worth(store_id: int) -> tuple[int, ...]:
        store = catalog.stores.get(store_id)
        stays = store is not None and store.state == StoreState.UP
        racks = spread(kept, catalog.racks) - spread([s for s in kept if s != store_id], catalog.racks)
        return store_id in answering, stays, store_id == leader, racks, -loads.get(store_id, 0), -store_id

    for _ in range(surplus):
        kept.remove(min(kept, key=worth))
    if 2 * len(answering.intersection(kept)) <= len(kept):
        return (), f"of the stores {sorted(kept)}, which would keep theirs, most do not answer"
    return tuple(s for s in partition.wanted if s in kept), ""


def _answers(reports: Reports, partition: PartitionEntry, store_id: int) -> bool:
    report = reports.get(store_id)
    return report is not None and report.holds(partition.group) and report.replicas[partition.group].state in VOTING
