"""Snapshots between replicas (H3, H8, H16), played by hand."""

from __future__ import annotations

import dataclasses
import random

import pytest

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal
from stele.services.raft.replication import OFFER_PATIENCE_S, Replication
from stele.services.raft.snapshot_offer import SnapshotOffer, from_pb, to_pb
from stele.services.raft.storage import Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench


def behind(cut_off: int = 3) -> Bench:
    """A leader whose log begins behind what ``cut_off`` has."""
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"a")
    bench.settle()
    others = [i for i in bench.ids if i != cut_off]
    for i in others:
        bench.engines[i].disconnected(cut_off)
        bench.engines[cut_off].disconnected(i)
    bench.propose(1, *(b"b-%d" % i for i in range(20)))
    bench.settle(without=(cut_off,))
    bench.compact(1)
    bench.propose(1, b"c")
    bench.settle(without=(cut_off,))
    return bench


def reconnect(bench: Bench, i: int) -> None:
    for other in bench.ids:
        if other != i:
            bench.engines[other].connected(i)
            bench.engines[i].connected(other)


def test_a_follower_behind_the_start_gets_a_snapshot_and_then_the_log() -> None:
    bench = behind()
    assert bench.engines[1].journal.first_index > bench.engines[3].journal.last_index + 1
    reconnect(bench, 3)
    bench.settle(2)
    assert bench.engines[3].offer is not None
    assert bench.fetch(3)
    bench.settle(4)
    assert bench.machines[3].applied == bench.machines[1].applied
    assert bench.engines[3].journal.first_index == bench.engines[1].journal.first_index
    assert bench.terms(3) == bench.terms(1)
    bench.propose(1, b"d")
    bench.settle()
    assert bench.machines[3].applied[-1] == b"d"


async def test_h16_a_long_transfer_silences_nobody() -> None:
    @with_part
    async def scenario() -> None:
        bench = behind()
        reconnect(bench, 3)
        for _ in range(40):  # six seconds of a transfer that goes on
            bench.settle(1)
        with promise("a long transfer silences nobody"):
            assert bench.engines[1].is_leader
            assert bench.engines[3].leader == 1
            assert len({e.term for e in bench.engines.values()}) == 1
            assert bench.engines[1].offered_index == bench.engines[3].offer.snapshot.index  # type: ignore[union-attr]
        assert bench.fetch(3)
        bench.settle(3)
        assert bench.engines[1].offered_index is None

    await holds_and_mutant_fails(scenario, Replication, "replication.FallsSilentOnceItOffers")


def test_h16_bytes_that_do_not_check_replace_nothing() -> None:
    from stele.services.errors import LogDamaged

    bench = behind()
    reconnect(bench, 3)
    bench.settle(2)
    before = bench.terms(3), bench.machines[3].applied
    with pytest.raises(LogDamaged):
        bench.fetch(3, state=b"b" * bench.engines[3].offer.snapshot.size)  # type: ignore[union-attr]
    assert (bench.terms(3), bench.machines[3].applied) == before
    bench.settle(2)
    assert bench.fetch(3)


def test_h16_a_state_that_the_machine_cannot_read_replaces_nothing() -> None:
    bench = behind()
    reconnect(bench, 3)
    bench.settle(2)
    offer = bench.engines[3].offer
    assert offer is not None
    before = bench.terms(3)
    with pytest.raises(ValueError, match="no state"):
        bench.engines[3].install(offer.snapshot, b"?")
    assert bench.terms(3) == before
    assert bench.engines[3].failed is None


async def test_h3_an_old_snapshot_does_not_roll_the_state_back() -> None:
    @with_part
    async def scenario() -> None:
        bench = behind()
        reconnect(bench, 3)
        bench.settle(2)
        late = bench.engines[3].offer
        assert late is not None
        state = bench.snapshots[1].read(late.snapshot.index)
        bench.fetch(3)
        bench.propose(1, *(b"d-%d" % i for i in range(10)))
        bench.settle()
        applied = list(bench.machines[3].applied)
        offer = pb.SnapshotOffer(request=10_000, snapshot=to_pb(late.snapshot, 0))
        bench.engines[3].receive(1, pb.RaftMessage(group=7, term=bench.engines[1].term, snapshot_offer=offer))
        bench.snapshots[3].stage(late.snapshot, bench.snapshots[3].staged(late.snapshot), state)
        bench.engines[3].install(late.snapshot, state)  # a transfer that ends late
        bench.turn(3)
        with promise("a state machine never goes back"):
            assert bench.machines[3].applied == applied
        assert bench.engines[3].applied_index >= late.snapshot.index

    await holds_and_mutant_fails(scenario, SnapshotOffer, "replication.InstallsWhatIsOld")


async def test_h2_a_snapshot_offer_commits_nothing_that_it_did_not_verify() -> None:
    @with_part
    async def scenario() -> None:
        bench = behind()
        leader = bench.engines[1]
        follower = bench.engines[3]
        last = follower.journal.last_index
        from stele.services.raft.storage import Entry

        follower.journal.append(Entry(last + 1, follower.term, 0, b"never committed"))
        bench.flush(3)
        reconnect(bench, 3)
        bench.settle(2)
        assert follower.offer is not None
        with promise("an offer commits nothing that it did not verify"):
            assert follower.commit_index <= last
            assert leader.match_index(3) <= last
            assert b"never committed" not in bench.machines[3].applied

    await holds_and_mutant_fails(scenario, SnapshotOffer, "replication.TrustsTheOffer")


def test_a_log_that_holds_the_entry_keeps_what_stands_behind_it() -> None:
    bench = behind()
    follower = bench.engines[2]
    snapshot = bench.snapshots[1].snapshots[0]
    before = bench.terms(2)
    follower.receive(
        1,
        pb.RaftMessage(
            group=7, term=follower.term, snapshot_offer=pb.SnapshotOffer(request=10_000, snapshot=to_pb(snapshot, 0))
        ),
    )
    bench.turn(2)
    assert follower.offer is None
    assert not follower.install(snapshot, b"")
    assert bench.terms(2) == before


def test_the_answer_to_a_snapshot_waits_for_its_durability() -> None:
    bench = behind()
    reconnect(bench, 3)
    bench.settle(2)
    bench.sync[3] = False
    bench.fetch(3)
    matches = [m.append_answer.match_index for m in bench.wires[(3, 1)] if m.HasField("append_answer")]
    assert max(matches, default=0) < bench.snapshots[1].snapshots[0].index
    bench.sync[3] = True
    bench.turn(3)
    bench.settle(3)
    assert bench.engines[1].match_index(3) == bench.engines[1].journal.last_index


async def test_h8_the_log_goes_only_after_the_snapshot_is_durable() -> None:
    """A crash after any change of the install leaves either the old log whole or the snapshot."""

    async def scenario(kind: type[Journal]) -> None:
        for changes in range(1, 4):
            bench = behind()
            reconnect(bench, 3)
            bench.settle(2)
            platter = bench.platters[3]
            bench.engines[3].journal.__class__ = kind
            held = platter.synced.copy()
            bench.sync[3] = False
            bench.fetch(3)
            flush = bench.engines[3].journal.begin()
            assert flush is not None
            while len(flush.changes) > changes:  # the crash comes before these
                flush.changes.pop()
            flush.run()
            platter.crash(random.Random(changes))
            whole = platter.synced.entries == held.entries
            with promise("a log is emptied behind a durable snapshot"):
                assert whole or platter.snapshots, "neither the log nor what stands for it"

    await holds_and_mutant_fails(scenario, Journal, "snapshots.ResetsFirst")


def test_compaction_is_held_back_for_whoever_fetches() -> None:
    bench = behind()
    reconnect(bench, 3)
    bench.settle(2)
    assert bench.engines[1].offered_index == bench.snapshots[1].snapshots[0].index
    bench.engines[1].disconnected(3)
    bench.now += 3.0  # it has died: nothing is held back for ever
    for i in (1, 2):
        bench.engines[i].election.leader_active_at = bench.now
    assert bench.engines[1].offered_index is None


async def test_p14_one_that_cannot_take_a_snapshot_holds_nobodys_log_for_ever() -> None:
    @with_part
    async def scenario() -> None:
        bench = behind()
        reconnect(bench, 3)
        began = bench.now
        while bench.now < began + OFFER_PATIENCE_S + 5:  # it answers, and its disk is full
            bench.settle(3)
        with promise("a log is compacted although one that lives cannot take a snapshot"):
            assert bench.engines[1].is_leader
            assert bench.engines[3].offer is not None
            assert bench.engines[1].offered_index is None

    await holds_and_mutant_fails(scenario, Replication, "replication.WaitsForEverForAFetch")


def test_the_log_is_read_while_its_start_is_dropped() -> None:
    """Between the thread that drops segments and the loop that learns of it."""
    bench = behind()
    journal = bench.engines[2].journal
    bench.take_snapshot(2)
    index = bench.snapshots[2].snapshots[-1].index
    journal.compact(index)
    flush = journal.begin()
    assert flush is not None
    flush.run()
    bench.propose(1, b"d")
    bench.deliver(1, 2)
    assert bench.engines[2].failed is None
    assert [e.index for e in journal.read(index + 1, index + 1, 1)] == [index + 1]
    with pytest.raises(IndexError):
        journal.read(index, index, 1)
    assert journal.finish(flush) is None
    bench.settle()
    assert bench.machines[2].applied == bench.machines[1].applied


def test_a_restart_goes_on_from_the_snapshot() -> None:
    bench = behind()
    applied = list(bench.machines[1].applied)
    members = bench.engines[1].members
    bench.crash(1)
    engine = bench.engines[1]
    assert engine.applied_index == bench.snapshots[1].snapshots[-1].index
    assert engine.members == members == Members((1, 2, 3))
    bench.elect(2, without=(3,))
    bench.settle(6, without=(3,))
    assert bench.machines[1].applied == applied


def test_r4_5_a_log_that_is_lost_twice_comes_back() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, *(b"a-%d" % i for i in range(10)))
    bench.settle()

    def lose() -> None:
        platter = bench.platters[3]
        platter.synced.entries.clear()
        platter.unsynced.clear()
        platter.recovering = True
        bench.crash(3)

    lose()
    bench.settle(5)
    assert bench.engines[3].recovery.holds_again
    lose()  # before it counted again
    bench.settle(5)
    assert bench.engines[3].recovery.holds_again
    assert bench.terms(3) == bench.terms(1)


def test_r4_5_a_replica_that_lost_its_log_comes_back_by_snapshot_and_counts_only_then() -> None:
    bench = behind()
    reconnect(bench, 3)
    platter = bench.platters[3]
    platter.synced.entries.clear()
    platter.unsynced.clear()
    platter.recovering = True
    bench.crash(3)
    bench.settle(3)
    assert bench.engines[3].offer is not None
    assert bench.fetch(3)
    bench.settle(3)
    assert bench.engines[3].recovering
    assert bench.engines[3].recovery.holds_again
    bench.engines[3].recovered()
    bench.propose(1, b"z")
    bench.settle(3)
    assert bench.machines[3].applied[-1] == b"z"


def test_p36_an_offer_tells_an_age_and_makes_no_snapshot_older_than_it_is() -> None:
    bench = behind()
    snapshot = dataclasses.replace(bench.snapshots[1].snapshots[0], taken_ms=5_000)
    offered = to_pb(snapshot, 65_000)
    assert offered.age_ms == 60_000
    taken = from_pb(offered, 1_000_000)
    assert taken == snapshot, "when it was taken is not part of what makes a snapshot the same"
    assert taken.taken_ms == 940_000
    assert from_pb(offered, 10).taken_ms == 0, "a store that is younger than the snapshot"
    assert to_pb(snapshot, 4_000).age_ms == 0, "one that seems to be of the future"
