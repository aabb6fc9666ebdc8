"""Another replication of a topic that exists: from any interruption to an end, and whoever joins counts before anybody goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.nameserver.alteration import altered
from stele.nameserver.catalog import StoreState, TopicState
from stele.nameserver.effects import (
    ChangeMember,
    DeleteLeft,
    MemberRole,
    ReconcileEffect,
    RecordArrived,
    RecordLeft,
    TransferLeadership,
)
from stele.nameserver.moves import UNLIMITED, BeginMove, Cause, EnterTombstone, MoveLimits, MovePlan, due
from stele.nameserver.operations import operations
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import leaders
from stele.nameserver.resizing import due_resizes, plan_resizes
from stele.nameserver.strays import set_apart
from stele.nameserver.view import View
from stele.services.coordination.records import TopicRecord
from stele.services.errors import InvalidArgument, NotReady
from stele.services.pb.nameserver_pb2 import AlterTopicRequest
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver import test_moves
from tests.unit.nameserver.world import World

Effect = ReconcileEffect | BeginMove | EnterTombstone
Resizer = Callable[..., MovePlan]


ready_world = partial(test_moves.ready_world, stores=5)


def planned(
    world: World,
    down: frozenset[int] = frozenset(),
    limits: MoveLimits = MoveLimits(),
    resizer: Resizer | None = None,
) -> list[Effect]:
    """As the controller does it."""
    catalog = world.catalog()
    reports = set_apart(catalog, world.reports())
    led = leaders(reports)
    begun = due(catalog, reports, led, down, limits)
    if resizer is not None:
        return [*plan(catalog, reports, led), *resizer(catalog, reports, led, limits).moves]
    return [*plan(catalog, reports, led), *begun, *due_resizes(catalog, reports, led, begun, limits)]


def settle(world: World, rounds: int = 400, resizer: Resizer | None = None) -> list[Effect]:
    return world.settle(lambda: planned(world, resizer=resizer), rounds)


def assert_whole(world: World, replication: int) -> None:
    for group, partition in world.partitions.items():
        assert not partition.target
        assert not partition.leaving
        assert world.voters[group] == set(partition.replicas)
        assert len(partition.replicas) == replication
        assert not world.learners[group]
    for store_id in world.stores:
        if world.states.get(store_id) != StoreState.TOMBSTONE:
            assert world.held[store_id] == {g for g, p in world.partitions.items() if store_id in p.replicas}


def test_more_replicas_join_as_learners_then_count_and_nobody_goes() -> None:
    world = ready_world(1)
    world.replicate("demo/t", 5)
    done = settle(world)
    assert [e.target for e in done if isinstance(e, BeginMove)] == [(1, 2, 3, 5, 4)]
    roles = [(e.member, e.role) for e in done if isinstance(e, ChangeMember)]
    assert sorted(roles) == [(s, r) for s in (4, 5) for r in (MemberRole.LEARNER, MemberRole.VOTER)]
    assert sum(isinstance(e, RecordArrived) for e in done) == 1
    assert not any(isinstance(e, RecordLeft | DeleteLeft | TransferLeadership) for e in done)
    assert_whole(world, 5)


def test_fewer_replicas_go_one_by_one_and_the_leaders_stays() -> None:
    world = ready_world(3)
    world.replicate("demo/t", 5)
    settle(world)
    led = {g: world.leader(g) for g in world.partitions}
    world.replicate("demo/t", 2)
    done = settle(world)
    assert not any(isinstance(e, TransferLeadership) for e in done)
    assert {g: world.leader(g) for g in world.partitions} == led
    assert all(led[g] in p.replicas for g, p in world.partitions.items())
    assert sum(isinstance(e, DeleteLeft) for e in done) == 9
    assert_whole(world, 2)


async def test_replicas_on_stores_that_do_not_answer_are_given_up_first() -> None:
    async def scenario(resizer: Resizer) -> None:
        world = ready_world(4)
        for away in (1, 2, 3):
            world = ready_world(4)
            world.up.discard(away)
            world.replicate("demo/t", 2)
            with promise("replicas on stores that do not answer are given up first"):
                settle(world, resizer=resizer)
                assert not any(away in p.replicas for p in world.partitions.values())
                assert all(world.leader(g) for g in world.partitions)

    await holds_and_mutant_fails(scenario, plan_resizes, "resizing.keeps_the_first")


def test_nothing_is_given_up_while_most_of_those_that_would_stay_do_not_answer() -> None:
    world = ready_world(1)
    world.replicate("demo/t", 5)
    settle(world)
    world.up -= {4, 5}
    world.replicate("demo/t", 4)
    world.up.discard(world.partitions[1].replicas[2])
    assert not [e for e in planned(world) if isinstance(e, BeginMove)], "nobody leads"
    world.up = {1, 2, 3}
    catalog, reports = world.catalog(), world.reports()
    found = plan_resizes(catalog, reports, leaders(reports))
    assert [m.target for m in found.moves] != []
    assert sum(s in world.up for s in found.moves[0].target) == 3, "three of four answer"


def test_it_is_turned_back_by_asking_for_the_former_replication() -> None:
    world = ready_world(2)
    world.up.discard(5)
    world.replicate("demo/t", 4)
    for _ in range(3):
        for effect in planned(world):
            if not isinstance(effect, RecordArrived):
                world.carry_out(effect)
    assert all(p.target for p in world.partitions.values())
    world.replicate("demo/t", 3)
    settle(world)
    assert_whole(world, 3)


def test_a_partition_waits_for_a_store_that_can_take_its_replica_and_says_so() -> None:
    world = ready_world(1, stores=4)
    world.replicate("demo/t", 5)
    world.up.discard(4)
    catalog, reports = world.catalog(), world.reports()
    (stay,) = plan_resizes(catalog, reports, leaders(reports)).stays
    assert "no other store is up, ready, heard" in stay.why
    (found,) = operations(View(catalog, reports, leaders(reports)), 0)
    assert (found.id, found.step) == ("alter-1", "0 of 1 partition with 5 replicas")
    assert list(found.problems) == [f"demo/t-0: {stay.why}"]
    world.up.add(4)
    settle(world)
    assert len(world.voters[1]) == 4, "as many as there are"


def test_no_more_partitions_at_a_time_are_resized_than_the_limits_say() -> None:
    world = ready_world(8)
    world.log_bytes = {g: 1000 - g for g in world.partitions}
    world.replicate("demo/t", 4)
    limits = MoveLimits(3, 8)
    begun = [e for e in planned(world, limits=limits) if isinstance(e, BeginMove)]
    assert [e.group for e in begun] == [8, 7, 6], "the cheapest first"
    for effect in begun:
        world.carry_out(effect)
    assert not [e for e in planned(world, limits=limits) if isinstance(e, BeginMove)]
    catalog, reports = world.catalog(), world.reports()
    assert len(plan_resizes(catalog, reports, leaders(reports), UNLIMITED).moves) == 5
    (alter, *moves) = operations(View(catalog, reports, leaders(reports)), 0)
    assert alter.step == "0 of 8 partitions with 4 replicas"
    assert len(moves) == 3


def test_a_store_that_goes_while_a_topic_is_resized_goes_all_the_same() -> None:
    world = ready_world(3)
    world.replicate("demo/t", 4)
    for effect in planned(world):
        world.carry_out(effect)
    world.states[5] = StoreState.OFFLINE
    settle(world)
    assert world.states[5] == StoreState.TOMBSTONE
    assert_whole(world, 4)


actions = st.one_of(
    st.tuples(st.just("replicate"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("offline"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("kill"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("start"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("grow"), st.integers(3, 6), st.just(0)),
    st.tuples(st.just("work"), st.integers(0, 5), st.integers(1, 8)),
    st.tuples(st.just("work"), st.integers(0, 5), st.integers(1, 8)),
    st.tuples(st.just("repair"), st.integers(1, 6), st.integers(1, 8)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=40))
def test_any_interrupted_history_of_resizes_comes_to_its_end(history: list[tuple[str, int, int]]) -> None:
    """As that of moves: a part of a plan is carried out and the rest forgotten.  The world asserts that no voter that is there goes while
    the group has no more than its topic asks for, never the leader, and that nothing is deleted that counts."""
    world = ready_world(3, stores=6)
    topic = "demo/t"
    for action, number, amount in history:
        match action:
            case "replicate":
                world.replicate(topic, number)
            case "grow" if number > max(world.topics[topic].partitions, world.topics[topic].growing_to):
                world.grow(topic, number)
            case "offline":
                up = [s for s in world.stores if s not in world.states]
                if number in up and len(up) > 4:
                    world.states[number] = StoreState.OFFLINE
            case "cancel" if world.states.get(number) == StoreState.OFFLINE:
                del world.states[number]
            case "kill":
                world.up.discard(number)
            case "start" if world.states.get(number) != StoreState.TOMBSTONE:
                world.up.add(number)
            case "work":
                for effect in planned(world)[number : number + amount]:
                    world.carry_out(effect)
            case "repair":
                for effect in planned(world, down=frozenset({number} - world.up))[:amount]:
                    world.carry_out(effect)
        world.catalog().validate()
    world.up = {s for s in world.stores if world.states.get(s) != StoreState.TOMBSTONE}
    settle(world)
    assert_whole(world, world.topics[topic].replication)
    assert not any(world.states.get(s) == StoreState.OFFLINE for s in world.stores)


def test_a_replication_is_asked_for_together_with_partitions_or_alone() -> None:
    ready = TopicRecord(id=1, partitions=2, replication=3, state=TopicState.READY, created_ms=0)
    asked = AlterTopicRequest(topic="demo/t", replication=5)
    assert altered("demo/t", ready, asked) == replace(ready, replication=5)
    both = AlterTopicRequest(topic="demo/t", replication=2, partitions=4)
    assert altered("demo/t", ready, both) == replace(ready, replication=2, growing_to=4)
    with pytest.raises(InvalidArgument):
        altered("demo/t", ready, AlterTopicRequest(topic="demo/t", replication=2, partitions=1))
    with pytest.raises(NotReady):
        altered("demo/t", replace(ready, state=TopicState.CREATING), asked)


def test_a_move_for_a_replication_is_listed_with_its_cause() -> None:
    world = ready_world(1)
    world.replicate("demo/t", 4)
    (begun,) = [e for e in planned(world) if isinstance(e, BeginMove)]
    assert begun.cause is Cause.REPLICATION
