"""Moving replicas off a store: from any interruption to an end, never below a majority, nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.nameserver.absence import Absence
from stele.nameserver.catalog import Catalog, NamespaceEntry, RackRule, StoreEntry, StoreState, TopicEntry, TopicState
from stele.nameserver.effects import (
    ChangeMember,
    CreateReplica,
    DeleteLeft,
    MemberRole,
    ReconcileEffect,
    RecordExtra,
    RecordGone,
    RecordLeft,
    TellRemoved,
    TransferLeadership,
)
from stele.nameserver.moves import (
    BeginMove,
    Cause,
    EnterTombstone,
    MoveLimits,
    check_may_go,
    due,
    highest_replication,
    hindrance,
    left_on,
    others_up,
    plan_moves,
)
from stele.nameserver.placement import place
from stele.nameserver.reconcile import plan, tells
from stele.nameserver.reports import disconnected, leaders
from stele.nameserver.strays import set_apart
from stele.services.errors import NotEnoughStores
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.world import World, report

Effect = ReconcileEffect | BeginMove | EnterTombstone


Planner = Callable[..., list[ReconcileEffect]]


def planned(
    world: World, down: frozenset[int] = frozenset(), limits: MoveLimits = MoveLimits(), planner: Planner = plan
) -> list[Effect]:
    catalog = world.catalog()
    reports = set_apart(catalog, world.reports())
    led = leaders(reports)
    return [*planner(catalog, reports, led), *due(catalog, reports, led, down, limits)]


def settle(world: World, down: frozenset[int] = frozenset(), rounds: int = 400) -> list[Effect]:
    """Carries everything out until nothing is due; what was done."""
    return world.settle(lambda: planned(world, down), rounds)


def ready_world(partitions: int, stores: int = 4) -> World:
    world = World(
        stores=tuple(range(1, stores + 1)),
        up=set(range(1, stores + 1)),
        held={s: set() for s in range(1, stores + 1)},
    )
    world.create("demo/t", partitions, partitions)
    settle(world)
    return world


def steps_of(done: list[Effect], group: int) -> list[Effect]:
    return [e for e in done if getattr(e, "group", 0) == group]


def test_the_steps_of_a_move_come_in_their_order() -> None:
    world = ready_world(1)
    assert world.partitions[1].replicas == (1, 2, 3)
    world.states[1] = "offline"
    done = steps_of(settle(world), 1)
    kinds = [(type(e), getattr(e, "role", None)) for e in done]
    expected = [
        (BeginMove, None),
        (CreateReplica, None),
        (ChangeMember, MemberRole.LEARNER),
        (ChangeMember, MemberRole.VOTER),
        (ChangeMember, MemberRole.NONE),
        (RecordLeft, None),
        (DeleteLeft, None),
        (RecordGone, None),
    ]
    assert [k for k in kinds if k in expected] == expected
    assert world.partitions[1].replicas == (4, 2, 3)
    assert world.voters[1] == {2, 3, 4}
    assert not world.learners[1]
    assert world.states[1] == "tombstone"


def test_leaders_go_first_and_to_the_store_that_leads_least() -> None:
    world = ready_world(4)
    world.states[1] = "offline"
    effects = planned(world)
    handed = [e for e in effects if isinstance(e, TransferLeadership)]
    assert {e.group for e in handed} == {g for g in world.partitions if world.leader(g) == 1}
    assert all(e.successor in world.partitions[e.group].replicas and e.successor != 1 for e in handed)
    assert len({e.successor for e in handed}) > 1, "one store is given all of them"


def test_a_move_off_the_leader_waits_until_it_has_handed_over() -> None:
    world = ready_world(1)
    world.carry_out(BeginMove(1, (1, 2, 3), (4, 2, 3), Cause.OPERATOR, 1, 4))
    done = settle(world)
    handed = next(i for i, e in enumerate(done) if isinstance(e, TransferLeadership))
    left = next(i for i, e in enumerate(done) if isinstance(e, ChangeMember) and e.role is MemberRole.NONE)
    assert handed < left
    assert world.partitions[1].replicas == (4, 2, 3)
    assert world.partitions[1].leaving == ()


def test_nothing_goes_while_a_wanted_store_is_no_voter() -> None:
    world = ready_world(1)
    world.carry_out(BeginMove(1, (1, 2, 3), (1, 2, 4), Cause.OPERATOR, 3, 4))
    world.up.discard(4)
    assert planned(world) == []
    world.up.add(4)
    settle(world)
    assert world.voters[1] == {1, 2, 4}


def test_a_replica_that_no_record_gives_up_is_not_deleted() -> None:
    """The group counts store 3 no more, and the record still names it: that is said first, and deleted after."""
    world = ready_world(1)
    world.carry_out(BeginMove(1, (1, 2, 3), (1, 2, 4), Cause.OPERATOR, 3, 4))
    while 3 in world.voters[1]:
        for effect in planned(world):
            world.carry_out(effect)
    effects = planned(world)
    assert RecordLeft(1, 3) in effects
    assert not any(isinstance(e, DeleteLeft) for e in effects)


def test_a_store_that_is_away_deletes_what_it_left_once_it_is_back() -> None:
    world = ready_world(1)
    world.up.discard(3)
    settle(world, down=frozenset({3}))
    assert world.partitions[1].replicas == (1, 2, 4)
    assert world.partitions[1].leaving == (3,)
    world.up.add(3)
    done = settle(world)
    assert [type(e) for e in steps_of(done, 1)] == [DeleteLeft, RecordGone]
    assert world.held[3] == set()
    assert world.partitions[1].leaving == ()


def test_a_replica_that_came_late_is_given_up_by_a_record_before_it_is_deleted() -> None:
    world = ready_world(1)
    world.held[4].add(1)
    assert planned(world) == [RecordExtra(1, 4)]
    settle(world)
    assert world.held[4] == set()
    assert world.voters[1] == {1, 2, 3}


def test_a_member_that_no_record_names_leaves_its_group() -> None:
    world = ready_world(1)
    world.held[4].add(1)
    world.learners[1].add(4)
    assert ChangeMember(1, 1, 1, 4, MemberRole.NONE) in planned(world)
    settle(world)
    assert world.learners[1] == set()
    assert world.held[4] == set()


def test_the_cheapest_moves_come_first_and_no_more_than_the_limits_say() -> None:
    world = ready_world(8, stores=5)
    world.log_bytes = {g: 1000 - g for g in world.partitions}
    world.states[1] = "offline"
    on_it = [g for g, p in world.partitions.items() if 1 in p.replicas]
    begun = [e for e in planned(world, limits=MoveLimits(8, 3)) if isinstance(e, BeginMove)]
    assert [e.group for e in begun] == sorted(on_it, reverse=True)[:3]
    for effect in begun:
        world.carry_out(effect)
    assert not [e for e in planned(world, limits=MoveLimits(8, 3)) if isinstance(e, BeginMove)]
    catalog, reports = world.catalog(), world.reports()
    whole = plan_moves(catalog, reports, leaders(reports), {1: Cause.DECOMMISSION})
    assert {m.group for m in whole.moves} == {*on_it} - {e.group for e in begun}, "a dry run shows all that is left"


def test_what_does_not_move_is_named_with_the_reason() -> None:
    world = ready_world(1, stores=4)
    world.up.discard(4)
    catalog, reports = world.catalog(), world.reports()
    found = plan_moves(catalog, reports, leaders(reports), {1: Cause.DECOMMISSION})
    assert not found.moves
    assert "no other store is up, ready, heard" in found.stays[0].why
    world.up = {1, 2, 3, 4}
    full = {s: replace(r, status=type(r.status)(store_id=s, state="ready")) for s, r in world.reports().items()}
    world.log_bytes[1] = 5
    sized = {**world.reports(), 4: full[4]}
    assert "has room" in plan_moves(world.catalog(), sized, leaders(sized), {1: Cause.DECOMMISSION}).stays[0].why
    silent = {s: disconnected(r) for s, r in world.reports().items()}
    stays = plan_moves(world.catalog(), silent, leaders(silent), {1: Cause.DECOMMISSION}).stays
    assert stays[0].why == "its partition has no leader"


def test_a_cordoned_store_gets_nothing_and_keeps_what_it_has() -> None:
    world = ready_world(2, stores=5)
    catalog, reports = world.catalog(), world.reports()
    assert sorted(catalog.placeable_stores) == [1, 2, 3, 4, 5]
    cordoned = replace(catalog, stores={**catalog.stores, 4: replace(catalog.stores[4], cordoned=True)})
    assert (cordoned.serving_stores, cordoned.placeable_stores) == ((1, 2, 3, 4, 5), (1, 2, 3, 5))
    assert {m.to for m in plan_moves(cordoned, reports, leaders(reports), {1: Cause.DECOMMISSION}).moves} <= {2, 3, 5}
    assert plan(cordoned, reports, leaders(reports)) == plan(catalog, reports, leaders(reports)), "nothing leaves it"
    partition = next(p for p in cordoned.partitions.values() if 4 not in p.replicas)
    assert hindrance(cordoned, reports, partition, 4, 0) == "is cordoned"
    assert [s.store_id for s in others_up(cordoned, 1)] == [2, 3, 5]
    assert 4 not in {s for replicas in place(6, 3, cordoned.placeable_stores, {}) for s in replicas}


async def test_a_group_has_as_many_voters_as_before_until_the_new_replica_counts() -> None:
    async def scenario(planner: Planner) -> None:
        world = ready_world(1)
        world.carry_out(BeginMove(1, (1, 2, 3), (1, 2, 4), Cause.OPERATOR, 3, 4))
        with promise("a group has as many voters as before until the new replica counts"):
            for _ in range(12):
                for effect in planned(world, planner=planner):
                    world.carry_out(effect)
                assert len(world.voters[1]) >= 3
            assert world.voters[1] == {1, 2, 4}

    await holds_and_mutant_fails(scenario, plan, "moves.leaves_first")


async def test_a_replica_is_deleted_by_a_record_that_says_so() -> None:
    async def scenario(planner: Planner) -> None:
        world = ready_world(1)
        world.held[4].add(1)
        with promise("a replica is deleted by a record that says so, never for want of one"):
            for _ in range(4):
                for effect in planned(world, planner=planner):
                    world.carry_out(effect)
            assert world.held[4] == set()

    await holds_and_mutant_fails(scenario, plan, "moves.deletes_what_is_not_named")


async def test_r2_7_a_store_goes_only_while_enough_others_are_up() -> None:
    world = ready_world(1)
    world.up.discard(2)
    store = world.catalog().stores[1]

    async def scenario(check: Callable[[Catalog, StoreEntry], None]) -> None:
        with promise("a store goes only while enough others are up"), pytest.raises(NotEnoughStores, match="2 stores"):
            check(world.catalog(), store)

    await holds_and_mutant_fails(scenario, check_may_go, "moves.counts_every_store")
    world.up.add(2)
    check_may_go(world.catalog(), store)


async def test_nothing_is_built_anew_while_most_of_the_cluster_is_not_heard() -> None:
    async def scenario(make: Callable[[float], Absence]) -> None:
        world, absence = ready_world(1), make(10.0)
        world.up = {1, 2}
        with promise("nothing is built anew while most of the cluster is not heard"):
            for now_s in (0.0, 50.0, 100.0):
                assert absence.look(world.catalog(), world.reports(), now_s) == frozenset()

    await holds_and_mutant_fails(scenario, Absence, "moves.TakesSilenceForLoss")


def test_r2_7_what_counts_for_a_refusal() -> None:
    world = ready_world(1)
    catalog = world.catalog()
    assert len(others_up(catalog, 1)) == 3
    assert highest_replication(catalog) == 3
    world.states[2] = "offline"
    world.up.discard(3)
    assert [s.store_id for s in others_up(world.catalog(), 1)] == [4]
    unused = replace(catalog, namespaces={**catalog.namespaces, "spare": NamespaceEntry("spare", 16, 9)})
    assert highest_replication(unused) == 3, "nobody uses it"
    wide = replace(catalog, topics={**catalog.topics, "demo/w": TopicEntry("demo/w", 9, 1, 5, TopicState.READY)})
    assert highest_replication(wide) == 5
    assert highest_replication(Catalog()) == 0


def test_a_store_is_no_tombstone_while_it_holds_anything_or_is_not_heard() -> None:
    world = ready_world(1, stores=4)
    world.states[4] = "offline"
    catalog = world.catalog()
    assert due(catalog, world.reports(), {}) == [EnterTombstone(4)]
    unheard = {**world.reports(), 4: disconnected(report(4))}
    assert due(catalog, unheard, {}) == []
    assert left_on(catalog, unheard, 4)
    world.up.discard(4)
    assert due(world.catalog(), world.reports(), {}) == [EnterTombstone(4)], "nobody will ask it"
    world.up.add(4)
    world.held[4].add(1)
    assert EnterTombstone(4) not in planned(world)


def test_r2_6_a_running_store_that_was_removed_is_told() -> None:
    world = ready_world(1)
    world.states[4] = "tombstone"
    assert TellRemoved(4) in tells(world.catalog(), world.reports())
    buried = replace(world.catalog(), stores={}, buried=world.deleted.add(4))
    assert tells(buried, {}) == [TellRemoved(4)]


def test_only_one_that_was_missed_long_enough_is_down_and_nobody_while_the_cluster_is_cold() -> None:
    world, absence = ready_world(1), Absence(10.0)
    world.up.discard(4)
    assert absence.look(world.catalog(), world.reports(), 0.0) == frozenset()
    assert absence.look(world.catalog(), world.reports(), 9.9) == frozenset()
    assert absence.look(world.catalog(), world.reports(), 10.0) == {4}
    silent = {s: disconnected(r) if s == 2 else r for s, r in world.reports().items()}
    assert absence.look(world.catalog(), silent, 11.0) == frozenset(), "two of four are not heard"
    absence.forget()
    assert absence.look(world.catalog(), world.reports(), 12.0) == frozenset()
    assert absence.look(world.catalog(), world.reports(), 22.0) == {4}
    world.up.add(4)
    assert absence.look(world.catalog(), world.reports(), 23.0) == frozenset()
    world.states[4] = "offline"
    world.up.discard(4)
    assert absence.look(world.catalog(), world.reports(), 99.0) == frozenset(), "an operator has spoken of it"


def test_a_store_that_comes_back_while_it_is_replaced_does_not_move_back() -> None:
    world = ready_world(3, stores=4)
    world.up.discard(1)
    for _ in range(3):
        for effect in planned(world, down=frozenset({1})):
            world.carry_out(effect)
    world.up.add(1)
    done = settle(world)
    assert not any(isinstance(e, BeginMove) and e.to == 1 for e in done)
    assert all(not p.target and not p.leaving for p in world.partitions.values())


def test_a_replica_moves_to_where_its_partition_is_on_no_fewer_racks() -> None:
    world = ready_world(1, stores=5)
    assert world.partitions[1].replicas == (1, 2, 3)
    world.racks = {1: "a", 2: "b", 3: "c", 4: "b", 5: "a"}
    world.states[1] = "offline"
    (begun,) = [e for e in planned(world) if isinstance(e, BeginMove)]
    assert begun.to == 5
    world.racks[5] = "c"
    (begun,) = [e for e in planned(world) if isinstance(e, BeginMove)]
    assert begun.to in (4, 5), "placed anyway"
    world.topics["demo/t"] = replace(world.topics["demo/t"], racks=RackRule.REQUIRE)
    assert not [e for e in planned(world) if isinstance(e, BeginMove)]
    catalog, reports = world.catalog(), world.reports()
    found = plan_moves(catalog, reports, leaders(reports), {1: Cause.DECOMMISSION})
    assert [s.why for s in found.stays] == [
        "its topic requires racks apart, and it would share a rack with another replica of its partition wherever it could go"
    ]


actions = st.one_of(
    st.tuples(st.just("offline"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("kill"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("start"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("lose"), st.integers(1, 5), st.integers(1, 4)),
    st.tuples(st.just("delete"), st.just(0), st.just(0)),
    st.tuples(st.just("work"), st.integers(0, 5), st.integers(1, 8)),
    st.tuples(st.just("repair"), st.integers(1, 5), st.integers(1, 8)),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(actions, max_size=40))
def test_any_interrupted_history_of_moves_comes_to_its_end(history: list[tuple[str, int, int]]) -> None:
    """ "work" carries out a part of a plan and forgets the rest, as a leader that died in between; the world asserts that no voter goes
    before its successor counts, and that nothing is deleted that counts or that no record gives up."""
    world = ready_world(4, stores=5)
    for action, number, amount in history:
        match action:
            case "offline":
                up = [s for s in world.stores if s not in world.states]
                if number in up and len(up) > 3:
                    world.states[number] = StoreState.OFFLINE
            case "cancel" if world.states.get(number) == StoreState.OFFLINE:
                del world.states[number]
            case "kill":
                world.up.discard(number)
            case "start" if world.states.get(number) != StoreState.TOMBSTONE:
                world.up.add(number)
            case "lose":
                world.lose(number, amount)
            case "delete" if "demo/t" in world.topics and amount == 0 and len(history) > 35:
                world.delete("demo/t")
            case "work":
                for effect in planned(world)[number : number + amount]:
                    world.carry_out(effect)
            case "repair":
                down = frozenset({number} - world.up)
                for effect in planned(world, down=down)[:amount]:
                    world.carry_out(effect)
        world.catalog().validate()
    world.up = {s for s in world.stores if world.states.get(s) != StoreState.TOMBSTONE}
    settle(world)
    for group, partition in world.partitions.items():
        assert not partition.target
        assert not partition.leaving
        assert world.voters[group] == set(partition.replicas)
        assert len(partition.replicas) == 3
        assert not any(s in world.states for s in partition.replicas)
    for store_id in world.stores:
        if world.states.get(store_id) != StoreState.TOMBSTONE:
            assert world.held[store_id] == {g for g, p in world.partitions.items() if store_id in p.replicas}
        assert world.states.get(store_id) != StoreState.OFFLINE, "nothing is left of it"


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_what_moved_after_a_copy_of_the_records_was_taken_moves_back_once_that_is_put_back(moved: int) -> None:
    """The world asserts at each step that nothing goes that counts."""
    world = ready_world(2, stores=6)
    copy = dict(world.partitions)
    for store_id in (1, 2, 3)[:moved]:
        world.states[store_id] = StoreState.OFFLINE
        settle(world)
    gone = {g for g, p in world.partitions.items() if p.replicas != copy[g].replicas}
    assert gone
    world.states.clear()
    world.up = set(world.stores)
    world.partitions = {g: replace(p, leaving=()) for g, p in copy.items()}
    settle(world)
    for group, partition in world.partitions.items():
        assert set(partition.replicas) == set(copy[group].replicas) == world.voters[group]
        assert {s for s in world.stores if group in world.held[s]} == world.voters[group]
