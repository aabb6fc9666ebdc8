"""A replica that lost entries which it had acknowledged, while it was down: its leader finds out, and it counts for nothing until it holds
them again (R4.5)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stele.services.errors import NotLeader
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.catch_up import CatchUp
from stele.services.raft.progress import Progress
from stele.services.raft.recovery import Recovery
from stele.services.raft.registry import Registry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench
from tests.unit.raft.lone import Commands, registry


def led(count: int = 3, commands: int = 8) -> Bench:
    """Store 1 leads; everybody holds everything."""
    bench = Bench(count)
    bench.elect(1)
    bench.settle()
    bench.propose(1, *(b"%d" % n for n in range(commands)))
    bench.settle()
    return bench


def cut(bench: Bench, i: int, keep: int) -> None:
    """Store ``i`` comes back with its log cut off behind entry ``keep``, and nothing in its folder says so."""
    del bench.platters[i].synced.entries[keep:]
    bench.platters[i].unsynced.clear()
    bench.crash(i)


def let_recover(bench: Bench, i: int) -> None:
    """What the caller of an engine does: that it recovers is durable, and that it does no more."""
    recovery = bench.engines[i].recovery
    if recovery.unmarked:
        bench.platters[i].recovering = True
        recovery.marked()
    if recovery.holds_again:
        bench.platters[i].recovering = False
        bench.engines[i].recovered()


async def a_lost_tail_is_sent_again() -> None:
    bench = led()
    cut(bench, 3, keep=6)
    with promise("what a follower lost is sent again"):
        bench.settle(4)
        assert bench.terms(3) == bench.terms(1)
        assert bench.engines[3].recovery.holds_again
    let_recover(bench, 3)
    bench.settle(2)
    assert not bench.engines[3].recovering
    bench.propose(1, b"x")
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    assert bench.outcomes[b"x"] == 9, "it counts again"


async def test_p38_a_lost_tail_is_sent_again() -> None:
    await holds_and_mutant_fails(
        with_part(a_lost_tail_is_sent_again), Progress, "replication.KeepsToWhatWasAcknowledged"
    )


async def what_was_lost_is_not_counted() -> None:
    """Stores 1 and 3 hold an entry that store 1 has not synced yet; then store 3 loses it."""
    bench = led()
    bench.sync[1] = False
    bench.propose(1, b"x")
    last = bench.engines[1].journal.last_index
    bench.wires[(1, 2)].clear()
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    assert bench.engines[1].match_index(3) == last
    cut(bench, 3, keep=6)
    bench.engines[1].disconnected(2)
    bench.turn(1)
    bench.deliver(1, 3)
    bench.deliver(3, 1, count=1)
    bench.sync[1] = True
    bench.turn(1)
    with promise("what was lost is not counted"):
        assert bench.engines[1].commit_index < last
        assert b"x" not in bench.outcomes


async def test_p38_what_was_lost_is_not_counted() -> None:
    await holds_and_mutant_fails(with_part(what_was_lost_is_not_counted), Progress, "replication.CountsWhatWasLost")


async def who_lost_entries_is_no_voter() -> None:
    """Store 3 acknowledged what store 2 never got, lost it, and hears its leader once before that one is gone."""
    bench = led()
    bench.engines[1].disconnected(2)
    bench.propose(1, b"x")
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    assert bench.outcomes[b"x"] == 9
    bench.wires[(1, 2)].clear()
    cut(bench, 3, keep=6)
    bench.engines[1].disconnected(2)
    bench.turn(1)
    bench.deliver(1, 3, count=1)
    bench.deliver(3, 1)  # it is found to lack entries
    bench.deliver(1, 3, count=1)  # and told so
    bench.wires[(1, 3)].clear()
    let_recover(bench, 3)
    for engine in bench.engines.values():
        engine.disconnected(1)
    bench.engines[2].peer_gone(1)
    for _ in range(40):
        bench.now += 0.1
        for i in (2, 3):
            bench.turn(i)
        bench.deliver(2, 3)
        bench.deliver(3, 2)
    with promise("who lost entries is no voter until it holds them again"):
        assert not bench.engines[2].is_leader
        assert not bench.engines[3].is_leader
    bench.crash(3)
    assert bench.engines[3].recovering, "a restart, half filled up, does not make it whole"


async def test_p38_a_replica_that_its_leader_told_so_does_not_vote() -> None:
    for mutant in ("elections.DoesNotListen", "elections.RecoversAtAWord"):
        await holds_and_mutant_fails(with_part(who_lost_entries_is_no_voter), Recovery, mutant)


async def a_late_refusal_takes_nothing_back() -> None:
    """Store 2 joins late, refuses the first request, and that refusal arrives once more when it has long acknowledged."""
    bench = Bench()
    bench.elect(1, without=(2,))
    bench.wires[(1, 2)].clear()
    bench.propose(1, b"a", b"b")
    bench.settle(4, without=(2,))
    bench.wires[(1, 2)].clear()
    bench.now += 0.2
    bench.turn(1)
    bench.deliver(1, 2)
    late = [m for m in bench.wires[(2, 1)] if not m.append_answer.success and m.append_answer.conflict_index]
    assert late
    bench.settle(4)
    progress = bench.engines[1].replication.followers[2]
    held = progress.match_index
    assert held == bench.engines[1].journal.last_index
    with promise("a late refusal takes nothing back"):
        for refusal in late:
            bench.engines[1].receive(2, refusal)
            bench.turn(1)
        assert progress.match_index == held
        assert not progress.recovering_until
        bench.settle(2)
        assert not bench.engines[2].recovering


async def test_p38_a_late_refusal_takes_nothing_back() -> None:
    await holds_and_mutant_fails(
        with_part(a_late_refusal_takes_nothing_back), Progress, "replication.BelievesLateRefusals"
    )


def test_p38_a_word_from_before_the_end_of_a_recovery_does_not_begin_another() -> None:
    bench = led()
    cut(bench, 3, keep=6)
    bench.turn(1)
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    old = [m for m in bench.wires[(1, 3)] if m.append_entries.recovered_at]
    assert old
    bench.settle(3)
    let_recover(bench, 3)
    bench.settle(2)
    assert not bench.engines[3].recovering
    for message in old:
        bench.engines[3].receive(1, message)
        bench.turn(3)
    assert not bench.engines[3].recovering


def test_p38_a_late_answer_does_not_make_one_recover_again() -> None:
    bench = led()
    cut(bench, 3, keep=6)
    bench.settle(3)
    bench.now += 0.2
    bench.turn(1)
    bench.deliver(1, 3)
    old = [m for m in bench.wires[(3, 1)] if m.append_answer.recovering]
    assert old
    let_recover(bench, 3)
    bench.settle(3)
    assert not bench.engines[1].replication.followers[3].recovering_until
    for answer in old:
        bench.engines[1].receive(3, answer)
    assert not bench.engines[1].replication.followers[3].recovering_until


def test_p38_an_older_copy_of_a_log_with_entries_of_another_term_is_noticed() -> None:
    """Its end conflicts with what it acknowledged since; it is not merely short."""
    bench = led()
    copy = bench.platters[3].synced.copy()
    assert bench.engines[1].transfer_leadership(2)
    bench.settle(3)
    leader = bench.engines[2]
    bench.propose(2, b"x", b"y")
    bench.settle(2)
    assert leader.is_leader
    assert bench.terms(3) == bench.terms(2)
    last = copy.entries[-1]
    copy.entries += [last._replace(index=last.index + n, term=last.term) for n in (1, 2)]
    bench.platters[3].synced = copy
    bench.platters[3].unsynced.clear()
    bench.crash(3)
    bench.turn(2)
    bench.deliver(2, 3)
    bench.deliver(3, 2)
    assert leader.replication.followers[3].recovering_until
    bench.settle(3)
    assert bench.engines[3].recovering
    assert bench.engines[3].recovery.holds_again
    assert bench.terms(3) == bench.terms(2)


def test_p38_where_the_leaders_log_begins_later_an_offer_tells_it() -> None:
    bench = led()
    bench.compact(1)
    cut(bench, 3, keep=4)
    bench.settle(3)
    assert bench.engines[3].offer is not None
    assert bench.engines[3].recovering
    assert bench.fetch(3)
    bench.settle(2)
    assert bench.engines[3].recovery.holds_again
    let_recover(bench, 3)
    bench.settle(2)
    assert not bench.engines[3].recovering
    assert bench.machines[3].applied == bench.machines[1].applied


def test_p38_a_tail_that_is_lost_again_before_it_is_whole_is_found_again() -> None:
    bench = led()
    cut(bench, 3, keep=6)
    bench.settle(3)
    assert bench.engines[3].recovery.holds_again
    cut(bench, 3, keep=4)  # nothing was durable of its recovery
    bench.settle(4)
    assert bench.engines[3].recovery.holds_again
    assert bench.terms(3) == bench.terms(1)


def test_p38_what_was_never_synced_is_no_loss() -> None:
    """A restart that loses what was received and not acknowledged voids nothing."""
    bench = led()
    bench.sync[3] = False
    bench.propose(1, b"x", b"y")
    bench.settle(2)
    bench.crash(3)
    bench.sync[3] = True
    bench.settle(4)
    assert not bench.engines[3].recovering
    assert not bench.engines[1].replication.followers[3].recovering_until
    assert bench.terms(3) == bench.terms(1)


def test_p38_with_the_other_follower_gone_writes_go_on_once_it_is_whole() -> None:
    bench = led()
    cut(bench, 3, keep=6)
    for i in (1, 3):
        bench.engines[i].disconnected(2)
    bench.propose(1, b"x")
    bench.settle(4, without=(2,))
    assert b"x" not in bench.outcomes
    let_recover(bench, 3)
    bench.settle(3, without=(2,))
    assert bench.outcomes[b"x"] == 9


async def a_replica_that_comes_no_further_does_not_hold_its_node() -> None:
    """Its leader speaks to it and it applies nothing: ten election timeouts, then the node goes on without it."""
    bench = led()
    bench.crash(3)
    engine = bench.engines[3]
    started = bench.now
    while not engine.caught_up:
        bench.now += 0.1
        word = pb.AppendEntries(request=1, prev_log_index=99, prev_log_term=1, commit_index=99)
        engine.receive(1, pb.RaftMessage(group=7, term=engine.term, append_entries=word))
        with promise("a replica that comes no further does not hold its node"):
            assert bench.now - started < 60
    assert bench.now - started > 10, "it has had time"
    assert engine.catch_up.is_stuck(bench.now)


async def test_p38_a_replica_that_comes_no_further_does_not_hold_its_node() -> None:
    await holds_and_mutant_fails(
        with_part(a_replica_that_comes_no_further_does_not_hold_its_node), CatchUp, "gate.WaitsForTheStuck"
    )


async def test_p38_a_replica_without_others_says_so_and_leads_no_more(tmp_path: Path) -> None:
    """Nobody has what it lost: without a leader the partition is unavailable, with one it would be rolled back."""
    groups = registry(Registry, tmp_path)
    folder = groups.path(1)
    folder.mkdir(parents=True)
    group = await groups.create(1, [1], Commands())
    await eventually(lambda: group.is_leader)
    for _ in range(20):
        await group.propose(b"x" * 100)
    await groups.close()
    [segment] = folder.glob("*.seg")
    os.truncate(segment, segment.stat().st_size - 500)

    groups = registry(Registry, tmp_path)
    try:
        group = await groups.create(1, [1], Commands())
        assert group.state == "recovering"
        assert "does not count until it has all again" in group.problem
        assert group.settled, "it does not hold its node"
        deadlines = {group.engine.election.deadline}
        await eventually(lambda: deadlines.add(group.engine.election.deadline) or len(deadlines) > 3)
        assert not group.is_leader
        with pytest.raises(NotLeader):
            await group.propose(b"y")
    finally:
        await groups.close()
