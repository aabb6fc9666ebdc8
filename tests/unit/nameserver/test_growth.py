"""More partitions for a topic that exists: all of them are shown at once, when each can be used, whoever leads meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stele.nameserver.alteration import altered
from stele.nameserver.catalog import TopicState
from stele.nameserver.effects import CreateReplica, MarkReady, ReconcileEffect, RecordPartitions, ShowPartitions
from stele.nameserver.moves import Cause, plan_moves
from stele.nameserver.operations import operations, parse_id
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import leaders
from stele.nameserver.strays import set_apart
from stele.nameserver.view import View
from stele.services.coordination.records import TopicRecord
from stele.services.errors import InvalidArgument, NotReady
from stele.services.pb.common_pb2 import Retention
from stele.services.pb.nameserver_pb2 import AlterTopicRequest
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.world import World

Planner = Callable[..., list[ReconcileEffect]]
ROUNDS_MAX = 20
READY = TopicRecord(id=1, partitions=2, replication=3, state=TopicState.READY, created_ms=0)


def due(world: World, planner: Planner = plan) -> list[ReconcileEffect]:
    catalog = world.catalog()
    reports = set_apart(catalog, world.reports())
    return planner(catalog, reports, leaders(reports))


def settle(world: World, planner: Planner = plan) -> list[ReconcileEffect]:
    return world.settle(lambda: due(world, planner), ROUNDS_MAX)


def ready_world(partitions: int = 2) -> World:
    world = World()
    world.create("demo/t", partitions, recorded=partitions)
    settle(world)
    return world


def shown(world: World) -> list[int]:
    catalog = world.catalog()
    view = View(catalog, world.reports(), leaders(world.reports()))
    return [r.partition for r in view.lookup("demo/t").partitions]


def test_new_partitions_show_all_at_once_when_each_has_a_leader() -> None:
    world = ready_world()
    world.grow("demo/t", 5)
    kinds = []
    for _ in range(ROUNDS_MAX):
        for effect in due(world):
            assert shown(world) == ([0, 1] if world.topics["demo/t"].growing_to else [0, 1, 2, 3, 4])
            kinds.append(type(effect))
            world.carry_out(effect)
    assert list(dict.fromkeys(k for k in kinds if k in (RecordPartitions, CreateReplica, ShowPartitions))) == [
        RecordPartitions,
        CreateReplica,
        ShowPartitions,
    ]
    assert kinds.count(ShowPartitions) == 1
    assert MarkReady not in kinds
    assert shown(world) == [0, 1, 2, 3, 4]


async def test_no_partition_is_shown_that_nobody_leads() -> None:
    async def scenario(planner: Planner) -> None:
        world = ready_world()
        world.grow("demo/t", 4)
        with promise("no partition is shown that nobody leads"):
            try:
                settle(world, planner)
            except KeyError:
                raise AssertionError("a partition is shown that is not recorded") from None

    await holds_and_mutant_fails(scenario, plan, "growth.shows_at_once")


async def test_a_replica_of_a_former_partition_is_not_begun_anew_while_its_topic_grows() -> None:
    async def scenario(planner: Planner) -> None:
        world = ready_world()
        world.grow("demo/t", 4)
        lost = world.partitions[1].replicas[0]
        world.lose(lost, 1)
        with promise("what was lost is not begun anew as a voter"):
            anew = [e for e in due(world, planner) if isinstance(e, CreateReplica) and e.group == 1 and e.replicas]
            assert not anew

    await holds_and_mutant_fails(scenario, plan, "growth.begins_the_shown_anew")


def test_a_new_partition_waits_to_be_shown_before_a_replica_of_it_moves() -> None:
    world = ready_world(1)
    world.grow("demo/t", 2)
    for _ in range(2):
        for effect in due(world):
            if not isinstance(effect, ShowPartitions):
                world.carry_out(effect)
    new = next(p for p in world.partitions.values() if p.index == 1)
    reports = world.reports()
    found = plan_moves(world.catalog(), reports, leaders(reports), {new.replicas[0]: Cause.DECOMMISSION})
    assert [s.why for s in found.stays if s.group == new.group] == ["it is new, and its topic still grows"]


def test_a_deletion_takes_the_partitions_that_are_not_shown() -> None:
    world = ready_world(1)
    world.grow("demo/t", 3)
    for effect in due(world):
        world.carry_out(effect)
    world.delete("demo/t")
    settle(world)
    assert not world.partitions
    assert not any(world.held.values())


def test_what_is_under_way_says_how_far_it_is() -> None:
    world = ready_world(1)
    world.grow("demo/t", 3)
    for effect in due(world):
        world.carry_out(effect)
    known = world.reports()
    (found,) = operations(View(world.catalog(), known, leaders(known)), 0)
    assert (found.id, found.kind, found.topic) == ("alter-1", "alter", "demo/t")
    assert found.step == "0 of 2 new partitions led"
    assert list(found.problems) == ["demo/t-1 has no leader", "demo/t-2 has no leader"]
    assert parse_id(found.id) == ("alter", 1)
    settle(world)
    assert not operations(View(world.catalog(), world.reports(), leaders(world.reports())), 0)


def asked(partitions: int) -> AlterTopicRequest:
    return AlterTopicRequest(topic="demo/t", partitions=partitions)


def test_a_topic_is_given_more_partitions_never_fewer() -> None:
    assert altered("demo/t", READY, asked(5)) == replace(READY, growing_to=5)
    assert altered("demo/t", READY, asked(2)) == READY, "as many as it has"
    assert altered("demo/t", READY, asked(0)) == READY
    growing = replace(READY, growing_to=5)
    assert altered("demo/t", growing, asked(5)) == growing, "as was asked before"
    assert altered("demo/t", growing, asked(7)) == replace(READY, growing_to=7)
    with pytest.raises(InvalidArgument, match="partitions: demo/t has 2, and none is taken away"):
        altered("demo/t", READY, asked(1))
    with pytest.raises(InvalidArgument, match="is being given 5, and 4 is refused"):
        altered("demo/t", growing, asked(4))
    with pytest.raises(NotReady, match="still being created"):
        altered("demo/t", replace(READY, state=TopicState.CREATING), asked(5))


def test_what_is_said_of_its_retention_leaves_its_growth_alone() -> None:
    growing = replace(READY, growing_to=5)
    request = AlterTopicRequest(topic="demo/t", retention=Retention(age_ms=60_000))
    assert altered("demo/t", growing, request) == replace(growing, retention_ms=60_000)
