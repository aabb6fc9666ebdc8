"""Why a partition's replicas are where they are, why they move or do not, and what is waited for.  Pure.

Guarantee: every sentence follows from the records and reports that the plans themselves are made from, by the same functions.
"""

from __future__ import annotations

from stele.nameserver.catalog import PartitionEntry, StoreState
from stele.nameserver.leader_balance import even_out
from stele.nameserver.moves import Cause, MovePlan, plan_moves
from stele.nameserver.operations import move_step
from stele.nameserver.reconcile import led_by
from stele.nameserver.replica_balance import plan_balance, waits_for
from stele.nameserver.view import View
from stele.services.errors import GroupNotFound
from stele.services.pb import nameserver_pb2


def explain(view: View, group: int) -> nameserver_pb2.ExplainPartitionResponse:
    """GroupNotFound."""
    partition = view.catalog.partitions.get(group)
    if partition is None:
        raise GroupNotFound(f"group {group} is not recorded", group=group)
    replicas = [
        nameserver_pb2.ExplainedReplica(store_id=s, here=_here(view, partition, s), next=_next(view, partition, s))
        for s in dict.fromkeys((*partition.wanted, *partition.going, *partition.leaving))
    ]
    return nameserver_pb2.ExplainPartitionResponse(
        topic=partition.topic,
        partition=partition.index,
        group=group,
        replicas=replicas,
        leader=_leader(view, partition),
        waits_for=_waits(view, partition),
    )


def _here(view: View, partition: PartitionEntry, store_id: int) -> str:
    count = view.catalog.replica_counts.get(store_id, 0)
    if store_id in partition.leaving:
        return "it has left the group, and what its store holds is to be deleted"
    if store_id in partition.going:
        return f"it counts until the one in its place does ({partition.cause})"
    if partition.target and store_id not in partition.materialised:
        return f"it is to come here ({partition.cause})"
    fewest = min((view.catalog.replica_counts.get(s, 0) for s in view.catalog.placeable_stores), default=0)
    named = f"its partition's record names the store, which has {count} replicas; the one with the fewest has {fewest}"
    return named + _rack(view, partition, store_id)


def _rack(view: View, partition: PartitionEntry, store_id: int) -> str:
    if not (rack := view.catalog.racks.get(store_id)):
        return ""
    beside = [s for s in partition.wanted if s != store_id and view.catalog.racks.get(s) == rack]
    shared = (
        f", shared with store {', '.join(map(str, beside))}: there are too few racks, or none had room"
        if beside
        else ""
    )
    return f"; rack {rack}{shared}"


def _next(view: View, partition: PartitionEntry, store_id: int) -> str:
    """Whether it moves, and why not."""
    catalog, store = view.catalog, view.catalog.stores.get(store_id)
    if store_id in partition.leaving:
        return "it goes" if store_id in catalog.live_stores else "it goes once its store is back"
    if partition.target:
        return move_step(view, partition)
    if store is not None and store.state == StoreState.OFFLINE:
        offline = {s: Cause.DECOMMISSION for s, o in catalog.stores.items() if o.state == StoreState.OFFLINE}
        return _planned(plan_moves(catalog, view.reports, view.leaders, offline), partition.group, store_id)
    if store_id not in catalog.live_stores:
        return "it is built anew elsewhere once its store was away for store_down_after_s, if another can take it"
    if store is not None and store.cordoned:
        return "it stays: its store is cordoned, and keeps what it has"
    if store_id not in catalog.placeable_stores:
        return "it stays: its store is not ready"
    said = _planned(plan_balance(catalog, view.reports, view.leaders), partition.group, store_id)
    if said.startswith("it moves") and catalog.rebalance is None:
        return f"{said} with `stele partition rebalance`, or once stores differ by more than replicas_differ_max"
    return said


def _planned(plan: MovePlan, group: int, store_id: int) -> str:
    if (move := next((m for m in plan.moves if (m.group, m.source) == (group, store_id)), None)) is not None:
        return f"it moves to store {move.to}"
    why = next((s.why for s in plan.stays if (s.group, s.store_id) == (group, store_id)), "")
    return f"it stays: {why}" if why else "it stays"


def _leader(view: View, partition: PartitionEntry) -> str:
    leader = view.leaders.get(partition.group)
    if leader is None:
        return "nobody leads it"
    led = led_by(view.leaders)
    everything = range(max((*view.leaders, *view.reports), default=0) + 1)
    due = even_out(view.catalog, view.reports, view.leaders, everything, everything, len(view.leaders))
    to = next((t.successor for t in due if t.group == partition.group), 0)
    counts = f"store {leader.store_id} leads it since term {leader.term}, and {led[leader.store_id]} in all"
    return f"{counts}; store {to} is to, once all has been steady for a while" if to else f"{counts}; it stays"


def _waits(view: View, partition: PartitionEntry) -> list[str]:
    lost = [lost for s in partition.replicas if (lost := view.lost(partition, s))]
    away = [f"store {s} is away" for s in partition.replicas if s not in view.catalog.live_stores]
    whole = waits_for(view.catalog, view.reports) if view.catalog.rebalance is not None else ""
    return [*lost, *away, *([f"evening out waits: {whole}"] if whole else [])]
