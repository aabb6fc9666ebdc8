"""Each hole of the library, by its number in docs/reference/raft.md, played by hand against the corrected engine."""

from __future__ import annotations

import hashlib
import inspect
import pickle

import pytest
from pysyncobj import SyncObj

from stele.services.errors import (
    GroupStopped,
    LogDamaged,
    MessageTooLarge,
    NotLeader,
    ProposalLost,
    SteleError,
    StorageFailed,
)
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.election import RaftElection
from stele.services.raft.engine import Engine
from stele.services.raft.follower import Follower
from stele.services.raft.journal import Journal
from stele.services.raft.outbox import Outbox
from stele.services.raft.proposals import Proposals
from stele.services.raft.pysyncobj_adapter import RELIED_UPON
from stele.services.raft.replication import Replication
from stele.services.raft.storage import MEMBERSHIP, Entry, Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench
from tests.unit.raft.platter import Platter, SimulatedLog, SimulatedSnapshots, SimulatedTerms

PINNED = "7cf0b6db1fcbee2b"


def test_the_library_is_the_one_we_read() -> None:
    """An upgrade is a decision: read the new source of these methods first, then change the hash."""
    source = "".join(inspect.getsource(getattr(SyncObj, name)) for name in RELIED_UPON)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == PINNED


def test_h1_a_duplicate_request_does_not_cut_the_acknowledged_tail() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"a")
    (old,) = [m for m in bench.wires[(1, 2)] if m.append_entries.payloads]
    bench.settle()
    bench.propose(1, b"b", b"c")
    bench.settle()
    before = bench.terms(2)
    bench.engines[2].receive(1, old)  # arrives a second time
    bench.turn(2)
    assert bench.terms(2) == before


def test_h1_an_early_answer_does_not_move_next_index_back() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    for command in (b"a", b"b", b"c"):
        bench.propose(1, command)
    ahead = leader.replication.followers[2].next_index
    bench.deliver(1, 2, count=1)
    bench.deliver(2, 1)
    assert leader.replication.followers[2].next_index == ahead


def test_h1_only_a_conflict_truncates() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"lost-1", b"lost-2")  # never delivered
    for wire in bench.wires.values():
        wire.clear()
    bench.elect(2, without=(1,))
    bench.propose(2, b"kept")
    bench.settle(12)
    assert bench.terms(1) == bench.terms(2) == bench.terms(3)
    assert [m.applied for m in bench.machines.values()] == [[b"kept"]] * 3
    assert isinstance(bench.outcomes[b"lost-1"], ProposalLost)


def test_h2_commit_moves_only_to_what_the_message_verified() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    follower = bench.engines[2]
    verified = follower.journal.last_index
    stale = Entry(verified + 1, follower.term, 0, b"unverified")
    follower.journal.append(stale)
    heartbeat = pb.AppendEntries(
        request=10_000,
        prev_log_index=verified,
        prev_log_term=follower.journal.term_at(verified),
        commit_index=verified + 50,
    )
    follower.receive(1, pb.RaftMessage(group=7, term=follower.term, append_entries=heartbeat))
    bench.turn(2)
    assert follower.commit_index == verified


async def test_h4_an_answer_of_another_term_does_not_count() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench(5)
        leader = bench.elect(1)
        bench.settle()
        for i in (2, 3, 4, 5):
            bench.sync[i] = False
        bench.propose(1, b"a")
        index = leader.journal.last_index
        late = pb.AppendAnswer(request=1, request_term=leader.term - 1, success=True, match_index=index)
        for sender in (2, 3, 4):
            leader.receive(sender, pb.RaftMessage(group=7, term=leader.term, append_answer=late))
        bench.turn(1)
        with promise("an answer counts in the term that asked for it"):
            assert leader.commit_index < index
            assert b"a" not in bench.outcomes

    await holds_and_mutant_fails(scenario, Replication, "replication.CountsLateAnswers")


async def test_h5_one_voter_is_one_vote() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench(5)
        engine = bench.engines[1]
        engine._campaign()
        bench.turn(1)
        vote = pb.RaftMessage(
            group=7, term=engine.term, vote_answer=pb.VoteAnswer(granted=True, voted_term=engine.term)
        )
        for _ in range(5):
            engine.receive(2, vote)
        with promise("one leader per term"):
            assert engine.state == "candidate"
        engine.receive(3, vote)
        assert engine.is_leader

    await holds_and_mutant_fails(scenario, RaftElection, "elections.CountsVotesTwice")


def test_h17_pickles_from_the_wire_change_nothing() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    last = leader.journal.last_index
    evil = pickle.dumps(["add", 9, 9])
    request = pb.AppendEntries(
        request=10_000,
        prev_log_index=last,
        prev_log_term=leader.journal.last_term,
        commit_index=last + 1,
        payloads=[evil],
        runs=[pb.EntryRun(term=leader.term, kind=MEMBERSHIP, count=1)],
    )
    follower = bench.engines[2]
    follower.receive(1, pb.RaftMessage(group=7, term=leader.term, append_entries=request))
    bench.turn(2)
    assert follower.members == Members((1, 2, 3))
    assert follower.applied_index == last + 1


async def test_h7_a_replica_counts_itself_only_after_its_own_sync() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        leader = bench.elect(1)
        bench.settle()
        bench.sync[1] = bench.sync[3] = False
        bench.propose(1, b"a")
        bench.deliver(1, 2)
        bench.deliver(2, 1)
        with promise("a leader counts what it has synced"):
            assert b"a" not in bench.outcomes, "one synced copy of three"
        bench.flush(1)
        bench.turn(1)
        assert bench.outcomes[b"a"] == 1
        assert leader.commit_index == leader.journal.last_index

    await holds_and_mutant_fails(scenario, Replication, "replication.CountsItself")


async def test_r3_8_a_vote_that_could_not_be_written_is_neither_granted_nor_asked_for() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        for i in bench.ids:
            bench.sync[i] = False
        bench.engines[1]._campaign()
        bench.turn(1)
        with promise("nothing is promised before it is synced"):
            assert not bench.wires[(1, 2)], "asked for votes before its own was written"
        bench.sync[1] = True
        bench.turn(1)
        asked = bench.deliver(1, 2)
        assert asked
        assert not bench.wires[(2, 1)], "granted before the vote was written"

        def fails(term: int, voted_for: int) -> None:
            raise OSError(5, "simulated EIO")

        bench.engines[2].journal._terms.store = fails  # type: ignore[method-assign]
        bench.flush(2)
        bench.turn(2)
        assert not bench.wires[(2, 1)]
        assert bench.engines[2].state == "failed"

    await holds_and_mutant_fails(scenario, Outbox, "replication.PromisesFirst")


def test_h7_a_vote_survives_the_crash_that_follows_it() -> None:
    bench = Bench()
    bench.engines[1]._campaign()
    bench.turn(1)
    bench.deliver(1, 3)
    assert [m.vote_answer.granted for m in bench.wires[(3, 1)]] == [True]
    term = bench.engines[3].term
    bench.crash(3)
    rival = pb.RaftMessage(group=7, term=term, request_vote=pb.RequestVote(last_log_index=99, last_log_term=term))
    bench.engines[3].receive(2, rival)
    bench.turn(3)
    assert not bench.wires[(3, 2)], "voted twice in one term"


def test_h9_nothing_is_committed_from_disk_alone() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"a")
    bench.settle()
    bench.crash(1)
    assert bench.engines[1].commit_index == 1
    assert bench.machines[1].applied == []
    bench.elect(2)
    bench.settle(10)
    assert bench.machines[1].applied == [b"a"]


def test_h11_an_exception_in_a_callback_neither_repeats_nor_skips() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()

    def raises(result: object, error: object) -> None:
        raise RuntimeError("a proposer's own fault")

    leader.propose(b"a", raises)
    bench.propose(1, b"b")
    bench.settle()
    assert [m.applied for m in bench.machines.values()] == [[b"a", b"b"]] * 3


def test_h11_a_replica_whose_machine_raises_stops_rather_than_guess() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()

    def raises(index: int, term: int, payload: bytes) -> object:
        raise RuntimeError("a fault of the machine")

    bench.machines[2].apply = raises  # type: ignore[method-assign]
    bench.propose(1, b"a")
    bench.settle()
    assert bench.engines[2].state == "failed"
    assert bench.machines[3].applied == [b"a"]


async def test_h12_proposals_end_when_leadership_is_lost_and_followers_refuse() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        bench.elect(1)
        bench.settle()
        bench.propose(1, b"a")
        for wire in bench.wires.values():
            wire.clear()
        bench.alone(1, 2.2)  # no majority heard for an election timeout (check-quorum, H15)
        with promise("a proposal ends with the leadership that took it"):
            ended = bench.outcomes.get(b"a")
            assert isinstance(ended, ProposalLost)
            assert not ended.definite
        with pytest.raises(NotLeader):
            bench.engines[1].propose(b"b", lambda result, error: None)

    await holds_and_mutant_fails(scenario, Proposals, "replication.LeavesProposalsUnanswered")


async def test_p18_what_a_replica_was_asked_before_it_ended_is_not_called_undone() -> None:
    """Both followers have the entry when the leader's replica is stopped; whoever leads next stores it."""

    @with_part
    async def scenario() -> None:
        for reason in (GroupStopped("the replica ends"), StorageFailed("its disk failed"), LogDamaged("its log")):
            bench = Bench()
            bench.elect(1)
            bench.settle()
            bench.propose(1, b"x")
            bench.deliver(1, 2)
            bench.deliver(1, 3)
            bench.engines[1].fail(reason)
            bench.elect(2, without=(1,))
            bench.settle(without=(1,))
            assert bench.machines[3].applied == [b"x"]
            with promise("an outcome that is not known is not called definite"):
                ended = bench.outcomes[b"x"]
                assert isinstance(ended, SteleError)
                assert not ended.definite
            with pytest.raises(type(reason)):  # whoever asks now is told the truth, too
                bench.engines[1].propose(b"y", lambda result, error: None)

    await holds_and_mutant_fails(scenario, Proposals, "replication.CallsTheUnknownDefinite")


async def test_h13_the_limit_is_enforced_when_proposing() -> None:
    async def scenario(engine: type[Engine]) -> None:
        bench = Bench(engine=engine)
        leader = bench.elect(1)
        with promise("an entry over the limit is refused"), pytest.raises(MessageTooLarge) as refused:
            leader.propose(b"x" * (1 << 20 | 1), lambda result, error: None)
        assert refused.value.facts["bytes_max"] == str(1 << 20)

    await holds_and_mutant_fails(scenario, Engine, "replication.TakesAnyLength")


def test_h14_a_stalled_follower_reads_what_waits_before_it_campaigns() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    bench.now += 0.16
    bench.turn(1)
    bench.now += 60.0  # the follower was stopped; a heartbeat waits
    for message in bench.wires[(1, 2)]:
        bench.engines[2].receive(1, message)
    bench.wires[(1, 2)].clear()
    term = bench.engines[2].term
    bench.turn(2)
    assert bench.engines[2].state == "follower"
    assert bench.engines[2].term == term == leader.term


def test_h14_a_stalled_leader_reads_what_waits_before_it_judges_its_followers() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    bench.now += 5.0  # stopped; nothing was asked of anybody meanwhile
    bench.turn(1)
    assert leader.is_leader
    bench.settle(3)
    assert leader.is_leader
    for _ in range(20):  # and with nobody there it does not go on for ever
        bench.now += 0.15
        bench.turn(1)
    assert not leader.is_leader


def test_h15_a_pre_vote_does_not_disturb_a_living_leader() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    term = leader.term
    bench.engines[3].election.deadline = bench.now
    bench.turn(3)
    bench.settle()
    assert leader.is_leader
    assert {e.term for e in bench.engines.values()} == {term}


def test_h15_answers_to_a_pre_vote_do_not_depose_who_was_elected_meanwhile() -> None:
    """Votes come late: the candidate asks for another term already when it is elected in this one."""
    bench = Bench()
    candidate = bench.engines[1]
    candidate._campaign()
    bench.turn(1)
    term = candidate.term
    candidate.election.deadline = bench.now
    bench.turn(1)  # asks whether it would be elected in the next term
    votes = pb.RaftMessage(group=7, term=term, vote_answer=pb.VoteAnswer(granted=True, voted_term=term))
    candidate.receive(2, votes)
    assert candidate.is_leader
    late = pb.VoteAnswer(pre_vote=True, granted=True, voted_term=term + 1)
    candidate.receive(2, pb.RaftMessage(group=7, term=term, vote_answer=late))
    assert candidate.is_leader
    assert candidate.term == term


def test_h15_a_deposed_leader_learns_the_higher_term_from_the_answer() -> None:
    bench = Bench()
    old = bench.elect(1)
    bench.settle()
    new = bench.elect(2, without=(1,))
    bench.now += 0.2
    bench.turn(1)
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    assert not old.is_leader
    assert old.term == new.term


async def test_h18_a_refusal_skips_a_whole_term() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        bench.elect(1)
        bench.settle()
        bench.propose(1, *(b"lost-%d" % i for i in range(200)))
        for wire in bench.wires.values():
            wire.clear()
        bench.elect(2, without=(1,))
        bench.propose(2, *(b"kept-%d" % i for i in range(50)))
        bench.settle(3, without=(1,))
        # A leader that begins behind all of them has to find out where the logs part; the one that wrote them knew.
        assert bench.engines[2].transfer_leadership(3)
        bench.settle(3, without=(1,))
        assert bench.engines[3].is_leader
        bench.engines[3].disconnected(1)
        bench.engines[3].connected(1)
        refusals = 0
        for _ in range(10):
            bench.now += 0.16
            bench.turn(3)
            bench.deliver(3, 1)
            answers = [m.append_answer for m in bench.deliver(1, 3) if m.HasField("append_answer")]
            refusals += sum(1 for answer in answers if not answer.success)
        assert refusals > 0, "nothing was refused: the logs do not conflict"
        with promise("logs that conflict are matched in a few round trips"):
            assert bench.terms(1) == bench.terms(3)
            assert refusals <= 3

    await holds_and_mutant_fails(scenario, Follower, "replication.GoesBackByOne")


def test_r4_2_a_closed_gate_votes_and_follows_but_does_not_campaign() -> None:
    bench = Bench()
    bench.may_lead[2] = bench.may_lead[3] = False
    bench.now += 10
    bench.turn(2)
    assert not bench.wires[(2, 1)]
    leader = bench.elect(1)
    bench.settle()
    assert leader.transfer_leadership(2)
    bench.settle()
    assert leader.is_leader


@pytest.mark.parametrize("pre_vote", [True, False])
async def test_r4_2_votes_that_come_when_the_gate_has_closed_make_no_leader(pre_vote: bool) -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        engine = bench.engines[1]
        if pre_vote:
            bench.now = engine.next_deadline()
        else:
            engine._campaign()
        bench.turn(1)
        state, term = engine.state, engine.term
        bench.may_lead[1] = False
        for other in (2, 3):
            bench.deliver(1, other)
            bench.deliver(other, 1)
        with promise("nobody begins to lead behind a closed gate"):
            assert (engine.state, engine.term) == (state, term)
        bench.elect(2)

    await holds_and_mutant_fails(scenario, RaftElection, "elections.WinsBehindTheGate")


def test_a_full_disk_hands_leadership_over_and_takes_no_writes() -> None:
    from stele.services.errors import DiskFull

    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    bench.logs[1].full = True

    def flush_full() -> None:
        flush = leader.journal.begin()
        assert flush is not None
        flush.run()
        assert isinstance(leader.journal.finish(flush), DiskFull)

    bench.sync[1] = False
    bench.propose(1, b"a")
    flush_full()
    with pytest.raises(DiskFull):
        leader.propose(b"b", lambda result, error: None)
    for _ in range(20):
        bench.settle(1)
    assert not leader.is_leader
    assert any(bench.engines[i].is_leader for i in (2, 3))
    bench.logs[1].full = False
    bench.sync[1] = True
    bench.settle(12)
    assert [m.applied for m in bench.machines.values()] == [[b"a"]] * 3


def test_the_journal_keeps_the_order_of_changes_and_retries_after_a_full_disk() -> None:
    platter = Platter()
    log = SimulatedLog(platter)
    journal = Journal(log, SimulatedTerms(platter), SimulatedSnapshots(platter), Members((1,)))
    for index in range(1, 6):
        journal.append(Entry(index, 1, 0, b"%d" % index))
    journal.store_term(2, 3)
    journal.truncate_from(4)
    journal.append(Entry(4, 2, 0, b"four"))
    log.full = True
    flush = journal.begin()
    assert flush is not None
    assert journal.begin() is None
    flush.run()
    assert journal.finish(flush) is not None
    assert journal.disk_full
    assert journal.synced_position == 0
    log.full = False
    flush = journal.begin()
    assert flush is not None
    flush.run()
    assert journal.finish(flush) is None
    assert journal.synced_position == journal.position
    assert journal.synced_index == 4
    assert [e.payload for e in platter.synced.entries] == [b"1", b"2", b"3", b"four"]
    assert platter.term == (2, 3)
