"""A cluster in memory on which a plan's effects can be carried out, wholly, partly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TypeVar

from stele.nameserver.catalog import (
    Catalog,
    Member,
    MemberKind,
    MemberState,
    NamespaceEntry,
    PartitionEntry,
    Rebalance,
    StoreEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.effects import (
    ChangeMember,
    ConfigureReplica,
    CreateReplica,
    DeleteLeft,
    DeleteReplica,
    MarkReady,
    MemberRole,
    ReconcileEffect,
    RecordArrived,
    RecordExtra,
    RecordGone,
    RecordLeft,
    RecordMaterialised,
    RecordPartitions,
    RemoveRecords,
    ShowPartitions,
    TransferLeadership,
)
from stele.nameserver.moves import BeginMove, EnterTombstone
from stele.nameserver.placement import place
from stele.nameserver.replica_balance import EndRebalance
from stele.nameserver.reports import ReplicaState, Reports, StoreReport, merge
from stele.services.intervals import IntervalSet
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus
from stele.services.topics import FOR_EVER, Retention

DISK_FREE_BYTES = 1 << 30

E = TypeVar("E", bound=ReconcileEffect | BeginMove | EnterTombstone | EndRebalance)


def datanode(store_id: int, state: str = MemberState.READY, zxid: int = 1) -> Member:
    return Member(
        MemberKind.DATANODES,
        f"dn{store_id}",
        f"dn{store_id}:1",
        raft_endpoint=f"dn{store_id}:2",
        store_id=store_id,
        state=state,
        joined_zxid=zxid,
    )


def replica(
    group: int,
    state: str = ReplicaState.FOLLOWER,
    *,
    leader_store_id: int = 0,
    term: int = 0,
    retention: Retention = FOR_EVER,
    topic: str = "demo/t",
    topic_id: int = 1,
    partition: int = 0,
    voters: Collection[int] = (1, 2, 3),
    learners: Collection[int] = (),
) -> ReplicaStatus:
    return ReplicaStatus(
        group=group,
        topic=topic,
        topic_id=topic_id,
        partition=partition,
        state=state,
        leader_store_id=leader_store_id,
        term=term,
        retention=retention.message(),
        voters=sorted(voters),
        learners=sorted(learners),
        members_settled=state == ReplicaState.LEADER,
    )


def message(
    store_id: int, *replicas: ReplicaStatus, state: str = MemberState.READY, complete: bool = True
) -> StoreStatus:
    return StoreStatus(
        store_id=store_id, state=state, replicas=replicas, complete=complete, disk_free_bytes=DISK_FREE_BYTES
    )


def report(
    store_id: int, *replicas: ReplicaStatus, state: str = MemberState.READY, complete: bool = True
) -> StoreReport:
    return merge(None, message(store_id, *replicas, state=state, complete=complete))


@dataclass
class World:
    stores: tuple[int, ...] = (1, 2, 3, 4)
    up: set[int] = field(default_factory=lambda: {1, 2, 3, 4})
    loading: set[int] = field(default_factory=set)
    topics: dict[str, TopicEntry] = field(default_factory=dict)
    partitions: dict[int, PartitionEntry] = field(default_factory=dict)
    held: dict[int, set[int]] = field(default_factory=lambda: {1: set(), 2: set(), 3: set(), 4: set()})
    # (store, group) → as it was last configured
    configured: dict[tuple[int, int], Retention] = field(default_factory=dict)
    identities: dict[int, tuple[str, int, int]] = field(default_factory=dict)  # group → topic, its id, partition
    deleted: IntervalSet = field(default_factory=IntervalSet)
    voters: dict[int, set[int]] = field(default_factory=dict)
    learners: dict[int, set[int]] = field(default_factory=dict)
    promised: set[tuple[int, int]] = field(default_factory=set)  # (store, group): what it held counts
    states: dict[int, str] = field(default_factory=dict)  # of stores that are not up
    handed_to: dict[int, int] = field(default_factory=dict)  # group → the store that was asked to lead
    racks: dict[int, str] = field(default_factory=dict)
    log_bytes: dict[int, int] = field(default_factory=dict)  # of a group's replicas
    rebalance: Rebalance | None = None
    groups_next: int = 1
    topic_ids: int = 1

    def create(self, name: str, partitions: int, recorded: int) -> None:
        """The transaction of a create, of which the leader got as far as ``recorded`` partitions."""
        self.topics[name] = TopicEntry(name, self.topic_ids, partitions, 3, TopicState.CREATING)
        self.topic_ids += 1
        self.record(name, range(recorded))

    def record(self, name: str, indexes: range | tuple[int, ...]) -> None:
        up = [s for s in self.stores if s not in self.states]
        replicas = place(len(indexes), self.topics[name].replication, up, self.catalog().replica_counts)
        for index, chosen in zip(indexes, replicas, strict=True):
            self.partitions[self.groups_next] = PartitionEntry(
                self.groups_next, name, index, chosen, topic_id=self.topics[name].topic_id
            )
            self.identities[self.groups_next] = (name, self.topics[name].topic_id, index)
            self.voters[self.groups_next], self.learners[self.groups_next] = set(chosen), set()
            self.groups_next += 1

    def delete(self, name: str) -> None:
        self.topics[name] = replace(self.topics[name], state=TopicState.DELETING)

    def grow(self, name: str, partitions: int) -> None:
        self.topics[name] = replace(self.topics[name], growing_to=partitions)

    def replicate(self, name: str, replication: int) -> None:
        self.topics[name] = replace(self.topics[name], replication=replication)

    def alter(self, name: str, retention: Retention) -> None:
        self.topics[name] = replace(self.topics[name], retention=retention)

    def lose(self, store_id: int, group: int) -> None:
        """The folder of a replica is gone, and those that are left are a majority."""
        left = {s for s in self.voters.get(group, ()) if s != store_id and group in self.held[s]}
        if 2 * len(left) > len(self.voters.get(group, ())):
            self.held[store_id].discard(group)

    def leader(self, group: int) -> int:
        """A group with a majority is led by the store that was asked to, or its lowest reachable one; 0: by none."""
        able = sorted(s for s in self.voters[group] if s in self.up - self.loading and group in self.held[s])
        first = self.handed_to.get(group, 0)
        return (first if first in able else able[0]) if 2 * len(able) > len(self.voters[group]) else 0

    def _change(self, group: int, member: int, role: MemberRole) -> None:
        assert role is not MemberRole.NONE or member != self.leader(group), "the leader goes before it has handed over"
        if role is MemberRole.NONE and member in self.voters[group] and group in self.held[member]:
            wanted = self.partitions[group].wanted
            assert len(self.voters[group]) > len(wanted), (
                "a group has fewer voters than it is to have, by its own doing"
            )
        voters = self.voters[group] - {member} | ({member} if role is MemberRole.VOTER else set())
        able = {s for s in voters if s in self.up - self.loading and group in self.held[s]}
        if 2 * len(able) <= len(voters):
            return  # refused: too few of those left answer
        assert role is not MemberRole.VOTER or member in self.learners[group]
        self.voters[group] = voters
        self.learners[group] = self.learners[group] - {member} | ({member} if role is MemberRole.LEARNER else set())

    def _promise(self, topic: str) -> None:
        """Its partitions are written to from now on."""
        groups = [g for g, p in self.partitions.items() if p.topic == topic]
        self.promised.update((s, g) for s in self.stores for g in groups if g in self.held[s])

    def settle(self, due: Callable[[], list[E]], rounds: int) -> list[E]:
        """Carries everything out until nothing is due; what was done."""
        done: list[E] = []
        for _ in range(rounds):
            effects = due()
            if not effects:
                return done
            for effect in effects:
                self.carry_out(effect)
                self.catalog().validate()
            done += effects
        raise AssertionError(f"it does not come to an end: {due()}")

    def carry_out(self, effect: ReconcileEffect | BeginMove | EnterTombstone | EndRebalance) -> None:
        match effect:
            case CreateReplica(store_id, group, topic_id, topic, partition, replicas, retention) if store_id in self.up:
                assert group in self.partitions, "a replica of a group without record"
                assert self.identities[group] == (topic, topic_id, partition)
                if group not in self.held[store_id]:
                    assert not replicas or (store_id, group) not in self.promised, (
                        "a voter that forgot what it promised"
                    )
                    assert replicas or store_id not in self.voters[group], "one that joins counts already"
                self.held[store_id].add(group)
                self.configured[store_id, group] = retention
            case ChangeMember(store_id, group, topic_id, member, role) if store_id == self.leader(group):
                assert self.identities[group][1] == topic_id
                self._change(group, member, role)
            case RecordMaterialised(_, _, held):
                for group, stores in held:
                    known = self.partitions[group]
                    materialised = tuple(sorted({*known.materialised, *stores}))
                    self.partitions[group] = replace(known, materialised=materialised)
                    self.promised.update((s, group) for s in stores)
            case ConfigureReplica(store_id, group, topic_id, retention) if store_id in self.up:
                assert self.identities[group][1] == topic_id
                assert group in self.held[store_id], "a replica that is not there is configured"
                self.configured[store_id, group] = retention
            case DeleteReplica(store_id, group, topic_id) if store_id in self.up:
                assert self.identities[group][1] == topic_id
                topic = self.topics.get(self.identities[group][0])
                assert (topic is not None and topic.state == TopicState.DELETING) or topic_id in self.deleted
                self.held[store_id].discard(group)
            case DeleteLeft(store_id, group, topic_id) if store_id in self.up:
                assert self.identities[group][1] == topic_id
                assert store_id not in self.voters[group] | self.learners[group], "what counts is deleted"
                assert store_id in self.partitions[group].leaving, "a replica is deleted that no record gives up"
                self.held[store_id].discard(group)
            case TransferLeadership(store_id, group, _, successor) if store_id == self.leader(group):
                assert successor in self.voters[group]
                self.handed_to[group] = successor
            case BeginMove(group, before, target, cause):
                known = self.partitions[group]
                assert self.topics[known.topic].state == TopicState.READY
                assert self.topics[known.topic].is_shown(known), (
                    "a replica of a partition that is still being made moves"
                )
                assert known.wanted == before
                assert len(set(target)) == len(target)
                size = self.topics[known.topic].replication
                assert len(target) == len(before) or abs(len(target) - size) < abs(len(before) - size)
                joining = tuple(s for s in target if s not in known.replicas)
                assert not {*joining} & {*known.leaving}
                replicas = (*known.replicas, *joining)
                self.partitions[group] = replace(known, replicas=replicas, target=target, cause=cause)
            case RecordLeft(group, store_id):
                known = self.partitions[group]
                replicas = tuple(s for s in known.replicas if s != store_id)
                ended = set(replicas) == set(known.target)
                self.promised.discard((store_id, group))
                self.partitions[group] = replace(
                    known,
                    replicas=known.target if ended else replicas,
                    target=() if ended else known.target,
                    materialised=tuple(s for s in known.materialised if s != store_id),
                    leaving=(*known.leaving, store_id),
                )
            case RecordArrived(group):
                known = self.partitions[group]
                assert self.voters[group] == set(known.target) == set(known.replicas)
                self.partitions[group] = replace(known, replicas=known.target, target=())
            case RecordExtra(group, store_id):
                known = self.partitions[group]
                self.partitions[group] = replace(known, leaving=(*known.leaving, store_id))
            case RecordGone(group, store_id):
                known = self.partitions[group]
                self.partitions[group] = replace(known, leaving=tuple(s for s in known.leaving if s != store_id))
            case EndRebalance():
                self.rebalance = None
            case EnterTombstone(store_id):
                assert not any(store_id in p.replicas for p in self.partitions.values())
                self.states[store_id] = "tombstone"
                self.up.discard(store_id)  # told so, it ends
            case RecordPartitions(topic, _, missing):
                self.record(topic, missing)
            case MarkReady(topic, _):
                self.topics[topic] = replace(self.topics[topic], state=TopicState.READY)
                self._promise(topic)
            case ShowPartitions(topic, topic_id, partitions):
                known = self.topics[topic]
                if (known.topic_id, known.growing_to) == (topic_id, partitions):
                    groups = {p.index: g for g, p in self.partitions.items() if p.topic == topic}
                    assert all(self.leader(groups[i]) for i in range(known.partitions, partitions)), (
                        "a partition is shown that nobody leads"
                    )
                    self.topics[topic] = replace(known, partitions=partitions, growing_to=0)
                    self._promise(topic)
            case RemoveRecords(topic, _):
                self.deleted = self.deleted.add(self.topics[topic].topic_id)
                del self.topics[topic]
                self.partitions = {g: p for g, p in self.partitions.items() if p.topic != topic}
            case _:
                pass

    def catalog(self) -> Catalog:
        return Catalog(
            namespaces={"demo": NamespaceEntry("demo", 16, 3)},
            topics=dict(self.topics),
            partitions=dict(self.partitions),
            stores={
                s: StoreEntry(s, f"dn{s}", self.states.get(s, "up"), f"u{s}", rack=self.racks.get(s, ""))
                for s in self.stores
            },
            deleted_topics=self.deleted,
            rebalance=self.rebalance,
            datanodes={
                f"dn{s}": datanode(s, MemberState.LOADING if s in self.loading else MemberState.READY) for s in self.up
            },
        )

    def reports(self) -> Reports:
        return {s: report(s, *(self._replica(s, g) for g in sorted(self.held[s]))) for s in self.up - self.loading}

    def _replica(self, store_id: int, group: int) -> ReplicaStatus:
        leader = self.leader(group)
        state, term = (ReplicaState.FOLLOWER, leader) if leader else (ReplicaState.CANDIDATE, 1)
        if leader == store_id:
            state = ReplicaState.LEADER
        topic, topic_id, partition = self.identities[group]
        told = replica(
            group,
            state=state,
            leader_store_id=leader,
            term=term,
            retention=self.configured.get((store_id, group), FOR_EVER),
            topic=topic,
            topic_id=topic_id,
            partition=partition,
            voters=self.voters[group],
            learners=self.learners[group],
        )
        told.log_bytes = self.log_bytes.get(group, 0)
        return told
