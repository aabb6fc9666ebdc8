"""Leaders are evened out: to an end from any state, a few at a time, and only where nothing is lost by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stele.nameserver.effects import TransferLeadership
from stele.nameserver.leader_balance import Steadiness, even_out
from stele.nameserver.moves import BeginMove, Cause
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import LeaderReport, disconnected, leaders
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.test_moves import ready_world
from tests.unit.nameserver.world import World

EVERY = range(1, 1000)
EvenOut = Callable[..., list[TransferLeadership]]


def due(world: World, transfers_max: int = 8, decide: EvenOut = even_out) -> list[TransferLeadership]:
    catalog, reports = world.catalog(), world.reports()
    return decide(catalog, reports, leaders(reports), EVERY, EVERY, transfers_max)


def led(world: World) -> Counter[int]:
    counts = Counter({s: 0 for s in world.up})
    counts.update(leader for g in world.partitions if (leader := world.leader(g)))
    return counts


def unevenness(world: World) -> int:
    return sum(n * n for n in led(world).values())


def test_leaders_that_piled_up_are_evened_out_a_few_at_a_time() -> None:
    world = ready_world(12, stores=3)
    assert led(world) == {1: 12, 2: 0, 3: 0}
    moved: list[int] = []
    while begun := due(world, transfers_max=3):
        assert len(begun) <= 3
        for transfer in begun:
            world.carry_out(transfer)
        moved += [t.group for t in begun]
    assert led(world) == {1: 4, 2: 4, 3: 4}
    assert len(moved) == len(set(moved)) == 8, "none moved twice"


async def test_what_is_even_stays() -> None:
    async def scenario(decide: EvenOut) -> None:
        world = ready_world(4, stores=3)
        for _ in range(4):
            for transfer in due(world):
                world.carry_out(transfer)
        assert sorted(led(world).values()) == [1, 1, 2]
        with promise("leaders that are even stay where they are"):
            assert due(world, decide=decide) == []

    await holds_and_mutant_fails(scenario, even_out, "leaders.evens_out_any_difference")


async def test_the_lead_goes_only_to_a_voter_that_follows() -> None:
    async def scenario(decide: EvenOut) -> None:
        world = ready_world(6, stores=3)
        for group in world.partitions:  # store 2 comes anew to each
            world.voters[group].discard(2)
            world.learners[group].add(2)
        with promise("the lead goes only to a voter that follows"):
            assert {t.successor for t in due(world, decide=decide)} == {3}

    await holds_and_mutant_fails(scenario, even_out, "leaders.evens_out_any_difference")


@pytest.mark.parametrize("trouble", ["loading", "away", "offline", "disk full"])
def test_a_store_in_trouble_is_given_no_lead(trouble: str) -> None:
    world = ready_world(6, stores=3)
    catalog, reports = world.catalog(), world.reports()
    match trouble:
        case "loading":
            world.loading.add(2)
        case "away":
            world.up.discard(2)
        case "offline":
            world.states[2] = "offline"
        case "disk full":
            reports[2].status.disk_full = True
    if trouble != "disk full":
        catalog, reports = world.catalog(), world.reports()
    found = even_out(catalog, reports, leaders(reports), EVERY, EVERY, 8)
    assert {t.successor for t in found} == {3}


def test_a_partition_that_moves_or_is_deleted_keeps_its_leader() -> None:
    world = ready_world(6, stores=4)
    first = due(world)[0].group
    known = world.partitions[first]
    away = next(s for s in world.stores if s not in known.replicas)
    world.carry_out(
        BeginMove(first, known.replicas, (*known.replicas[:2], away), Cause.OPERATOR, known.replicas[2], away)
    )
    assert first not in {t.group for t in due(world)}
    world.delete("demo/t")
    assert due(world) == []


def test_nothing_is_evened_out_while_most_of_the_cluster_is_not_heard() -> None:
    world = ready_world(6, stores=5)
    assert due(world)
    cold = {s: disconnected(r) if s in (4, 5) else r for s, r in world.reports().items()}
    assert even_out(world.catalog(), cold, leaders(cold), EVERY, EVERY, 8) == []


def test_only_what_has_been_steady_takes_part() -> None:
    world = ready_world(6, stores=3)
    catalog, reports = world.catalog(), world.reports()
    assert {t.group for t in even_out(catalog, reports, leaders(reports), {2, 5}, EVERY, 8)} == {2, 5}
    assert {t.successor for t in even_out(catalog, reports, leaders(reports), EVERY, {3}, 8)} == {3}


def test_each_topic_is_spread() -> None:
    world = ready_world(3, stores=3)
    world.create("demo/u", 3, 3)
    for _ in range(6):
        for effect in plan(world.catalog(), world.reports(), leaders(world.reports())):
            world.carry_out(effect)
    for _ in range(6):
        for transfer in due(world):
            world.carry_out(transfer)
    for topic in ("demo/t", "demo/u"):
        assert sorted(world.leader(g) for g, p in world.partitions.items() if p.topic == topic) == [1, 2, 3]


def test_where_none_can_go_directly_two_go_over_a_store_between() -> None:
    """Store 1 leads three, its partitions are on 1 and 2 alone; what 2 leads is on 2 and 3."""
    world = World(stores=(1, 2, 3), up={1, 2, 3}, held={1: set(), 2: set(), 3: set()})
    world.create("demo/t", 6, 6)
    for group, stores in {1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (2, 3), 5: (2, 3), 6: (3, 2)}.items():
        world.partitions[group] = world.partitions[group].__class__(group, "demo/t", group - 1, stores)
        world.voters[group] = set(stores)
    settle(world)
    assert led(world) == {1: 3, 2: 3, 3: 0}
    world.handed_to[6] = 3
    assert led(world) == {1: 3, 2: 2, 3: 1}
    assert [(t.store_id, t.successor) for t in due(world)] == [(1, 2), (2, 3)]
    assert [(t.store_id, t.successor) for t in due(world, transfers_max=1)] == [(2, 3)], "its end first"
    for _ in range(3):
        for transfer in due(world, transfers_max=1):
            world.carry_out(transfer)
    assert led(world) == {1: 2, 2: 2, 3: 2}


def settle(world: World) -> None:
    for _ in range(10):
        for effect in plan(world.catalog(), world.reports(), leaders(world.reports())):
            world.carry_out(effect)


async def test_what_was_transferred_waits_twice_as_long() -> None:
    async def scenario(make: type[Steadiness]) -> None:
        world = ready_world(1, stores=3)
        catalog, reports, steady = world.catalog(), world.reports(), make(10.0)

        def is_steady(now_s: float, store_id: int, term: int) -> bool:
            return 1 in steady.look(catalog, reports, {1: LeaderReport(store_id, term, True)}, now_s)[0]

        assert not is_steady(0.0, 1, 1)
        assert not is_steady(9.0, 1, 1)
        assert is_steady(10.0, 1, 1)
        assert not is_steady(11.0, 1, 2), "it was elected anew"
        assert is_steady(21.0, 1, 2)
        steady.transferred(1)
        assert not is_steady(22.0, 2, 3)
        with promise("no trouble makes the lead go to and fro"):
            assert not is_steady(33.0, 2, 3)
            assert is_steady(42.0, 2, 3)
            steady.transferred(1)
            assert not is_steady(43.0, 1, 4)
            assert not is_steady(82.0, 1, 4)
            assert is_steady(83.0, 1, 4)
            assert is_steady(123.0, 1, 4), "it has been quiet for long"
            assert not is_steady(124.0, 1, 5)
            assert is_steady(134.0, 1, 5)

    await holds_and_mutant_fails(scenario, Steadiness, "leaders.WaitsNoLonger")


def test_stores_are_heard_for_a_while_first_and_a_pause_begins_it_anew() -> None:
    world = ready_world(1, stores=3)
    catalog, reports, steady = world.catalog(), world.reports(), Steadiness(10.0)
    steady.look(catalog, reports, {}, 0.0)
    assert steady.look(catalog, reports, {}, 10.0)[1] == {1, 2, 3}
    away = {s: disconnected(r) if s == 2 else r for s, r in reports.items()}
    assert steady.look(catalog, away, {}, 11.0)[1] == {1, 3}
    assert steady.look(catalog, reports, {}, 12.0)[1] == {1, 3}
    assert steady.look(catalog, reports, {}, 22.0)[1] == {1, 2, 3}
    steady.forget()
    assert steady.look(catalog, reports, {}, 23.0)[1] == set()


def test_an_operator_is_not_contradicted_for_a_while() -> None:
    world = ready_world(1, stores=3)
    catalog, reports, steady = world.catalog(), world.reports(), Steadiness(10.0)
    steady.hold(1)
    known = {1: LeaderReport(2, 5, True)}
    steady.look(catalog, reports, known, 0.0)
    assert 1 not in steady.look(catalog, reports, known, 639.0)[0]
    assert 1 in steady.look(catalog, reports, known, 640.0)[0]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(3, 6),
    st.integers(1, 14),
    st.dictionaries(st.integers(1, 14), st.integers(1, 6)),
    st.sets(st.integers(1, 6), max_size=2),
    st.lists(st.tuples(st.integers(1, 5), st.sets(st.integers(0, 7))), max_size=30),
)
@example(6, 12, {1: 2}, set(), [(5, {0, 1, 2, 4})])
def test_from_any_state_it_comes_to_an_end_and_never_back(
    stores: int,
    partitions: int,
    handed_to: dict[int, int],
    down: set[int],
    interrupted: list[tuple[int, set[int]]],
) -> None:
    """Of each plan some transfers happen and others do not."""
    world = ready_world(partitions, stores)
    world.handed_to = dict(handed_to)
    world.up -= set(list(down)[:1])
    for transfers_max, skipped in interrupted:
        begun = due(world, transfers_max)
        assert len(begun) <= transfers_max
        assert len({t.group for t in begun}) == len(begun)
        before = unevenness(world)
        for number, transfer in enumerate(begun):
            if number not in skipped:
                world.carry_out(transfer)
        assert unevenness(world) <= before
    for _ in range(100):
        begun = due(world)
        if not begun:
            break
        before = unevenness(world)
        for transfer in begun:
            world.carry_out(transfer)
        assert unevenness(world) < before
    assert due(world) == []
    counts = led(world)
    for group, partition in world.partitions.items():
        if source := world.leader(group):
            able = [s for s in partition.replicas if s in world.up]
            assert all(counts[s] + 2 > counts[source] for s in able), (group, counts)
