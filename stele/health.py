"""Whether a cluster is well, and what is wrong if not.  Pure: judges what administration calls returned.

Guarantee: a cluster that is called healthy has a leading nameserver with a connected ZooKeeper session, every store that should be up
ready, a live broker for every partition, and for every partition a leader and all of its replicas in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stele.model import BrokerInfo, ClusterInfo, PartitionInfo, ReplicaInfo, StoreInfo
from stele.services.wording import counted

SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class HealthCheck:
    name: str
    ok: bool
    detail: str


def judge(
    cluster: ClusterInfo,
    stores: Sequence[StoreInfo],
    brokers: Sequence[BrokerInfo],
    partitions: Sequence[PartitionInfo],
) -> list[HealthCheck]:
    return [
        HealthCheck("nameservers", bool(cluster.leader), _leader(cluster)),
        HealthCheck(
            "coordination",
            cluster.coordination_connected,
            "ZooKeeper is connected"
            if cluster.coordination_connected
            else f"{cluster.answered_by} has no ZooKeeper session",
        ),
        _check("metadata", cluster.problems, "ZooKeeper's records are as new as what the stores were told"),
        _stores(stores),
        _brokers(brokers),
        _partitions(partitions),
    ]


def _leader(cluster: ClusterInfo) -> str:
    known = f"{len(cluster.nameservers)} registered"
    return (
        f"{known}, {cluster.leader} leads at epoch {cluster.leader_epoch}" if cluster.leader else f"{known}, none leads"
    )


def _stores(stores: Sequence[StoreInfo]) -> HealthCheck:
    expected = [s for s in stores if s.state == "up"]
    problems = [f"{s.name} is gone" for s in expected if not s.live]
    problems += [
        f"{s.name} is {_status(s)} ({s.loaded}/{s.total})" for s in expected if s.live and _status(s) != "ready"
    ]
    problems += [problem for s in expected for problem in s.problems]
    if not expected:
        problems.append("no store is registered")
    return _check("stores", problems, f"{len(expected)} ready")


def _status(s: StoreInfo) -> str:
    return s.status or (s.member.state if s.member is not None else "")


def _brokers(brokers: Sequence[BrokerInfo]) -> HealthCheck:
    live = [b for b in brokers if b.live]
    problems = [
        f"{b.name} is gone and owns {counted(len(b.bundles), 'bundle')}" for b in brokers if not b.live and b.bundles
    ]
    if not live:
        problems.append("no broker is registered")
    return _check("brokers", problems, f"{len(live)} registered")


def _partitions(partitions: Sequence[PartitionInfo]) -> HealthCheck:
    problems: list[str] = []
    for p in partitions:
        name = f"{p.topic}-{p.partition}"
        if not p.leader_store_id:
            problems.append(f"{name} has no leader")
        if not p.broker:
            problems.append(f"{name} has no broker")
        in_order = sum(_is_in_order(r) for r in p.replicas)
        if in_order < len(p.replicas):
            problems.append(f"{name} has {in_order} of {len(p.replicas)} replicas")
        problems += [r.problem for r in p.replicas if r.state == "lost"]
    return _check("partitions", problems, f"{len(partitions)} with leader, broker and every replica")


def _is_in_order(r: ReplicaInfo) -> bool:
    return bool(r.endpoint) and r.state in ("leader", "follower") and not r.problem


def _check(name: str, problems: Iterable[str], well: str) -> HealthCheck:
    listed = list(problems)
    more = f" and {len(listed) - SHOWN_MAX} more" if len(listed) > SHOWN_MAX else ""
    return HealthCheck(name, not listed, "; ".join(listed[:SHOWN_MAX]) + more if listed else well)
