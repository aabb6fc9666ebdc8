"""Why replicas are where they are, from the plans themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stele.nameserver.catalog import Rebalance
from stele.nameserver.explanation import explain
from stele.nameserver.moves import BeginMove, Cause
from stele.nameserver.operations import operations
from stele.nameserver.reports import leaders
from stele.nameserver.view import View
from stele.services.errors import GroupNotFound
from tests.unit.nameserver.test_moves import ready_world
from tests.unit.nameserver.test_replica_balance import add_stores
from tests.unit.nameserver.world import World


def said(world: World, group: int = 1) -> dict[int, tuple[str, str]]:
    found = explain(view(world), group)
    return {r.store_id: (r.here, r.next) for r in found.replicas}


def view(world: World) -> View:
    reports = world.reports()
    return View(world.catalog(), reports, leaders(reports))


def test_a_replica_that_is_where_it_belongs_stays() -> None:
    world = ready_world(3, stores=3)
    for here, becomes in said(world).values():
        assert here == "its partition's record names the store, which has 3 replicas; the one with the fewest has 3"
        assert becomes == "it stays: its store has no more than its share (3)"
    assert explain(view(world), 1).leader == (
        "store 1 leads it since term 1, and 3 in all; store 2 is to, once all has been steady for a while"
    )
    assert explain(view(world), 3).leader.endswith("it stays")


def test_one_that_would_even_things_out_says_what_it_waits_for() -> None:
    world = ready_world(3, stores=3)
    add_stores(world, 4)
    becomes = {b for _, b in said(world).values()}
    assert (
        "it moves to store 4 with `stele partition rebalance`, or once stores differ by more than replicas_differ_max"
        in becomes
    )
    world.rebalance = Rebalance(1)
    assert "it moves to store 4" in {b for _, b in said(world).values()}
    world.up.discard(3)
    assert list(explain(view(world), 1).waits_for) == ["store 3 is away", "evening out waits: dn3 is away"]
    assert said(world)[3][1].startswith("it is built anew elsewhere once its store was away for store_down_after_s")


def test_one_that_moves_says_how_far_it_is() -> None:
    world = ready_world(1, stores=4)
    world.carry_out(BeginMove(1, (1, 2, 3), (1, 2, 4), Cause.OPERATOR, 3, 4))
    found = said(world)
    assert found[4] == ("it is to come here (operator)", "store 4 joins")
    assert found[3][0] == "it counts until the one in its place does (operator)"
    world.partitions[1] = ready_world(1, stores=4).partitions[1]
    world.states[1] = "offline"
    assert said(world)[1][1] == "it moves to store 4"
    world.up.discard(4)
    assert said(world)[1][1].startswith("it stays: no other store is up")


def test_a_group_that_is_not_recorded_is_not_found() -> None:
    with pytest.raises(GroupNotFound):
        explain(view(ready_world(1)), 99)


def test_an_operation_says_how_long_it_lasts_and_what_it_has_moved() -> None:
    world = ready_world(1, stores=4)
    world.log_bytes = {1: 500}
    world.carry_out(BeginMove(1, (1, 2, 3), (1, 2, 4), Cause.OPERATOR, 3, 4))
    world.partitions[1] = replace(world.partitions[1], moves_since_ms=10_000)
    (begun,) = operations(view(world), now_ms=12_500)
    assert (begun.id, begun.lasts_ms, begun.bytes_moved, begun.bytes_left) == ("move-1", 2_500, 0, 500)
    world.held[4].add(1)
    (goes_on,) = operations(view(world), now_ms=9_000)
    assert (goes_on.lasts_ms, goes_on.bytes_moved) == (0, 500), "a clock that was set back"
    world = ready_world(3, stores=3)
    world.rebalance = Rebalance(1_000)
    add_stores(world, 4)
    (asked,) = operations(view(world), now_ms=4_000)
    assert (asked.id, asked.lasts_ms, asked.replicas_left) == ("rebalance", 3_000, 2)
