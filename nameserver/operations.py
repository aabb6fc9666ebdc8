"""What is under way in a cluster, from its records and reports.  Pure.

Guarantee: an operation is nothing but what the records say is to become otherwise, so that every nameserver lists the same ones, and
none is lost with a leader.
"""

from __future__ import annotations

from stele.nameserver.catalog import Catalog, PartitionEntry, StoreEntry, StoreState
from stele.nameserver.moves import Cause, MovePlan, left_on, plan_moves
from stele.nameserver.reports import Reports
from stele.nameserver.view import View
from stele.services.errors import InvalidArgument
from stele.services.pb import nameserver_pb2
from stele.services.wording import counted

PROBLEMS_MAX = 10


def parse_id(operation: str) -> tuple[str, int]:
    """Kind and number.  InvalidArgument."""
    kind, _, number = operation.rpartition("-")
    if kind not in ("decommission", "move") or not number.isdecimal() or len(number) > 20:
        raise InvalidArgument(f"an operation is decommission-STORE or move-GROUP, not {operation[:64]!r}")
    return kind, int(number)


def operations(view: View) -> list[nameserver_pb2.OperationInfo]:
    catalog = view.catalog
    offline = [store for _, store in sorted(catalog.stores.items()) if store.state == StoreState.OFFLINE]
    plan = plan_moves(catalog, view.reports, view.leaders, {s.store_id: Cause.DECOMMISSION for s in offline})
    moving = [p for _, p in sorted(catalog.partitions.items()) if p.target]
    return [*(_decommission(view, store, plan) for store in offline), *(_move(view, p) for p in moving)]


def planned(catalog: Catalog, plan: MovePlan) -> nameserver_pb2.DecommissionStoreResponse:
    moves, stays = [], []
    for m in plan.moves:
        p = catalog.partitions[m.group]
        moves.append(
            nameserver_pb2.PlannedMove(
                topic=p.topic,
                partition=p.index,
                group=m.group,
                from_store_id=m.source,
                to_store_id=m.to,
                log_bytes=m.log_bytes,
            )
        )
    for s in plan.stays:
        p = catalog.partitions[s.group]
        stays.append(
            nameserver_pb2.StayingReplica(
                topic=p.topic, partition=p.index, group=s.group, store_id=s.store_id, why=s.why
            )
        )
    return nameserver_pb2.DecommissionStoreResponse(moves=moves, stays=stays)


def _decommission(view: View, store: StoreEntry, plan: MovePlan) -> nameserver_pb2.OperationInfo:
    catalog, reports, store_id = view.catalog, view.reports, store.store_id
    held = [p for p in catalog.partitions.values() if store_id in (*p.replicas, *p.leaving)]
    moving = sum(bool(p.target) for p in held)
    led = sum(known.store_id == store_id for known in view.leaders.values())
    left = left_on(catalog, reports, store_id)
    problems = [
        f"{catalog.partitions[s.group].topic}-{catalog.partitions[s.group].index}: {s.why}"
        for s in plan.stays
        if s.store_id == store_id
    ]
    return nameserver_pb2.OperationInfo(
        id=f"decommission-{store_id}",
        kind="decommission",
        cause=Cause.OPERATOR,
        store_id=store_id,
        step=f"{counted(len(held), 'replica')} left, {moving} of them moving, {led} led there"
        if held
        else left or "nothing is left",
        replicas_left=len(held),
        bytes_left=sum(_bytes(reports, p, store_id) for p in held),
        problems=problems[:PROBLEMS_MAX],
    )


def _move(view: View, p: PartitionEntry) -> nameserver_pb2.OperationInfo:
    leader = view.leaders.get(p.group)
    report = view.reports.get(leader.store_id) if leader is not None else None
    said = report.replicas.get(p.group) if report is not None else None
    voters = set(said.voters) if said is not None else set()
    joining = [s for s in p.wanted if s not in voters]
    if said is None:
        step = "waits for a leader"
    elif joining:
        learners = [s for s in joining if s in said.learners]
        step = f"store {learners[0]} catches up" if learners else f"store {joining[0]} joins"
    else:
        step = "the former replica goes"
    return nameserver_pb2.OperationInfo(
        id=f"move-{p.group}",
        kind="move",
        cause=p.cause,
        topic=p.topic,
        partition=p.index,
        group=p.group,
        joining=joining,
        leaving=p.going,
        step=step,
        replicas_left=len(p.going),
        bytes_left=sum(_bytes(view.reports, p, s) for s in p.going),
    )


def _bytes(reports: Reports, p: PartitionEntry, store_id: int) -> int:
    report = reports.get(store_id)
    replica = report.replicas.get(p.group) if report is not None else None
    return replica.log_bytes if replica is not None else 0
