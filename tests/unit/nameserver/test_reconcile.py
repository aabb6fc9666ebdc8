"""Reconciliation: from any half-done state to what the records say, and nothing destroyed on a guess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, StoreEntry, TopicEntry, TopicState
from stele.nameserver.effects import (
    ChangeMember,
    ConfigureReplica,
    CreateReplica,
    DeleteReplica,
    MarkReady,
    MemberRole,
    ReconcileEffect,
    RecordMaterialised,
    RecordPartitions,
    RemoveRecords,
)
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import ReplicaState, Reports, StoreReport, disconnected, leaders
from stele.nameserver.strays import set_apart
from stele.services.intervals import IntervalSet
from stele.services.pb.datanode_pb2 import ReplicaStatus
from stele.services.topics import Retention
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.world import World, datanode, replica, report

Planner = Callable[..., list[ReconcileEffect]]


def planned(catalog: Catalog, reports: Reports) -> list[ReconcileEffect]:
    known = set_apart(catalog, reports)
    return plan(catalog, known, leaders(known))


def catalog_of(
    topic: TopicEntry,
    *partitions: PartitionEntry,
    stores: tuple[int, ...] = (1, 2, 3),
    deleted_topics: IntervalSet = IntervalSet(),
) -> Catalog:
    return Catalog(
        deleted_topics=deleted_topics,
        topics={topic.name: topic},
        partitions={p.group: p for p in partitions},
        datanodes={f"dn{s}": datanode(s) for s in stores},
    )


CREATING = TopicEntry("demo/t", 1, 1, 3, TopicState.CREATING)
PARTITION = PartitionEntry(7, "demo/t", 0, (1, 2, 3))
READY = replace(CREATING, state=TopicState.READY)
RECORDED = replace(PARTITION, materialised=(1, 2, 3))
CREATE = [CreateReplica(s, 7, 1, "demo/t", 0, (1, 2, 3)) for s in (1, 2, 3)]


def test_replicas_are_created_where_they_are_certainly_missing() -> None:
    catalog = catalog_of(CREATING, PARTITION)
    assert planned(catalog, {s: report(s) for s in (1, 2, 3)}) == CREATE


def test_nothing_is_created_where_the_report_is_partial_or_broken() -> None:
    catalog = catalog_of(CREATING, PARTITION)
    assert planned(catalog, {1: report(1, complete=False), 2: disconnected(report(2))}) == []


async def test_r4_6_a_loading_store_gets_no_replica() -> None:
    catalog = replace(catalog_of(CREATING, PARTITION), datanodes={"dn1": datanode(1, MemberState.LOADING)})

    async def scenario(planner: Planner) -> None:
        with promise("a loading store is given no replicas"):
            assert planner(catalog, {1: report(1)}, {}) == []
            assert (
                planner(catalog_of(CREATING, PARTITION, stores=(1,)), {1: report(1, state=MemberState.LOADING)}, {})
                == []
            )

    await holds_and_mutant_fails(scenario, plan, "catalog.gives_to_the_loading")


async def test_r4_6_a_loading_store_is_no_candidate_for_placement() -> None:
    stores = {s: StoreEntry(s, f"dn{s}", "up", f"u{s}") for s in (1, 2)}
    members = {"dn1": datanode(1), "dn2": datanode(2, MemberState.LOADING)}
    catalog = Catalog(stores=stores, datanodes=members)

    async def scenario(seen: Catalog) -> None:
        with promise("a loading store is given no replicas"):
            assert seen.placeable_stores == (1,)

    await holds_and_mutant_fails(
        scenario, catalog, "catalog.counts_the_loading_as_ready", lambda mutant: mutant(catalog)
    )


def test_a_store_that_is_being_removed_is_no_candidate() -> None:
    stores = {1: StoreEntry(1, "dn1", "offline", "u1"), 2: StoreEntry(2, "dn2", "up", "u2")}
    catalog = Catalog(stores=stores, datanodes={f"dn{s}": datanode(s) for s in (1, 2, 3)})
    assert catalog.placeable_stores == (2,)


def test_a_quarantined_replica_is_not_created_anew() -> None:
    catalog = catalog_of(replace(CREATING, state=TopicState.READY), RECORDED, stores=(1,))
    assert planned(catalog, {1: report(1, replica(7, state=ReplicaState.QUARANTINED))}) == []


def test_p1_a_replica_that_cannot_even_say_what_it_is_of_is_not_created_anew() -> None:
    catalog = catalog_of(CREATING, RECORDED, stores=(1,))
    failed = ReplicaStatus(group=7, state=ReplicaState.FAILED, problem="group.json: Too many open files")
    assert planned(catalog, {1: report(1, failed)}) == []


def leading(*voters: int, learners: tuple[int, ...] = (), settled: bool = True) -> ReplicaStatus:
    status = replica(7, ReplicaState.LEADER, leader_store_id=1, term=2, voters=voters, learners=learners)
    status.members_settled = settled
    return status


def following(state: ReplicaState = ReplicaState.FOLLOWER) -> ReplicaStatus:
    return replica(7, state, leader_store_id=1, term=2)


async def test_p2_what_a_store_has_lost_is_not_begun_anew() -> None:
    async def scenario(planner: Planner) -> None:
        reports = {1: report(1, following()), 2: report(2)}
        with promise("a replica that was lost comes back as a learner"):
            for topic, partition in ((READY, RECORDED), (READY, PARTITION), (CREATING, RECORDED)):
                effects = planner(catalog_of(topic, partition), reports, leaders(reports))
                assert not any(isinstance(e, CreateReplica) for e in effects), effects

    await holds_and_mutant_fails(scenario, plan, "catalog.begins_the_lost_anew")


async def test_p2_a_store_that_lost_its_replica_leaves_joins_and_counts_again() -> None:
    """Each step follows from what the leader says of its members."""

    async def scenario(planner: Planner) -> None:
        catalog = catalog_of(READY, RECORDED)

        def step(said: ReplicaStatus, lost: StoreReport) -> list[ReconcileEffect]:
            reports = {1: report(1, said), 2: report(2, following()), 3: lost}
            return planner(catalog, reports, leaders(reports))

        with promise("a replica that was lost comes back as a learner"):
            assert step(leading(1, 2, 3), report(3)) == [ChangeMember(1, 7, 1, 3, MemberRole.NONE, lost=True)]
            assert step(leading(1, 2, settled=False), report(3)) == [], "its leaving may still be undone"
            assert step(leading(1, 2), report(3)) == [CreateReplica(3, 7, 1, "demo/t", 0, ())]
            assert step(leading(1, 2), report(3, following())) == [ChangeMember(1, 7, 1, 3, MemberRole.LEARNER)]
            learning = leading(1, 2, learners=(3,))
            assert step(learning, report(3, following(ReplicaState.RECOVERING))) == []
            assert step(learning, report(3, following())) == [ChangeMember(1, 7, 1, 3, MemberRole.VOTER)]
            assert step(learning, report(3)) == [ChangeMember(1, 7, 1, 3, MemberRole.NONE, lost=True)], (
                "it was lost once more"
            )
            assert step(leading(1, 2, 3), report(3, following())) == []

    for mutant in ("catalog.begins_the_lost_anew", "catalog.joins_before_it_has_left"):
        await holds_and_mutant_fails(scenario, plan, mutant)


async def test_p2_what_a_store_has_set_aside_and_cannot_start_leaves_and_joins_again() -> None:
    """Its vote is not readable, for example: it may have promised what it does not know any more."""

    async def scenario(planner: Planner) -> None:
        aside = replica(7, ReplicaState.QUARANTINED)

        def step(said: ReplicaStatus, state: str = MemberState.READY) -> list[ReconcileEffect]:
            reports = {1: report(1, said), 2: report(2, following()), 3: report(3, aside, state=state)}
            return planner(catalog_of(READY, RECORDED), reports, leaders(reports))

        with promise("a replica that was lost comes back as a learner"):
            assert step(leading(1, 2, 3), MemberState.LOADING) == [], "it may be started again yet"
            assert step(leading(1, 2, 3)) == [ChangeMember(1, 7, 1, 3, MemberRole.NONE)]
            assert step(leading(1, 2, settled=False)) == [], "its leaving may still be undone"
            assert step(leading(1, 2)) == [CreateReplica(3, 7, 1, "demo/t", 0, ())]

    await holds_and_mutant_fails(scenario, plan, "catalog.joins_before_it_has_left")


def test_p2_what_is_only_not_known_to_be_there_is_not_lost() -> None:
    catalog = catalog_of(READY, RECORDED)
    for unknown in (report(3, complete=False), disconnected(report(3)), report(3, state=MemberState.LOADING)):
        reports = {1: report(1, leading(1, 2, 3)), 3: unknown}
        assert planned(catalog, reports) == []
    failed = report(3, replica(7, ReplicaState.FAILED))
    assert planned(catalog, {1: report(1, leading(1, 2, 3)), 3: failed}) == []


def test_p2_without_a_leader_nothing_is_done_about_what_was_lost() -> None:
    """The others may follow again when one of them returns: whatever is begun here could only undo what was acknowledged."""
    reports = {2: report(2, replica(7, ReplicaState.CANDIDATE, term=3)), 3: report(3)}
    assert planned(catalog_of(READY, RECORDED), reports) == []


def test_p2_what_is_reported_is_recorded_before_the_topic_is_ready() -> None:
    reports = {1: report(1, leading(1, 2, 3)), 2: report(2, following())}
    recorded = RecordMaterialised("demo/t", 1, ((7, (1, 2)),))
    assert planned(catalog_of(CREATING, PARTITION, stores=(1, 2)), reports) == [recorded]
    known = replace(PARTITION, materialised=(1, 2))
    assert planned(catalog_of(CREATING, known, stores=(1, 2)), reports) == [MarkReady("demo/t", 1)]


def test_p2_the_replicas_of_a_topic_of_before_are_recorded_as_they_are_seen() -> None:
    reports = {s: report(s, following()) for s in (1, 2, 3)}
    assert planned(catalog_of(READY, PARTITION), reports) == [RecordMaterialised("demo/t", 1, ((7, (1, 2, 3)),))]


def test_p2_a_topic_that_is_being_deleted_takes_nobody_back() -> None:
    catalog = catalog_of(replace(READY, state=TopicState.DELETING), RECORDED)
    reports = {1: report(1, leading(1, 2)), 3: report(3)}
    assert planned(catalog, reports) == [DeleteReplica(1, 7, 1)]


def test_a_topic_is_ready_once_each_partition_has_a_leader_that_says_so_itself() -> None:
    catalog = catalog_of(CREATING, RECORDED)
    follower = replica(7, state=ReplicaState.FOLLOWER, leader_store_id=1, term=2)
    leader = replica(7, state=ReplicaState.LEADER, leader_store_id=1, term=2)
    assert planned(catalog, {2: report(2, follower), 3: report(3, follower)}) == []
    assert planned(catalog, {1: report(1, leader), 2: report(2, follower)}) == [MarkReady("demo/t", 1)]


def test_partitions_that_an_interrupted_create_left_out_are_recorded() -> None:
    catalog = catalog_of(replace(CREATING, partitions=3), RECORDED)
    reports = {1: report(1, replica(7, state=ReplicaState.LEADER, term=1))}
    assert planned(catalog, reports) == [RecordPartitions("demo/t", 1, (1, 2))]


def test_a_deleted_topics_replicas_go_before_its_records() -> None:
    catalog = catalog_of(replace(CREATING, state=TopicState.DELETING), RECORDED)
    held = {1: report(1, replica(7)), 2: report(2)}
    assert planned(catalog, held) == [DeleteReplica(1, 7, 1)]
    assert planned(catalog, {1: report(1), 2: report(2)}) == [RemoveRecords("demo/t", 1)]


def test_a_delete_does_not_wait_for_a_store_that_cannot_be_asked() -> None:
    catalog = catalog_of(replace(CREATING, state=TopicState.DELETING), RECORDED)
    assert planned(catalog, {1: disconnected(report(1, replica(7)))}) == [RemoveRecords("demo/t", 1)]


def test_a_replica_that_was_told_another_retention_is_told_the_topics_own() -> None:
    week = Retention(age_ms=7 * 86_400_000)
    catalog = catalog_of(replace(CREATING, state=TopicState.READY, retention=week), RECORDED)
    reports = {
        1: report(1, replica(7, state=ReplicaState.LEADER, term=1, retention=week)),
        2: report(2, replica(7, state=ReplicaState.FOLLOWER)),
        3: report(3, replica(7, state=ReplicaState.LOADING)),
    }
    assert planned(catalog, reports) == [ConfigureReplica(2, 7, 1, week)]
    assert planned(catalog, {2: disconnected(reports[2])}) == []
    deleting = replace(catalog, topics={"demo/t": replace(CREATING, state=TopicState.DELETING, retention=week)})
    assert planned(deleting, {2: reports[2]}) == [DeleteReplica(2, 7, 1)]


def test_a_new_replica_is_created_with_its_topics_retention() -> None:
    small = Retention(size_bytes=1 << 20)
    catalog = catalog_of(replace(CREATING, retention=small), PARTITION)
    assert planned(catalog, {2: report(2)}) == [CreateReplica(2, 7, 1, "demo/t", 0, (1, 2, 3), small)]


def test_p3_a_delete_does_not_wait_for_a_replica_whose_files_are_not_readable() -> None:
    catalog = catalog_of(replace(CREATING, state=TopicState.DELETING), PARTITION)
    unreadable = replica(7, topic="", topic_id=0, state=ReplicaState.FAILED)
    assert planned(catalog, {1: report(1, unreadable)}) == [RemoveRecords("demo/t", 1)]


async def test_p3_what_no_record_speaks_for_is_kept() -> None:
    """ZooKeeper lost the records of a topic, or of all: that says nothing about the data."""
    held = {1: report(1, replica(7), replica(49, topic_id=3), replica(99, topic="", topic_id=0))}
    others = catalog_of(TopicEntry("demo/u", 2, 1, 3, TopicState.READY), deleted_topics=IntervalSet.of([(1, 2)]))

    async def scenario(planner: Planner) -> None:
        for catalog in (Catalog(datanodes={"dn1": datanode(1)}), replace(others, deleted_topics=IntervalSet())):
            with promise("what no record speaks for is kept"):
                assert planner(catalog, set_apart(catalog, held), {}) == []

    await holds_and_mutant_fails(scenario, plan, "catalog.drops_orphans")


def test_p3_what_a_store_that_was_away_holds_of_a_deleted_topic_is_deleted_by_its_id() -> None:
    catalog = catalog_of(TopicEntry("demo/t", 2, 1, 3, TopicState.READY), deleted_topics=IntervalSet.of([(1, 1)]))
    held = report(1, replica(7), replica(8, topic_id=3), replica(9, topic_id=0))
    assert planned(catalog, {1: held}) == [DeleteReplica(1, 7, 1)]
    assert planned(catalog, {1: disconnected(held)}) == []
    # A group that was given to another topic since is not deleted even then: its record does not speak for what is there.
    given_again = replace(catalog, partitions={7: replace(PARTITION, replicas=(2, 3))})
    assert planned(given_again, {1: held}) == []


def test_p3_what_is_left_of_a_deletion_whose_records_went_in_parts_is_deleted() -> None:
    catalog = catalog_of(replace(CREATING, state=TopicState.DELETING))
    assert DeleteReplica(1, 7, 1) in planned(catalog, {1: report(1, replica(7))})


actions = st.one_of(
    st.tuples(st.just("create"), st.integers(1, 3), st.integers(1, 5)),
    st.tuples(st.just("delete"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("alter"), st.integers(1, 3), st.integers(0, 2)),
    st.tuples(st.just("grow"), st.integers(1, 3), st.integers(2, 8)),
    st.tuples(st.just("kill"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("start"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("load"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("lose"), st.integers(1, 4), st.integers(1, 12)),
    st.tuples(st.just("work"), st.integers(0, 4), st.integers(0, 6)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=25))
def test_any_interrupted_history_ends_as_the_records_say(history: list[tuple[str, int, int]]) -> None:
    """ "work" carries out a part of a plan and forgets the rest: a leader that died in between."""
    world = World()
    for action, number, amount in history:
        name = f"demo/t{number}"
        match action:
            case "create" if name not in world.topics:
                world.create(name, amount, recorded=min(amount, number))
            case "delete" if name in world.topics:
                world.delete(name)
            case "alter" if name in world.topics:
                world.alter(name, Retention(size_bytes=amount << 20))
            case "grow" if name in world.topics and amount > world.topics[name].partitions:
                if world.topics[name].state == TopicState.READY and amount > world.topics[name].growing_to:
                    world.grow(name, amount)
            case "kill":
                world.up.discard(number)
                world.loading.discard(number)
            case "start":
                world.up.add(number)
                world.loading.discard(number)
            case "load":
                world.up.add(number)
                world.loading.add(number)
            case "lose":
                world.lose(number, amount)
            case "work":
                for effect in planned(world.catalog(), world.reports())[number : number + amount]:
                    world.carry_out(effect)
        world.catalog().validate()

    world.up, world.loading = set(world.stores), set()
    for _ in range(40):
        effects = planned(world.catalog(), world.reports())
        if not effects:
            break
        for effect in effects:
            world.carry_out(effect)
        world.catalog().validate()
    assert not planned(world.catalog(), world.reports())
    for topic in world.topics.values():
        assert topic.state == TopicState.READY
        groups = {g: p for g, p in world.partitions.items() if p.topic == topic.name}
        assert len(groups) == topic.partitions
        assert not topic.growing_to
        assert {world.configured[s, g] for g, p in groups.items() for s in p.replicas} <= {topic.retention}
    assert all(world.voters[g] == set(p.replicas) and not world.learners[g] for g, p in world.partitions.items())
    for store_id in world.stores:
        assert world.held[store_id] == {g for g, p in world.partitions.items() if store_id in p.replicas}
