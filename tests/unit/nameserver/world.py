"""A cluster in memory on which a plan's effects can be carried out, wholly, partly or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stele.nameserver.catalog import (
    Catalog,
    Member,
    MemberKind,
    MemberState,
    NamespaceEntry,
    PartitionEntry,
    StoreEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.ids import IntervalSet
from stele.nameserver.placement import place
from stele.nameserver.reconcile import (
    ConfigureReplica,
    CreateReplica,
    DeleteReplica,
    MarkReady,
    ReconcileEffect,
    RecordPartitions,
    RemoveRecords,
)
from stele.nameserver.reports import ReplicaState, Reports, StoreReport, merge
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus
from stele.services.topics import FOR_EVER, Retention


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
    )


def message(
    store_id: int, *replicas: ReplicaStatus, state: str = MemberState.READY, complete: bool = True
) -> StoreStatus:
    return StoreStatus(store_id=store_id, state=state, replicas=replicas, complete=complete)


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
    groups_next: int = 1
    topic_ids: int = 1

    def create(self, name: str, partitions: int, recorded: int) -> None:
        """The transaction of a create, of which the leader got as far as ``recorded`` partitions."""
        self.topics[name] = TopicEntry(name, self.topic_ids, partitions, 3, TopicState.CREATING)
        self.topic_ids += 1
        self.record(name, range(recorded))

    def record(self, name: str, indexes: range | tuple[int, ...]) -> None:
        replicas = place(len(indexes), 3, self.stores, self.catalog().replica_counts)
        for index, chosen in zip(indexes, replicas, strict=True):
            self.partitions[self.groups_next] = PartitionEntry(self.groups_next, name, index, chosen)
            self.identities[self.groups_next] = (name, self.topics[name].topic_id, index)
            self.groups_next += 1

    def delete(self, name: str) -> None:
        self.topics[name] = replace(self.topics[name], state=TopicState.DELETING)

    def alter(self, name: str, retention: Retention) -> None:
        self.topics[name] = replace(self.topics[name], retention=retention)

    def carry_out(self, effect: ReconcileEffect) -> None:
        match effect:
            case CreateReplica(store_id, group, topic_id, topic, partition, retention=retention) if store_id in self.up:
                assert group in self.partitions, "a replica of a group without record"
                assert self.identities[group] == (topic, topic_id, partition)
                self.held[store_id].add(group)
                self.configured[store_id, group] = retention
            case ConfigureReplica(store_id, group, topic_id, retention) if store_id in self.up:
                assert self.identities[group][1] == topic_id
                assert group in self.held[store_id], "a replica that is not there is configured"
                self.configured[store_id, group] = retention
            case DeleteReplica(store_id, group, topic_id) if store_id in self.up:
                assert self.identities[group][1] == topic_id
                topic = self.topics.get(self.identities[group][0])
                assert (topic is not None and topic.state == TopicState.DELETING) or topic_id in self.deleted
                self.held[store_id].discard(group)
            case RecordPartitions(topic, missing):
                self.record(topic, missing)
            case MarkReady(topic):
                self.topics[topic] = replace(self.topics[topic], state=TopicState.READY)
            case RemoveRecords(topic):
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
            stores={s: StoreEntry(s, f"dn{s}", "up", f"u{s}") for s in self.stores},
            deleted_topics=self.deleted,
            datanodes={
                f"dn{s}": datanode(s, MemberState.LOADING if s in self.loading else MemberState.READY) for s in self.up
            },
        )

    def reports(self) -> Reports:
        return {s: report(s, *(self._replica(s, g) for g in sorted(self.held[s]))) for s in self.up - self.loading}

    def _replica(self, store_id: int, group: int) -> ReplicaStatus:
        """A group with a majority is led by its lowest reachable store."""
        members = self.partitions[group].replicas if group in self.partitions else (store_id,)
        able = sorted(s for s in members if s in self.up - self.loading and group in self.held[s])
        state, leader, term = ReplicaState.CANDIDATE, 0, 1
        if len(able) > len(members) // 2:
            state, leader, term = ReplicaState.FOLLOWER, able[0], able[0]
            if leader == store_id:
                state = ReplicaState.LEADER
        topic, topic_id, partition = self.identities[group]
        return replica(
            group,
            state=state,
            leader_store_id=leader,
            term=term,
            retention=self.configured.get((store_id, group), FOR_EVER),
            topic=topic,
            topic_id=topic_id,
            partition=partition,
        )
