"""What is under way in a cluster, from its records and reports.  Pure.

Guarantee: an operation is nothing but what the records say is to become otherwise, so that every nameserver lists the same ones, and
none is lost with a leader.
"""

from __future__ import annotations

from stele.nameserver.catalog import Catalog, PartitionEntry, StoreEntry, StoreState, TopicEntry
from stele.nameserver.moves import Cause, MovePlan, left_on, log_bytes, plan_moves
from stele.nameserver.replica_balance import plan_balance, waits_for
from stele.nameserver.reports import Reports
from stele.nameserver.resizing import plan_resizes, unsettled
from stele.nameserver.view import View
from stele.services.errors import InvalidArgument
from stele.services.pb import nameserver_pb2
from stele.services.pb.datanode_pb2 import ReplicaStatus
from stele.services.wording import counted

PROBLEMS_MAX = 10
SHOWN_MAX = 10
REBALANCE = "rebalance"


def parse_id(operation: str) -> tuple[str, int]:
    """Kind and number.  InvalidArgument."""
    kind, _, number = operation.rpartition("-")
    if kind not in ("decommission", "move", "alter") or not number.isdecimal() or len(number) > 20:
        expected = f"decommission-STORE, move-GROUP, alter-TOPIC or {REBALANCE}"
        raise InvalidArgument(f"an operation is {expected}, not {operation[:64]!r}")
    return kind, int(number)


def operations(view: View, now_ms: int) -> list[nameserver_pb2.OperationInfo]:
    """``now_ms``: wall time, to say how long each lasts."""
    catalog = view.catalog
    offline = [store for _, store in sorted(catalog.stores.items()) if store.state == StoreState.OFFLINE]
    plan = plan_moves(catalog, view.reports, view.leaders, {s.store_id: Cause.DECOMMISSION for s in offline})
    moving = [p for _, p in sorted(catalog.partitions.items()) if p.target]
    resizes = plan_resizes(catalog, view.reports, view.leaders)
    altering = [t for _, t in sorted(catalog.topics.items()) if t.growing_to or unsettled(catalog, t)]
    return [
        *(_decommission(view, store, plan) for store in offline),
        *([_rebalance(view, now_ms)] if catalog.rebalance is not None else []),
        *(_alter(view, topic, resizes) for topic in altering),
        *(_move(view, p, now_ms) for p in moving),
    ]


def planned_rebalance(catalog: Catalog, plan: MovePlan, waits: str) -> nameserver_pb2.RebalanceReplicasResponse:
    """Replicas that stay for one reason are told as one."""
    alike: dict[tuple[int, str], list[PartitionEntry]] = {}
    for s in plan.stays:
        alike.setdefault((s.store_id, s.why), []).append(catalog.partitions[s.group])
    return nameserver_pb2.RebalanceReplicasResponse(
        moves=_planned_moves(catalog, plan),
        stays=[
            nameserver_pb2.StayingReplicas(
                store_id=store_id,
                why=why,
                count=len(partitions),
                partitions=[f"{p.topic}-{p.index}" for p in partitions[:SHOWN_MAX]],
            )
            for (store_id, why), partitions in sorted(alike.items())
        ],
        waits_for=waits,
    )


def _planned_moves(catalog: Catalog, plan: MovePlan) -> list[nameserver_pb2.PlannedMove]:
    return [
        nameserver_pb2.PlannedMove(
            topic=(p := catalog.partitions[m.group]).topic,
            partition=p.index,
            group=m.group,
            from_store_id=m.source,
            to_store_id=m.to,
            log_bytes=m.log_bytes,
        )
        for m in plan.moves
    ]


def planned(catalog: Catalog, plan: MovePlan) -> nameserver_pb2.DecommissionStoreResponse:
    stays = []
    for s in plan.stays:
        p = catalog.partitions[s.group]
        stays.append(
            nameserver_pb2.StayingReplica(
                topic=p.topic, partition=p.index, group=s.group, store_id=s.store_id, why=s.why
            )
        )
    return nameserver_pb2.DecommissionStoreResponse(moves=_planned_moves(catalog, plan), stays=stays)


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
        bytes_moved=sum(_built(view, p) for p in held if p.target),
        problems=problems[:PROBLEMS_MAX],
    )


def _rebalance(view: View, now_ms: int) -> nameserver_pb2.OperationInfo:
    catalog, reports = view.catalog, view.reports
    plan = plan_balance(catalog, reports, view.leaders)
    moving = [p for p in catalog.partitions.values() if p.target and p.cause == Cause.BALANCE]
    waits = waits_for(catalog, reports)
    problems = [
        f"{catalog.partitions[s.group].topic}-{catalog.partitions[s.group].index}: {s.why}"
        for s in plan.stays
        if s.waits
    ]
    return nameserver_pb2.OperationInfo(
        id=REBALANCE,
        kind=REBALANCE,
        cause=Cause.OPERATOR,
        step=f"{counted(len(plan.moves) + len(moving), 'replica')} to move, {len(moving)} of them moving",
        replicas_left=len(plan.moves) + len(moving),
        bytes_left=sum(m.log_bytes for m in plan.moves) + sum(log_bytes(reports, p) for p in moving),
        bytes_moved=sum(_built(view, p) for p in moving),
        lasts_ms=_lasts_ms(catalog.rebalance.asked_ms if catalog.rebalance is not None else 0, now_ms),
        problems=[*([waits] if waits else []), *problems][:PROBLEMS_MAX],
    )


def move_step(view: View, p: PartitionEntry) -> str:
    """What is done or waited for of a move that is under way."""
    said, joining = _joining(view, p)
    if said is None:
        return "waits for a leader"
    if joining:
        learners = [s for s in joining if s in said.learners]
        return f"store {learners[0]} catches up" if learners else f"store {joining[0]} joins"
    return "the former replica goes"


def _joining(view: View, p: PartitionEntry) -> tuple[ReplicaStatus | None, list[int]]:
    """What its leader says, and the stores that are to count and do not yet."""
    leader = view.leaders.get(p.group)
    report = view.reports.get(leader.store_id) if leader is not None else None
    said = report.replicas.get(p.group) if report is not None else None
    voters = set(said.voters) if said is not None else set()
    return said, [s for s in p.wanted if s not in voters]


def _move(view: View, p: PartitionEntry, now_ms: int) -> nameserver_pb2.OperationInfo:
    _, joining = _joining(view, p)
    return nameserver_pb2.OperationInfo(
        id=f"move-{p.group}",
        kind="move",
        cause=p.cause,
        topic=p.topic,
        partition=p.index,
        group=p.group,
        joining=joining,
        leaving=p.going,
        step=move_step(view, p),
        replicas_left=len(p.going),
        bytes_left=sum(_bytes(view.reports, p, s) for s in p.going),
        bytes_moved=_built(view, p),
        lasts_ms=_lasts_ms(p.moves_since_ms, now_ms),
    )


def _lasts_ms(since_ms: int, now_ms: int) -> int:
    return max(0, now_ms - since_ms) if since_ms else 0


def _built(view: View, p: PartitionEntry) -> int:
    """What the replica that joins holds by now: the newest one."""
    return _bytes(view.reports, p, p.replicas[-1])


def _alter(view: View, topic: TopicEntry, resizes: MovePlan) -> nameserver_pb2.OperationInfo:
    partitions = view.catalog.partitions_of.get(topic.name, ())
    steps, new = [], [p for p in partitions if not topic.is_shown(p)]
    led = {p.group for p in new if (known := view.leaders.get(p.group)) is not None and known.confirmed}
    problems = [f"{topic.name}-{p.index} has no leader" for p in new if p.group not in led]
    if topic.growing_to:
        steps.append(f"{len(led)} of {counted(topic.growing_to - topic.partitions, 'new partition')} led")
    if left := {p.group: p for p in unsettled(view.catalog, topic)}:
        done = f"{topic.partitions - len(left)} of {counted(topic.partitions, 'partition')}"
        steps.append(f"{done} with {counted(topic.replication, 'replica')}")
        problems += [f"{topic.name}-{left[s.group].index}: {s.why}" for s in resizes.stays if s.group in left]
    return nameserver_pb2.OperationInfo(
        id=f"alter-{topic.topic_id}",
        kind="alter",
        cause=Cause.OPERATOR,
        topic=topic.name,
        step=", ".join(steps),
        problems=problems[:PROBLEMS_MAX],
    )


def _bytes(reports: Reports, p: PartitionEntry, store_id: int) -> int:
    report = reports.get(store_id)
    replica = report.replicas.get(p.group) if report is not None else None
    return replica.log_bytes if replica is not None else 0
