"""Leadership passes to a successor that holds everything, and nothing is taken meanwhile."""

from __future__ import annotations

import contextlib

import pytest

from stele.services.errors import NotLeader, ProposalLost
from stele.services.raft.handover import Handover
from stele.services.raft.storage import Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench


def led(count: int = 3) -> Bench:
    bench = Bench(count)
    bench.elect(1)
    bench.settle()
    return bench


def exchange(bench: Bench, *pairs: tuple[int, int]) -> None:
    for a, b in pairs:
        bench.deliver(a, b)
        bench.deliver(b, a)


async def test_r4_8_a_leader_under_load_hands_over_without_a_failed_election() -> None:
    @with_part
    async def scenario() -> None:
        bench = led()
        term = bench.engines[1].term
        for n in range(12):
            bench.now += 0.01
            if n == 2:
                assert bench.engines[1].transfer_leadership(2)
            with contextlib.suppress(NotLeader):
                bench.propose(1, b"%d" % n)
            bench.turn(1)
            exchange(bench, (1, 3), (1, 2), (2, 3))  # the one that does not succeed hears everything first
        with promise("leadership passes without an election that fails"):
            assert bench.engines[2].is_leader
            assert bench.engines[2].term == term + 1

    await holds_and_mutant_fails(scenario, Handover, "elections.TakesOnWhileItHandsOver")


async def test_r4_8_what_was_proposed_before_a_handover_is_answered() -> None:
    @with_part
    async def scenario() -> None:
        bench = led()
        bench.propose(1, b"a", b"b")
        assert bench.engines[1].transfer_leadership(2)
        bench.settle()
        assert bench.engines[2].is_leader
        with promise("what was proposed before a handover is answered"):
            assert bench.outcomes == {b"a": 1, b"b": 2}

    await holds_and_mutant_fails(scenario, Handover, "elections.AsksBeforeItHoldsAll")


def test_what_is_proposed_meanwhile_is_refused_for_certain_and_sent_to_the_successor() -> None:
    bench = led()
    leader, last = bench.engines[1], bench.engines[1].journal.last_index
    assert leader.transfer_leadership(2)
    with pytest.raises(NotLeader) as refused:
        bench.propose(1, b"late")
    assert refused.value.definite
    assert refused.value.facts["leader"] == "2"
    with pytest.raises(NotLeader):
        leader.change_members(Members((1, 2)), lambda result, error: None)
    assert leader.journal.last_index == last
    assert leader.is_leader


def test_a_successor_that_may_not_campaign_is_given_up_and_another_one_asked() -> None:
    bench = led()
    leader = bench.engines[1]
    bench.may_lead[2] = False
    assert leader.transfer_leadership(2)
    bench.settle(2)
    with pytest.raises(NotLeader):
        bench.propose(1, b"early")
    bench.settle(2)
    bench.propose(1, b"a")
    bench.settle(2)
    assert leader.is_leader
    assert bench.outcomes == {b"a": 1}
    assert not leader.transfer_leadership(2), "asked in vain a moment ago"
    assert leader.transfer_leadership()
    bench.settle(2)
    assert bench.engines[3].is_leader


def test_a_successor_that_is_cut_off_is_given_up_at_once() -> None:
    bench = led()
    leader = bench.engines[1]
    assert leader.transfer_leadership(2)
    leader.disconnected(2)
    bench.turn(1)
    bench.propose(1, b"a")
    exchange(bench, (1, 3))
    assert bench.outcomes == {b"a": 1}


def test_one_handover_is_under_way_at_a_time() -> None:
    bench = led()
    leader = bench.engines[1]
    assert leader.transfer_leadership(2)
    assert leader.transfer_leadership(2)
    assert leader.transfer_leadership()
    assert not leader.transfer_leadership(3)
    bench.settle(2)
    assert bench.engines[2].is_leader
    assert not leader.transfer_leadership(3)


def test_a_follower_that_lacks_what_is_committed_succeeds_nobody() -> None:
    bench = led()
    bench.propose(1, b"a")
    exchange(bench, (1, 3))
    assert bench.outcomes == {b"a": 1}
    assert not bench.engines[1].transfer_leadership(2)
    assert bench.engines[1].transfer_leadership()
    bench.settle(2)
    assert bench.engines[3].is_leader


def test_who_loses_leadership_while_it_hands_over_has_no_handover_left() -> None:
    bench = led()
    bench.propose(1, b"a")
    assert bench.engines[1].transfer_leadership(2)
    bench.wires.clear()
    bench.elect(3, without=(1,))
    bench.settle(3)
    assert isinstance(bench.outcomes[b"a"], ProposalLost)
    assert not bench.engines[1].handover.successor
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"b")
    bench.settle(2)
    assert bench.engines[1].is_leader
    assert not isinstance(bench.outcomes[b"b"], Exception)
