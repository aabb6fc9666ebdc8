"""What the datanodes say of their replicas, as this nameserver last heard it.  Pure.

Guarantee: a report is only ever as new as the stream it came on; one whose stream has broken is kept for display and decides nothing
(``connected`` is False), and a report says what a store does *not* hold only once it was complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from stele.services.high_water import HighWater
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus
from stele.services.topics import FOR_EVER, Retention

V = TypeVar("V")


class ReplicaState(StrEnum):
    LOADING = "loading"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    RECOVERING = "recovering"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    DELETED = "deleted"
    # in listings alone
    LOST = "lost"  # its store serves and holds none
    LEARNER = "learner"  # it runs, and its leader does not count it yet


VOTING = frozenset({ReplicaState.FOLLOWER, ReplicaState.CANDIDATE, ReplicaState.LEADER})
RUNNING = VOTING | {ReplicaState.RECOVERING}


class StrayKind(StrEnum):
    ORPHAN = "orphan"  # of a group that has no record
    STRANGER = "stranger"  # of another topic than the group's record says


@dataclass(frozen=True, slots=True)
class Stray:
    """A replica that no record speaks for (strays.py): counted nowhere, kept all the same."""

    kind: StrayKind
    replica: ReplicaStatus

    @property
    def problem(self) -> str:
        if self.kind is StrayKind.ORPHAN:
            return self.replica.problem
        return f"holds group {self.replica.group} of the topic {self.replica.topic} with id {self.replica.topic_id}"

    def shown(self) -> ReplicaStatus:
        """As it stands in listings."""
        status = ReplicaStatus()
        status.CopyFrom(self.replica)
        status.state, status.problem = self.kind, self.problem
        return status


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What the messages of one store add up to; the messages themselves are kept as they came, and nobody changes them.

    ``complete``: every replica of the store is in ``replicas`` or ``strays``, so that a group that is in neither does not exist on it."""

    status: StoreStatus  # the last message; of replicas it names only those that changed
    replicas: Mapping[int, ReplicaStatus] = field(default_factory=dict)
    complete: bool = False
    connected: bool = False
    strays: Mapping[int, Stray] = field(default_factory=dict)

    @property
    def store_id(self) -> int:
        return self.status.store_id

    def lacks(self, group: int) -> bool:
        """Whether the store certainly holds no replica of ``group``."""
        return self.connected and self.complete and group not in self.replicas and group not in self.strays

    def holds(self, group: int) -> bool:
        """Whether the store holds a replica of ``group`` that is the recorded one."""
        return self.connected and group in self.replicas

    def whole(self) -> StoreStatus:
        """As one message."""
        status = StoreStatus()
        status.CopyFrom(self.status)
        del status.replicas[:]
        shown = {**self.replicas, **{group: stray.shown() for group, stray in self.strays.items()}}
        status.replicas.extend(replica for _, replica in sorted(shown.items()))
        status.complete = self.complete
        return status


Reports = Mapping[int, StoreReport]


def is_heard(reports: Reports, store_id: int) -> bool:
    """Whether the store is listened to now, and has said something."""
    return (report := reports.get(store_id)) is not None and report.connected


def copied(table: Mapping[int, V]) -> dict[int, V]:
    """``dict(table)``, in a tenth of the time where that is one already."""
    return table.copy() if isinstance(table, dict) else dict(table)


def merge(known: StoreReport | None, received: StoreStatus) -> StoreReport:
    """``known`` brought up to date by a message of the stream: a complete one replaces it, another changes what it names."""
    replicas = copied(known.replicas) if known is not None and not received.complete else {}
    for replica in received.replicas:
        if replica.state == ReplicaState.DELETED:
            replicas.pop(replica.group, None)
        else:
            replicas[replica.group] = replica
    # What changed while nobody listened is not known, so additions to a report whose stream broke prove no absence.
    complete = received.complete or (known is not None and known.connected and known.complete)
    return StoreReport(received, replicas, complete, connected=True)


def disconnected(known: StoreReport) -> StoreReport:
    """The report once its stream has broken."""
    return replace(known, connected=False, complete=False)


def retention_of(replica: ReplicaStatus) -> Retention:
    """As the replica was last configured."""
    return FOR_EVER.changed_by(replica.retention)


def members_of(replica: ReplicaStatus) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Voters and learners, as the replica's log has them."""
    return tuple(replica.voters), tuple(replica.learners)


def decisively_changed(known: StoreReport | None, merged: StoreReport) -> frozenset[int] | None:
    """The groups of which something changed that anybody decides by: positions in the log move with every message and are for display.
    None: everything of the store is to be looked at anew."""
    if known is None or not known.connected or _decisive_of_store(known) != _decisive_of_store(merged):
        return None
    named = {r.group for r in merged.status.replicas}
    if merged.status.complete:
        named |= known.replicas.keys() | merged.replicas.keys()
    return frozenset(
        group
        for group in named
        if (was := known.replicas.get(group)) is not (now := merged.replicas.get(group))
        and (was is None or now is None or _decisive(was) != _decisive(now))
    )


def _decisive(r: ReplicaStatus) -> object:
    return (
        r.state,
        r.leader_store_id,
        r.term,
        r.problem,
        retention_of(r),
        r.topic_id,
        r.owner_epoch,
        members_of(r),
        r.members_settled,
    )


def _decisive_of_store(report: StoreReport) -> object:
    status = report.status
    seen = HighWater.of(status.seen)
    return (
        status.state,
        status.disk_full,
        status.loaded,
        status.total,
        report.complete,
        report.connected,
        seen,
    )


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
            if (better := _better(best.get(replica.group), report.store_id, replica)) is not None:
                best[replica.group] = better
    return best


def leader_of(reports: Iterable[StoreReport], group: int) -> LeaderReport | None:
    """``leaders`` of one group."""
    best: LeaderReport | None = None
    for report in reports:
        if report.connected and (replica := report.replicas.get(group)) is not None:
            best = _better(best, report.store_id, replica) or best
    return best


def _better(known: LeaderReport | None, store_id: int, replica: ReplicaStatus) -> LeaderReport | None:
    """Whom the store's replica speaks of, where that is more than is known."""
    leads = replica.state == ReplicaState.LEADER
    leader = store_id if leads else replica.leader_store_id
    if not leader or (known is not None and (replica.term, leads) <= (known.term, known.confirmed)):
        return None
    return LeaderReport(leader, replica.term, leads)
