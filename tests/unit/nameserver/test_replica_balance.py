"""Evening replicas out: from any state and interruption to an end, never below a majority, nothing twice, the shortest logs first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stele.nameserver import replica_balance
from stele.nameserver.catalog import Catalog, Rebalance, StoreEntry
from stele.nameserver.effects import ReconcileEffect
from stele.nameserver.moves import BeginMove, Cause, EnterTombstone, MoveLimits, MovePlan
from stele.nameserver.reconcile import plan
from stele.nameserver.replica_balance import EndRebalance, plan_balance, waits_for
from stele.nameserver.reports import disconnected, leaders
from stele.nameserver.strays import set_apart
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver import test_moves
from tests.unit.nameserver.test_moves import ready_world
from tests.unit.nameserver.world import World

Effect = ReconcileEffect | BeginMove | EnterTombstone | EndRebalance
Plan = Callable[..., MovePlan]


def planned(world: World, limits: MoveLimits = MoveLimits()) -> list[Effect]:
    catalog = world.catalog()
    reports = set_apart(catalog, world.reports())
    led = leaders(reports)
    urgent = test_moves.planned(world)
    begun = [e for e in urgent if isinstance(e, BeginMove | EnterTombstone)]
    return [*urgent, *([] if begun else replica_balance.due(catalog, reports, led, limits))]


def settle(world: World, limits: MoveLimits = MoveLimits(), rounds: int = 600) -> list[Effect]:
    return world.settle(lambda: planned(world, limits), rounds)


def add_stores(world: World, *stores: int) -> None:
    world.stores = (*world.stores, *stores)
    world.up |= set(stores)
    for store_id in stores:
        world.held[store_id] = set()


def counts(world: World) -> Counter[int]:
    found = Counter({s: 0 for s in world.up if s not in world.states})
    found.update(s for p in world.partitions.values() for s in p.wanted)
    return found


def whole(world: World, decide: Plan = plan_balance) -> MovePlan:
    catalog = world.catalog()
    reports = set_apart(catalog, world.reports())
    return decide(catalog, reports, leaders(reports))


def test_by_an_operators_word_a_new_store_gets_its_share_and_then_it_ends() -> None:
    world = ready_world(8, stores=3)
    add_stores(world, 4)
    assert settle(world) == [], "nothing moves by itself"
    world.rebalance = Rebalance(1)
    done = settle(world)
    moved = [e for e in done if isinstance(e, BeginMove)]
    assert [e.to for e in moved] == [4] * 6
    assert {e.cause for e in moved} == {Cause.BALANCE}
    assert len({e.group for e in moved}) == 6
    assert sorted(counts(world).values()) == [6, 6, 6, 6]
    assert [e for e in done if isinstance(e, EndRebalance)] == [EndRebalance()]
    assert world.rebalance is None


def test_by_themselves_replicas_move_until_stores_differ_by_no_more_than_they_may() -> None:
    world = ready_world(8, stores=3)
    add_stores(world, 4)
    settle(world, MoveLimits(differ_max=8))
    assert counts(world)[4] == 0
    settle(world, MoveLimits(differ_max=4))
    by_store = counts(world)
    assert max(by_store.values()) - by_store[4] == 4 or by_store[4] == 3
    assert settle(world, MoveLimits(differ_max=4)) == [], "and then they stay"


def test_no_more_at_a_time_than_the_limits_say_and_the_shortest_logs_first() -> None:
    world = ready_world(9, stores=3)
    add_stores(world, 4)
    world.log_bytes = {g: 1000 - g for g in world.partitions}
    world.rebalance = Rebalance(1)
    begun = [e for e in planned(world, MoveLimits(8, 2)) if isinstance(e, BeginMove)]
    assert [e.group for e in begun] == [9, 8]
    for effect in begun:
        world.carry_out(effect)
    assert not [e for e in planned(world, MoveLimits(8, 2)) if isinstance(e, BeginMove)]
    assert len([e for e in planned(world, MoveLimits(3, 9)) if isinstance(e, BeginMove)]) == 1


async def test_what_is_even_stays() -> None:
    async def scenario(decide: Plan) -> None:
        world = ready_world(5, stores=4)
        assert sorted(counts(world).values()) == [3, 4, 4, 4]
        with promise("replicas that are even stay where they are"):
            assert whole(world, decide).moves == ()

    await holds_and_mutant_fails(scenario, plan_balance, "moves.evens_out_any_difference")


async def test_a_partition_of_which_a_replica_is_not_in_order_is_left_alone() -> None:
    async def scenario(decide: Plan) -> None:
        world = ready_world(4, stores=3)
        add_stores(world, 4, 5)
        reports = {s: disconnected(r) if s == 3 else r for s, r in world.reports().items()}
        with promise("a partition of which a replica is not in order is left alone"):
            found = decide(world.catalog(), reports, leaders(reports))
            assert found.moves == ()
            assert {s.why for s in found.stays if s.store_id == 1} == {
                "its partition's replica on store 3 is not in order"
            }

    await holds_and_mutant_fails(scenario, plan_balance, "moves.moves_what_is_not_in_order")


def test_what_does_not_move_is_named_with_the_reason() -> None:
    world = ready_world(4, stores=3)
    assert {s.why for s in whole(world).stays} == {"its store has no more than its share (4)"}
    assert not any(s.waits for s in whole(world).stays)
    add_stores(world, 4)
    catalog, reports = world.catalog(), world.reports()
    reports[4].status.disk_free_bytes = 3
    world.log_bytes = dict.fromkeys(world.partitions, 10)
    full = {s: r for s, r in world.reports().items()}
    full[4].status.disk_free_bytes = 3
    found = plan_balance(catalog, full, leaders(full))
    assert not found.moves
    assert {s.why for s in found.stays if s.waits} == {"store 4, which has fewer, has room for 3 bytes, not for 10"}
    cordoned = replace(catalog, stores={**catalog.stores, 4: replace(catalog.stores[4], cordoned=True)})
    assert not plan_balance(cordoned, reports, leaders(reports)).moves


def test_nothing_is_evened_out_while_a_store_is_missed_or_goes() -> None:
    world = ready_world(6, stores=4)
    add_stores(world, 5)
    world.rebalance = Rebalance(1)
    assert not waits_for(world.catalog(), world.reports())
    world.up.discard(2)
    assert waits_for(world.catalog(), world.reports()) == "dn2 is away"
    assert not any(isinstance(e, BeginMove | EndRebalance) for e in planned(world))
    world.up.discard(3)
    assert waits_for(world.catalog(), world.reports()) == "more than one store is not heard"
    world.up |= {2, 3}
    catalog = world.catalog()
    going: Catalog = replace(catalog, stores={**catalog.stores, 2: StoreEntry(2, "dn2", "offline", "u2")})
    assert waits_for(going, world.reports()) == "dn2 is being decommissioned"


def test_evening_out_puts_no_two_replicas_on_one_rack_and_then_it_ends() -> None:
    world = ready_world(6, stores=3)
    add_stores(world, 4)
    world.racks = {1: "a", 2: "b", 3: "c", 4: "c"}
    world.rebalance = Rebalance(1)
    settle(world)
    assert world.rebalance is None
    assert counts(world) == {1: 6, 2: 6, 3: 3, 4: 3}
    assert {s.why for s in whole(world).stays if s.store_id == 1} == {
        "it would share a rack with another replica of its partition"
    }


actions = st.one_of(
    st.tuples(st.just("kill"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("start"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("lose"), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.just("rebalance"), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.just(0), st.just(0)),
    st.tuples(st.just("work"), st.integers(0, 5), st.integers(1, 8)),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.lists(actions, max_size=25))
def test_any_interrupted_history_comes_to_its_end(
    partitions: int, more: int, history: list[tuple[str, int, int]]
) -> None:
    """ "work" carries out a part of a plan and forgets the rest, as a leader that died in between; the world asserts that no voter goes
    before its successor counts."""
    world = ready_world(partitions, stores=3)
    add_stores(world, *range(4, 4 + more))
    for action, number, amount in history:
        match action:
            case "kill":
                world.up.discard(number)
            case "start" if number in world.stores:
                world.up.add(number)
            case "lose" if number in world.stores:
                world.lose(number, amount)
            case "rebalance":
                world.rebalance = Rebalance(1)
            case "cancel":
                world.rebalance = None
            case "work":
                for effect in planned(world)[number : number + amount]:
                    world.carry_out(effect)
        world.catalog().validate()
    world.up = set(world.stores)
    world.rebalance = Rebalance(1)
    done = settle(world)
    assert world.rebalance is None
    by_store = counts(world)
    assert max(by_store.values()) - min(by_store.values()) <= 1
    moved = Counter((e.group, e.source) for e in done if isinstance(e, BeginMove))
    assert max(moved.values(), default=0) <= 1, "to and fro"
    for group, partition in world.partitions.items():
        assert not partition.target
        assert not partition.leaving
        assert world.voters[group] == set(partition.replicas)
        assert len(partition.replicas) == 3
    assert plan(world.catalog(), world.reports(), leaders(world.reports())) == []
