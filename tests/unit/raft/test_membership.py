"""Membership (H6): the rule as a table, and changes played by hand."""

from __future__ import annotations

import pytest

from stele.services.errors import InvalidArgument, NotReady, SteleError
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.engine import Engine
from stele.services.raft.journal import Journal
from stele.services.raft.membership import MemberHistory, check_change, check_ready, decode, encode
from stele.services.raft.quorum import is_majority
from stele.services.raft.storage import MEMBERSHIP, Entry, Members, Snapshot
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench

THREE = Members((1, 2, 3))


@pytest.mark.parametrize(
    ("now", "wanted", "allowed"),
    [
        (THREE, Members((1, 2, 3), (4,)), True),
        (Members((1, 2, 3), (4,)), Members((1, 2, 3, 4)), True),
        (THREE, Members((1, 2)), True),
        (Members((1, 2, 3), (4,)), THREE, True),
        (THREE, Members((1, 2), (3,)), True),  # a voter becomes a learner
        (THREE, Members((1, 2, 3, 4)), False),  # never a learner
        (THREE, Members((1,)), False),
        (THREE, THREE, False),
        (Members((1,)), Members(()), False),
        (Members((1, 2, 3), (4,)), Members((1, 2, 4)), False),  # one in, one out
        (THREE, Members((1, 2, 3), (3,)), False),
        (THREE, Members((1, 2, 3, 3)), False),
        (THREE, Members((1, 2, 3), (0,)), False),
        (Members(tuple(range(1, 33))), Members(tuple(range(1, 33)), (33,)), False),
    ],
)
def test_one_step_at_a_time(now: Members, wanted: Members, allowed: bool) -> None:
    if allowed:
        check_change(now, wanted)
        return
    with pytest.raises(InvalidArgument):
        check_change(now, wanted)


def test_majorities_of_neighbouring_sets_meet() -> None:
    """Exhaustively for up to five voters: what makes single changes safe."""
    for count in range(1, 6):
        before, after = Members(tuple(range(1, count + 1))), Members(tuple(range(1, count + 2)))
        everybody = after.voters
        sets = [{v for i, v in enumerate(everybody) if bits >> i & 1} for bits in range(1 << len(everybody))]
        for a in (s for s in sets if is_majority(s, before.voters)):
            for b in (s for s in sets if is_majority(s, after.voters)):
                assert a & b


def test_what_is_encoded_is_decoded_and_nothing_else() -> None:
    members = Members((1, 2, 3), (9,))
    assert decode(encode(members)) == members
    for bad in (b"", b"\xff", b"x" * 20, encode(Members((), (1,))), encode(members) + b"\x18\x01"):
        with pytest.raises(ValueError, match="cannot be read"):
            decode(bad)


def test_history_goes_back_when_the_log_is_cut() -> None:
    def entry(index: int, *voters: int) -> Entry:
        return Entry(index, 1, MEMBERSHIP, encode(Members(voters)))

    history = MemberHistory(0, THREE, [entry(5, 1, 2)])
    history.appended(entry(9, 1, 2, 4))
    assert (history.index, history.current) == (9, Members((1, 2, 4)))
    assert [history.at(i).voters for i in (4, 5, 8, 9)] == [(1, 2, 3), (1, 2), (1, 2), (1, 2, 4)]
    history.truncated(9)
    assert (history.index, history.current) == (5, Members((1, 2)))
    history.forget_before(7)
    assert history.at(7) == Members((1, 2))
    history.installed(Snapshot(20, 3, Members((7,)), 0, 0, 0, 0))
    assert (history.index, history.current) == (20, Members((7,)))


def grown() -> Bench:
    """Three voters, and store 4 as a learner that has everything."""
    bench = Bench(3, spare=1)
    bench.elect(1, without=(4,))
    bench.settle()
    bench.propose(1, b"a")
    bench.change(1, Members((1, 2, 3), (4,)))
    bench.settle()
    return bench


def refused(leader: Engine, members: Members) -> str:
    """Why the change has to wait; empty if it was begun."""
    try:
        leader.change_members(members, lambda result, error: None)
    except NotReady as e:
        return e.message
    return ""


def test_a_learner_gets_the_log_and_is_not_counted() -> None:
    bench = grown()
    assert bench.changes == [None]
    assert bench.machines[4].applied == [b"a"]
    assert bench.engines[4].members == Members((1, 2, 3), (4,))
    bench.sync[2] = bench.sync[3] = False
    bench.propose(1, b"b")
    bench.settle(3)
    assert b"b" not in bench.outcomes, "the leader and a learner are no majority of three"
    bench.now += 10
    bench.turn(4)
    assert bench.engines[4].state == "follower", "a learner does not campaign"


def test_a_learner_is_built_no_faster_than_the_bound_and_voters_are_not_held_up() -> None:
    bench = Bench(3, spare=1)
    leader = bench.elect(1, without=(4,))
    bench.settle(without=(4,))
    leader.replication.pace = pace = BuildPace(1000)
    pace.took(
        3500, bench.now
    )  # as if other partitions had sent so much: three seconds and a half, less what may be late
    bench.change(1, Members((1, 2, 3), (4,)))
    bench.propose(1, b"a")
    bench.settle()
    assert all(bench.machines[i].applied == [b"a"] for i in (1, 2, 3))
    assert bench.machines[4].applied == [], "it is not its turn yet"
    assert b"a" in bench.outcomes
    bench.now += 3.0
    paid_at_s = pace.wait_s(0.0)
    bench.settle()
    assert bench.machines[4].applied == [b"a"]
    assert bench.engines[1].is_leader, "heartbeats went on meanwhile"
    assert pace.wait_s(0.0) > paid_at_s, "what it was sent is counted"


def test_a_learner_is_promoted_once_it_has_caught_up() -> None:
    bench = Bench(3, spare=1)
    leader = bench.elect(1, without=(4,))
    bench.settle(without=(4,))
    bench.propose(1, *(b"x-%d" % i for i in range(50)))
    bench.settle(without=(4,))
    bench.change(1, Members((1, 2, 3), (4,)))
    bench.settle(without=(4,))
    with pytest.raises(NotReady, match="store 4 holds"):
        leader.change_members(Members((1, 2, 3, 4)), lambda result, error: None)
    bench.settle()
    bench.change(1, Members((1, 2, 3, 4)))
    bench.settle()
    assert bench.changes == [None, None]
    assert {e.members for e in bench.engines.values()} == {Members((1, 2, 3, 4))}
    for stopped in (2, 3):
        bench.sync[stopped] = False
    bench.propose(1, b"y")
    bench.settle(3)
    assert b"y" not in bench.outcomes, "two of four are no majority"


def test_a_removed_member_is_not_counted_and_does_not_disturb() -> None:
    bench = grown()
    bench.change(1, Members((1, 2, 3, 4)))
    bench.settle()
    bench.change(1, Members((1, 2, 4)))
    bench.settle()
    assert bench.engines[1].members == Members((1, 2, 4))
    term = bench.engines[1].term
    for _ in range(30):
        bench.settle(1)
    assert bench.engines[1].is_leader
    assert bench.engines[1].term == term, "the removed one asks in vain"
    bench.sync[3] = False
    bench.sync[4] = False
    bench.propose(1, b"b")
    bench.settle()
    assert bench.outcomes[b"b"] == 2


async def test_h6_a_second_change_waits_for_the_first() -> None:
    """Both at once make majorities that do not meet: {1,2} of {1,2,3} and {3,4,5} of {1,2,3,4,5} (repro r9)."""

    @with_part
    async def scenario() -> None:
        bench = grown()
        for i in (2, 3, 4):
            bench.sync[i] = False
        leader = bench.engines[1]
        bench.change(1, Members((1, 2, 3, 4)))
        with promise("membership changes one at a time"):
            assert "already" in refused(leader, Members((1, 2, 4)))

    await holds_and_mutant_fails(scenario, check_ready, "replication.changes_two_at_once")


async def test_h6_a_new_leader_commits_an_entry_of_its_own_before_it_changes_members() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench(3, spare=1)
        leader = bench.elect(1, without=(3,))
        with promise("membership changes one at a time"):
            assert "not current" in refused(leader, Members((1, 2, 3), (4,)))

    await holds_and_mutant_fails(scenario, check_ready, "replication.changes_two_at_once")


def test_h6_a_change_that_is_cut_off_is_out_of_force() -> None:
    bench = Bench(3, spare=1)
    bench.elect(1)
    bench.settle()
    for other in (2, 3):
        bench.engines[1].disconnected(other)
        bench.engines[other].disconnected(1)
    bench.change(1, Members((1, 2, 3), (4,)))
    assert bench.engines[1].members == Members((1, 2, 3), (4,))
    bench.elect(2, without=(1,))
    bench.propose(2, b"kept")
    bench.settle(3, without=(1,))
    for other in (2, 3):
        bench.engines[1].connected(other)
        bench.engines[other].connected(1)
    bench.settle()
    assert bench.engines[1].members == THREE
    assert isinstance(bench.changes[0], SteleError)
    assert {e.members for i, e in bench.engines.items() if i != 4} == {THREE}


async def test_h6_members_come_from_the_log_and_from_the_snapshot() -> None:
    async def scenario(kind: type[Journal]) -> None:
        bench = grown()
        for compacted in (False, True):
            if compacted:
                bench.compact(1)
                assert bench.engines[1].journal.first_index > bench.engines[1].journal.members.index
            journal = kind(bench.logs[1], bench.engines[1].journal._terms, bench.snapshots[1], bench.first_members)
            with promise("a restarted replica has the members that its log says"):
                assert journal.members.current == Members((1, 2, 3), (4,))

    await holds_and_mutant_fails(scenario, Journal, "replication.ForgetsTheLog")


def test_h6_a_member_that_comes_back_holds_nothing_until_it_says_so() -> None:
    """Whatever this leader knew of it in a term before: it was out meanwhile, and its log may have been cut or lost."""
    bench = grown()
    leader = bench.engines[1]
    assert leader.match_index(4) > 0
    bench.elect(2, without=(1,))
    bench.settle()
    bench.change(2, THREE)
    bench.settle()
    bench.elect(1, without=(2,))
    bench.settle()
    bench.change(1, Members((1, 2, 3), (4,)))
    assert leader.is_leader
    assert leader.match_index(4) == 0
    assert not leader.is_caught_up(4)
    bench.settle()
    assert leader.is_caught_up(4)


def test_a_joining_replica_is_silent_until_it_is_told() -> None:
    bench = Bench(3, spare=1)
    bench.now += 60
    bench.turn(4)
    assert bench.engines[4].state == "follower"
    assert not any(bench.wires[(4, i)] for i in (1, 2, 3))


def test_nobody_is_removed_whom_the_others_cannot_spare() -> None:
    """One that lost its log neither votes nor counts: without the other follower nobody could be elected."""
    bench = Bench(3, spare=1)
    leader = bench.elect(1, without=(4,))
    bench.settle()
    bench.propose(1, b"a")
    bench.settle()
    platter = bench.platters[2]
    platter.synced.entries.clear()
    platter.recovering = True
    bench.crash(2)
    bench.turn(1)
    bench.deliver(1, 2)
    bench.deliver(2, 1)
    assert "too few" in refused(leader, Members((1, 2)))
    assert refused(leader, Members((1, 3))) == "", "the one that counts nowhere can go"


def test_a_dead_member_can_be_removed() -> None:
    bench = Bench(3)
    leader = bench.elect(1)
    bench.settle()
    leader.disconnected(3)
    for _ in range(20):
        bench.settle(1, without=(3,))
    assert "too few" in refused(leader, Members((1, 3)))
    assert refused(leader, Members((1, 2))) == ""


def test_a_leader_does_not_remove_itself() -> None:
    bench = grown()
    with pytest.raises(InvalidArgument, match="transfer its leadership first"):
        bench.engines[1].change_members(Members((2, 3), (4,)), lambda result, error: None)


def test_a_member_that_joins_after_compaction_comes_by_snapshot() -> None:
    bench = Bench(3, spare=1)
    bench.elect(1, without=(4,))
    bench.settle()
    bench.propose(1, *(b"x-%d" % i for i in range(20)))
    bench.settle()
    bench.compact(1)
    bench.change(1, Members((1, 2, 3), (4,)))
    bench.settle(3)
    assert bench.engines[4].offer is not None
    bench.fetch(4)
    bench.settle(3)
    assert bench.engines[4].members == Members((1, 2, 3), (4,))
    bench.change(1, Members((1, 2, 3, 4)))
    bench.settle()
    assert bench.machines[4].applied == bench.machines[1].applied
