"""What the datanodes say of their replicas, as this nameserver last heard it.  Pure.

Guarantee: a report is only ever as new as the stream it came on; one whose stream has broken is kept for display and decides nothing
(``connected`` is False), and a report says what a store does *not* hold only once it was complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from stele.services.topics import FOR_EVER, Retention


class ReplicaState(StrEnum):
    LOADING = "loading"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    RECOVERING = "recovering"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    DELETED = "deleted"


RUNNING = frozenset({ReplicaState.FOLLOWER, ReplicaState.CANDIDATE, ReplicaState.LEADER, ReplicaState.RECOVERING})


@dataclass(frozen=True, slots=True)
class Replica:
    group: int
    topic: str = ""
    partition: int = 0
    state: str = ReplicaState.FOLLOWER
    leader_store_id: int = 0
    term: int = 0
    commit_index: int = 0
    last_index: int = 0
    high_watermark: int = 0
    log_bytes: int = 0
    problem: str = ""
    log_start: int = 0
    retention: Retention = FOR_EVER


@dataclass(frozen=True, slots=True)
class StoreReport:
    """``complete``: every replica of the store is in ``replicas``, so that a group that is not there does not exist on it."""

    store_id: int
    state: str = ""
    loaded: int = 0
    total: int = 0
    disk_free_bytes: int = 0
    replicas: Mapping[int, Replica] = field(default_factory=dict)
    complete: bool = False
    connected: bool = False

    def lacks(self, group: int) -> bool:
        """Whether the store certainly holds no replica of ``group``."""
        return self.connected and self.complete and group not in self.replicas

    def holds(self, group: int) -> bool:
        return self.connected and group in self.replicas


Reports = Mapping[int, StoreReport]


def merge(known: StoreReport | None, received: StoreReport) -> StoreReport:
    """``known`` brought up to date by a message of the stream: a complete one replaces it, another changes what it names."""
    if received.complete:
        return replace(received, replicas=_present(received.replicas))
    before: Mapping[int, Replica] = known.replicas if known is not None else {}
    complete = known is not None and known.connected and known.complete
    return replace(received, replicas=_present({**before, **received.replicas}), complete=complete)


def disconnected(known: StoreReport) -> StoreReport:
    """The report once its stream has broken."""
    return replace(known, connected=False, complete=False)


def decisive(report: StoreReport) -> object:
    """What of a report anybody decides by; positions in the log move with every message and are for display."""
    replicas = {g: (r.state, r.leader_store_id, r.term, r.problem, r.retention) for g, r in report.replicas.items()}
    return report.state, report.loaded, report.total, report.complete, report.connected, replicas


def _present(replicas: Mapping[int, Replica]) -> dict[int, Replica]:
    return {g: r for g, r in replicas.items() if r.state != ReplicaState.DELETED}


@dataclass(frozen=True, slots=True)
class LeaderReport:
    """Who leads a group.  ``confirmed``: the leader itself said so; else its followers did."""

    store_id: int
    term: int
    confirmed: bool


def leaders(reports: Reports) -> dict[int, LeaderReport]:
    """The leader of each group by the highest term that a connected store speaks of; at equal terms the leader's own word counts."""
    best: dict[int, LeaderReport] = {}
    for report in reports.values():
        if not report.connected:
            continue
        for replica in report.replicas.values():
            leads = replica.state == ReplicaState.LEADER
            store_id = report.store_id if leads else replica.leader_store_id
            if not store_id:
                continue
            known = best.get(replica.group)
            if known is None or (replica.term, leads) > (known.term, known.confirmed):
                best[replica.group] = LeaderReport(store_id, replica.term, leads)
    return best
