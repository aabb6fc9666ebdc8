"""Each check of the simulated cluster can fail: what it is there to notice is planted in a run that is over, and it is noticed."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import Any

import pytest

from stele.batching import partition_of_key
from stele.datanode import commands
from stele.datanode.commands import Ack, CreateCursor, FenceOwner, Position, ResetCursor, Start
from stele.datanode.partition import PartitionState
from stele.errors import ClientClosed
from stele.model import Message
from stele.services.coordination.records import EpochRecord, TopicRecord, encode
from stele.services.errors import StaleAck, Timeout
from tests.simulation.bounds import Bound
from tests.simulation.cluster.ambient import working
from tests.simulation.cluster.bounds import BOUNDS
from tests.simulation.cluster.checks import ROOT
from tests.simulation.cluster.ledger import Sent
from tests.simulation.cluster.noticed import noticed
from tests.simulation.cluster.plan import KINDS, choose_kinds, plan
from tests.simulation.cluster.pressure import CONSTANTS, Pressure
from tests.simulation.cluster.world import FIRST_FAULT_S, Options, World
from tests.simulation.pressure import get_constant
from tests.simulation.zookeeper.server import Server
from tests.simulation.zookeeper.tree import Created, Deleted, Txn, Written


def test_all_that_is_watched_was_seen(world: World) -> None:
    assert world.durable.checked > 5
    assert world.views.looked_at > 5
    assert world.applied.looked_at > 5


def test_an_acknowledged_message_that_no_majority_holds_is_noticed(world: World) -> None:
    assert world.workload.main is not None
    held = next(s for s in world.workload.main.sent.values() if s.outcome == "acknowledged" and s.place is not None)
    assert held.place is not None
    world.durable.acknowledged(world.workload.main, held, held.place[0])
    assert not noticed(world)
    unsynced = Sent(b"in no log", "nobody", 1, world.now)
    world.durable.acknowledged(world.workload.main, unsynced, 0)
    assert noticed(world) == "acknowledged without a majority"


def test_the_disk_of_one_is_no_majority(world: World) -> None:
    assert world.workload.main is not None
    held = next(s for s in world.workload.main.sent.values() if s.outcome == "acknowledged" and s.place is not None)
    assert held.place is not None
    folders = [(v, v.path / "groups" / str(g)) for v in world.volumes.values() for g in world.workload.groups()]
    for volume, folder in [(v, f) for v, f in folders if v.has_folder(f)][: -len(world.workload.groups())]:
        for content in volume.durable_files(folder):
            content.replace(held.value, b"?")
            at = content.find(held.value)
            if at >= 0:
                content[at : at + 1] = b"?"
    world.durable.acknowledged(world.workload.main, held, held.place[0])
    assert noticed(world) == "acknowledged without a majority"


def test_what_was_written_to_a_lost_folder_counts_until_who_wrote_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.workload.main is not None
    monkeypatch.setattr(world.durable, "_lost", {})
    unsynced = Sent(b"in no log", "nobody", 1, world.now + 1.0)
    for host in world.hosts.datanodes[:2]:
        world.durable.lost(host)
    world.durable.acknowledged(world.workload.main, unsynced, 0)
    assert not noticed(world)
    for host in world.hosts.datanodes[:2]:
        monkeypatch.setattr(world.servers[host].process, "ended_at", world.now + 1.5)
    world.durable.acknowledged(world.workload.main, unsynced, 0)
    assert not noticed(world), "it is told of this after the death of who took it on"
    unsynced.at = world.now + 2.0
    world.durable.acknowledged(world.workload.main, unsynced, 0)
    assert noticed(world) == "acknowledged without a majority"


def test_a_name_that_is_taken_behind_a_closed_port_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = world.servers["ns1"].process
    assert process is not None
    path = f"{ROOT}names/ns1"
    node, session = world.zookeeper.tree.nodes[path], world.zookeeper.session_of("ns1")
    guard = f"{path}/live"
    written, gone, made = Written(path, node.value, 1), Deleted(guard), Created(guard, b"", session)
    monkeypatch.setattr(process.node, "ports", {})
    world.checks.registrations.committing(session, Txn(0, 0, (written, gone)))
    assert not noticed(world), "it is let go"
    monkeypatch.setattr(process.loop, "dead", True)
    world.checks.registrations.committing(session, Txn(0, 0, (written, gone, made)))
    assert not noticed(world), "it died after it had asked"
    monkeypatch.setattr(process.loop, "dead", False)
    world.checks.registrations.committing(session, Txn(0, 0, (written, gone, made)))
    assert noticed(world) == "order"


class _Replica:
    """As far as the check looks."""

    def __init__(self, state: PartitionState) -> None:
        self.spec, self._store_id, self.partition = (
            SimpleNamespace(group=99, topic="shop/x", topic_id=9, partition=0),
            1,
            state,
        )


def _apply(world: World, replica: Any, index: int, command: Any, outcome: Any = None) -> Any:
    payload = commands.encode(command)
    before = world.applied.before(replica, payload)
    outcome = replica.partition.apply(index, 1, payload) if outcome is None else outcome(replica.partition)
    world.applied.after(replica, index, 1, payload, outcome, before)
    return outcome


def test_an_entry_that_is_another_one_elsewhere_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    here, there = _Replica(PartitionState()), _Replica(PartitionState())
    _apply(world, here, 1, FenceOwner(4))
    _apply(world, there, 1, FenceOwner(4))
    assert not noticed(world)
    _apply(world, there, 2, FenceOwner(5))
    _apply(world, here, 2, FenceOwner(6))
    assert noticed(world) == "applied entry changed"


def test_a_write_by_a_fenced_owner_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    replica = _Replica(PartitionState())
    _apply(world, replica, 1, FenceOwner(4))
    _apply(world, replica, 2, FenceOwner(3))
    assert not noticed(world), "it was refused"
    _apply(world, replica, 3, FenceOwner(3), lambda _: commands.FenceOutcome(3, 0, 0))
    assert noticed(world) == "fenced owner"


def test_an_acknowledgement_that_counts_in_another_generation_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    state = PartitionState()
    state.high_watermark = 10
    replica, start = _Replica(state), Position(Start.EARLIEST)
    message = Message("shop/x", 0, 0, None, b"", {}, 0, topic_id=9, generation=1)
    for offset in range(4):
        world.applied.delivered("s", dataclasses.replace(message, offset=offset))
    _apply(world, replica, 1, CreateCursor(1, "s", start))
    _apply(world, replica, 2, ResetCursor(1, "s", start))
    stale = Ack(1, "s", 1, ((0, 3),))
    _apply(world, replica, 3, stale)
    assert not noticed(world)

    def counted(partition: PartitionState) -> Any:
        return partition.apply(4, 1, commands.encode(Ack(1, "s", 2, ((0, 3),))))

    _apply(world, replica, 4, stale, counted)
    assert noticed(world) == "acknowledged in another generation"


def test_an_acknowledgement_that_is_confirmed_and_not_written_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    state = PartitionState()
    state.high_watermark = 10
    replica = _Replica(state)
    _apply(world, replica, 1, CreateCursor(1, "s", Position(Start.EARLIEST)))
    message = Message("shop/x", 0, 3, None, b"", {}, 0, topic_id=9, generation=1)
    for offset in range(4):
        world.applied.delivered("s", dataclasses.replace(message, offset=offset))
    _apply(world, replica, 2, Ack(1, "s", 1, ((0, 3),)))
    world.applied.confirmed("s", message)
    assert not noticed(world)
    world.applied.confirmed("s", dataclasses.replace(message, generation=2))
    assert noticed(world) == "acknowledged in another generation"


def test_an_acknowledgement_that_is_written_and_definitely_refused_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    state = PartitionState()
    state.high_watermark = 10
    replica = _Replica(state)
    _apply(world, replica, 1, CreateCursor(1, "s", Position(Start.EARLIEST)))
    message = Message("shop/x", 0, 3, None, b"", {}, 0, topic_id=9, generation=1)
    for offset in range(4):
        world.applied.delivered("s", dataclasses.replace(message, offset=offset))
    _apply(world, replica, 2, Ack(1, "s", 1, ((0, 3),)))
    world.applied.refused("s", message, Timeout("not known"))
    world.applied.refused("s", message, StaleAck("sought since"))
    world.applied.refused("s", dataclasses.replace(message, generation=2), ClientClosed("closed"))
    assert not noticed(world)
    world.applied.refused("s", message, ClientClosed("closed"))
    assert noticed(world) == "definite error"


def _take(world: World, kind: str, *offsets: int) -> str:
    for offset in offsets:
        world.ordered.taken(kind, "s", Message("shop/x", 0, offset, None, b"", {}, 0, topic_id=9, generation=1))
    return noticed(world)


def test_a_message_that_is_left_out_is_noticed_but_where_no_order_is_promised(world: World) -> None:
    assert world.ordered.looked_at > 5
    world.ordered._given.clear()
    assert not _take(world, "exclusive", 5, 6, 5, 6, 7)
    assert not _take(world, "failover", 8)
    assert not _take(world, "shared", 12, 10), "in any order"
    assert not _take(world, "exclusive", 3, 4, 9), "it comes after a shared one, which had begun anywhere"
    assert not _take(world, "exclusive", 11, 13)
    assert _take(world, "exclusive", 15) == "left out"
    world._error = None
    world.ordered._given.clear()
    assert not _take(world, "failover", 5)
    assert _take(world, "failover", 4) == "left out"


def test_an_acknowledgement_of_what_nobody_was_given_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    world.applied._delivered.clear()
    state = PartitionState()
    state.high_watermark = 10
    replica = _Replica(state)
    _apply(world, replica, 1, CreateCursor(1, "s", Position(Start.EARLIEST)))
    _apply(world, replica, 2, Ack(1, "s", 1, ((0, 3),)))
    assert noticed(world) == "acknowledged in another generation"


def test_what_is_stored_in_two_topics_or_in_the_wrong_partition_is_noticed(world: World) -> None:
    replica, topic = (
        _Replica(PartitionState()),
        TopicRecord(id=9, partitions=2, replication=3, state="ready", created_ms=0),
    )
    value = next(b"outlives x %d %d." % (n, n) for n in range(10) if partition_of_key(b"%d" % n, 2) == 0)
    world.workload.outliving.applied(replica, value, topic)  # type: ignore[arg-type]
    assert not noticed(world)
    replica.spec.group = 100
    world.workload.outliving.applied(replica, value, topic)  # type: ignore[arg-type]
    assert noticed(world) == "stored twice"
    world._error, replica.spec.group, replica.spec.partition = None, 99, 1
    world.workload.outliving.applied(replica, value, topic)  # type: ignore[arg-type]
    assert noticed(world) == "wrong partition"
    world._error, topic = None, dataclasses.replace(topic, state="creating")
    world.workload.outliving.applied(replica, value, topic)  # type: ignore[arg-type]
    assert noticed(world) == "written too early"


def test_an_id_that_is_given_out_again_is_noticed(world: World) -> None:
    group = next(iter(world.workload.groups()))
    node, leader = world.zookeeper.tree.nodes[f"{ROOT}partitions/{group}"], world.zookeeper.tree.nodes[f"{ROOT}leader"]
    world.checks.committing(leader.owner, Txn(0, 0, (Created(f"{ROOT}partitions/{group}", node.value, 0),)))
    assert noticed(world) == "id used again"


def test_a_write_under_an_epoch_of_another_owner_is_noticed(world: World) -> None:
    (bundle, epoch), owner = next(iter(world.checks._owners.items()))
    world.checks.writes(owner, bundle, epoch)
    assert not noticed(world)
    world.checks.writes("another", bundle, epoch)
    assert noticed(world) == "owner"


def test_a_replica_that_is_there_and_is_to_count_no_more_is_noticed(world: World) -> None:
    group, store = next(iter(world.workload.groups())), next(iter(world.durable._stores))
    world.checks.removes(group + 1000, store)
    assert not noticed(world)
    world.checks.removes(group, store)
    assert noticed(world) == "live replica removed"


def test_a_generation_that_comes_twice_is_noticed(world: World) -> None:
    world.applied._groups.clear()
    replica, start = _Replica(PartitionState()), Position(Start.EARLIEST)
    _apply(world, replica, 1, CreateCursor(1, "s", start))
    replica.partition._last_generation = 0
    _apply(world, replica, 2, CreateCursor(1, "t", start))
    assert noticed(world) == "generation used again"


def test_a_view_that_goes_back_is_noticed(world: World) -> None:
    client = object()
    world.views.taken(client, (1, 5))
    world.views.taken(object(), (1, 4))
    world.views.refused(client, (1, 4))
    world.views.taken(client, (1, 6))
    assert not noticed(world)
    world.views.refused(client, (1, 4))
    world.views.taken(client, (1, 4))
    assert noticed(world) == "view went back"


def test_an_answer_from_what_was_overtaken_long_ago_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    zookeeper, guest = world.zookeeper, world.guest("ns1")
    assert guest is not None
    first, last = zookeeper.log[0].zxid, zookeeper.log[-1].zxid
    with working(guest):
        world.views.answered(first)
        monkeypatch.setattr(world.scheduler, "now", world.now + 10.0)
        world.views.answered(last)
        with monkeypatch.context() as lagging:
            lagging.setitem(zookeeper.asked, "ns1", Server(zookeeper, "zk4"))
            world.views.answered(first)
        assert not noticed(world)
        world.views.answered(first)
    assert noticed(world) == "stale answer"


def test_a_live_topic_s_data_that_goes_is_noticed(world: World) -> None:
    group = next(iter(world.workload.groups()))
    volume = next(v for v in world.volumes.values() if v.has_folder(v.path / "groups" / str(group)))
    folder = volume.path / "groups" / str(group)
    volume.rename(folder, volume.path / "quarantine" / "set-aside")
    assert not noticed(world), "it is kept"
    volume.rename(volume.path / "quarantine" / "set-aside", folder)
    volume.rename(folder, volume.path / "trash" / "gone")
    assert noticed(world) == "live data deleted"
    volume.rename(volume.path / "trash" / "gone", folder)


def test_records_written_by_who_does_not_lead_are_noticed(world: World) -> None:
    node = world.zookeeper.tree.nodes[f"{ROOT}groups/alloc"]
    leader = world.zookeeper.tree.nodes[f"{ROOT}leader"].owner
    write = Txn(0, 0, (Written(f"{ROOT}groups/alloc", node.value, 1),))
    world.checks.committing(leader, write)
    assert not noticed(world)
    world.checks.committing(leader + 1, write)
    assert noticed(world) == "deposed leader"


def test_an_epoch_that_goes_back_is_noticed(world: World) -> None:
    write = Txn(0, 0, (Written(f"{ROOT}epoch", encode(EpochRecord(epoch=0)), 1),))
    world.checks.committing(0, write)
    assert noticed(world) == "epoch"


def test_every_bound_was_looked_at(world: World) -> None:
    missed = {bound.what for bound in BOUNDS} - world.bounds.looks.keys()
    assert missed <= {"reads of a group"}, missed  # only refusals and looks at cursors ask for reads
    assert world.bounds.asked["Engine"], "the cores of a busier run are asked likewise"


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
def test_what_grows_beyond_its_bound_is_noticed(world: World, bound: Bound) -> None:
    too_much = dataclasses.replace(bound, limit=lambda _: world.bounds.highest.get(bound.what, 0) - 1)
    at_most = dataclasses.replace(bound, size=lambda _: world.bounds.highest.get(bound.what, 0), limit=too_much.limit)
    within = dataclasses.replace(at_most, limit=at_most.size)
    world.bounds.look(within, None)
    assert not noticed(world)
    world.bounds.look(at_most, None)
    assert noticed(world) == "bound"


def test_constants_are_small_for_as_long_as_a_run_is_under_pressure() -> None:
    def now() -> list[int]:
        return [get_constant(owner, constant.name) for constant in CONSTANTS for owner in constant.owners]

    before = now()
    with Pressure(True, random.Random(1)).kept_up():
        for constant in CONSTANTS:
            assert {get_constant(owner, constant.name) for owner in constant.owners} < {*constant.values, None}
        assert all(small < usual for small, usual in zip(now(), before, strict=True))
    assert now() == before
    with Pressure(False, random.Random(1)).kept_up():
        assert now() == before


def test_some_runs_are_under_pressure_and_some_have_a_disk_that_stands_still_by_seed() -> None:
    worlds = [World(Options(seed)) for seed in range(40)]
    assert 2 <= sum(world.pressure.wanted for world in worlds) <= 12
    still = [world for world in worlds if "still disk" in world.kinds]
    assert 4 <= len(still) <= 20
    for world in still:  # the other faults, and their numbers, are those that it has without
        usual = [kind for kind in world.kinds if kind in KINDS]
        assert world.faults[: len(world.faults) - sum(f.kind == "still disk" for f in world.faults)] == plan(
            _after_kinds(world), world.hosts, FIRST_FAULT_S, world.seconds, usual
        )
    assert not World(Options(16, kinds=("kill",))).pressure.wanted
    assert World(Options(16)).pressure.wanted


def _after_kinds(world: World) -> random.Random:
    drawing = world.stream("faults")
    choose_kinds(drawing)
    return drawing


def test_a_core_whose_invariant_is_broken_is_noticed(world: World) -> None:
    state = PartitionState()
    world.bounds.ask(PartitionState, PartitionState.validate, state)
    assert not noticed(world)
    state.log_start = 1
    world.bounds.ask(PartitionState, PartitionState.validate, state)
    assert noticed(world) == "invariant"
