"""Messages that no replica can have said: dropped and counted, and the replica goes on (H17)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.door import LEAP_MAX, NUMBER_MAX, STRANGERS_LEAP_MAX, MessageRefused, check
from stele.services.raft.engine import Engine
from stele.services.raft.registry import Registry
from stele.services.raft.storage import Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.raft.bench import Bench
from tests.unit.raft.lone import Commands, registry

MEMBERS = Members((1, 2, 3), (4,))
LARGEST = (1 << 64) - 1
TERM = 5


def append(term: int = TERM, **fields: object) -> pb.RaftMessage:
    return pb.RaftMessage(group=7, term=term, append_entries=pb.AppendEntries(**fields))


def run(count: int = 1, term: int = TERM, kind: int = 0) -> pb.EntryRun:
    return pb.EntryRun(term=term, kind=kind, count=count)


def offer(**fields: object) -> pb.RaftMessage:
    snapshot = pb.SnapshotInfo(**{"index": 9, "term": 2, "members": pb.Members(voters=[1, 2, 3]), **fields})
    return pb.RaftMessage(group=7, term=TERM, snapshot_offer=pb.SnapshotOffer(request=1, snapshot=snapshot))


REFUSED = {
    "nothing": pb.RaftMessage(group=7, term=TERM),
    "the largest term": pb.RaftMessage(group=7, term=LARGEST, awake=pb.Awake()),
    "a leap of terms": pb.RaftMessage(group=7, term=TERM + LEAP_MAX + 1, awake=pb.Awake()),
    "payloads without runs": append(payloads=[b"a"]),
    "runs without payloads": append(runs=[run()]),
    "an empty run": append(runs=[run(0)]),
    "a count beyond everything": append(payloads=[b"a"], runs=[run(LARGEST)]),
    "a kind that the log does not have": append(payloads=[b"a"], runs=[run(kind=200)]),
    "a term after the leader's": append(payloads=[b"a"], runs=[run(term=TERM + 1)]),
    "terms that fall": append(payloads=[b"a", b"b"], runs=[run(term=4), run(term=3)]),
    "a term before the entry before": append(prev_log_index=3, prev_log_term=4, payloads=[b"a"], runs=[run(term=3)]),
    "an index at the end of numbers": append(prev_log_index=LARGEST, payloads=[b"a"], runs=[run()]),
    "a commit index out of range": append(commit_index=LARGEST),
    "a request out of range": append(request=LARGEST),
    "a recovery that cannot end": append(recovered_at=LARGEST),
    "an answer out of range": pb.RaftMessage(
        term=TERM, append_answer=pb.AppendAnswer(success=True, match_index=LARGEST)
    ),
    "a conflict out of range": pb.RaftMessage(term=TERM, append_answer=pb.AppendAnswer(conflict_term=LARGEST)),
    "a log that is ahead of its term": pb.RaftMessage(term=TERM, request_vote=pb.RequestVote(last_log_term=TERM + 1)),
    "a log without an end": pb.RaftMessage(term=TERM, request_vote=pb.RequestVote(last_log_index=LARGEST)),
    "a vote for a term out of range": pb.RaftMessage(term=TERM, vote_answer=pb.VoteAnswer(voted_term=LARGEST)),
    "a snapshot of nothing": offer(index=0),
    "a snapshot out of range": offer(index=LARGEST),
    "a snapshot of a later term": offer(term=TERM + 1),
    "a snapshot of nobody": offer(members=pb.Members()),
    "a snapshot with store 0": offer(members=pb.Members(voters=[0, 1])),
}

TAKEN = {
    "a heartbeat": append(request=1, prev_log_index=9, prev_log_term=2, commit_index=9),
    "entries of several terms": append(
        request=2, prev_log_index=9, prev_log_term=2, payloads=[b"a", b"b", b"c"], runs=[run(term=2), run(2, kind=2)]
    ),
    "an older term": append(1, request=1),
    "a term far ahead": pb.RaftMessage(group=7, term=TERM + LEAP_MAX, awake=pb.Awake()),
    "a snapshot": offer(),
    "a pre-vote": pb.RaftMessage(
        term=TERM, request_vote=pb.RequestVote(pre_vote=True, last_log_index=9, last_log_term=TERM)
    ),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_p31_what_no_replica_can_have_said_is_refused(message: pb.RaftMessage) -> None:
    with pytest.raises(MessageRefused):
        check(2, message, TERM, MEMBERS)


@pytest.mark.parametrize("message", TAKEN.values(), ids=TAKEN.keys())
@pytest.mark.parametrize("sender", [2, 4])
def test_p31_what_a_replica_may_say_is_taken(sender: int, message: pb.RaftMessage) -> None:
    check(sender, message, TERM, MEMBERS)


def test_p31_a_stranger_leads_less_far() -> None:
    """It may be a member that this replica has not heard of; its term is a few elections ahead, not a thousand million."""
    check(9, pb.RaftMessage(term=TERM + STRANGERS_LEAP_MAX, awake=pb.Awake()), TERM, MEMBERS)
    with pytest.raises(MessageRefused):
        check(9, pb.RaftMessage(term=TERM + STRANGERS_LEAP_MAX + 1, awake=pb.Awake()), TERM, MEMBERS)
    with pytest.raises(MessageRefused):
        check(2, pb.RaftMessage(term=NUMBER_MAX + 1, awake=pb.Awake()), NUMBER_MAX, MEMBERS)


# --- what only the log can tell --------------------------------------------------------------------------------------


def led() -> Bench:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.propose(1, b"a", b"b")
    bench.settle()
    return bench


@pytest.mark.parametrize(
    "wrong",
    [
        lambda term: append(term, payloads=[b"x"], runs=[run(term=term)]),  # entry 1, which is everybody's
        lambda term: append(term, prev_log_index=2, prev_log_term=term, payloads=[b"x"], runs=[run(term=term + 1)]),
        lambda term: append(term, prev_log_index=1, prev_log_term=0, payloads=[b"x"], runs=[run(term=0)]),
    ],
    ids=["entry 1 anew", "a committed entry of a later term", "a committed entry of an earlier term"],
)
def test_p31_a_follower_replaces_nothing_that_is_committed(wrong: Callable[[int], pb.RaftMessage]) -> None:
    bench = led()
    before = bench.terms(2)
    with pytest.raises(MessageRefused):
        bench.engines[2].receive(1, wrong(bench.engines[1].term))
    bench.turn(2)
    assert bench.terms(2) == before
    assert not bench.engines[2].failed
    bench.propose(1, b"c")
    bench.settle()
    assert bench.machines[2].applied == [b"a", b"b", b"c"]


def test_p31_an_entry_of_an_earlier_term_does_not_follow() -> None:
    """The entry before it is not checked where it lies before the log's start, so what comes behind it is."""
    bench = led()
    bench.compact(2)
    last = bench.engines[2].journal.last_index
    wrong = append(bench.engines[1].term, prev_log_index=last, payloads=[b"x"], runs=[run(term=0)])
    with pytest.raises(MessageRefused):
        bench.engines[2].receive(1, wrong)
    bench.settle()
    assert not bench.engines[2].failed


@pytest.mark.parametrize(
    "answer",
    [
        pb.AppendAnswer(request=1, request_term=1, success=True, match_index=99),
        pb.AppendAnswer(request=10**9, request_term=1, success=True, match_index=2),
        pb.AppendAnswer(request=10**9, request_term=1, conflict_index=1),
    ],
    ids=["more than the leader has", "what was not asked", "a refusal of what was not asked"],
)
def test_p31_a_leader_takes_no_answer_that_cannot_be(answer: pb.AppendAnswer) -> None:
    bench = led()
    leader = bench.engines[1]
    held = leader.match_index(2)
    with pytest.raises(MessageRefused):
        leader.receive(2, pb.RaftMessage(group=7, term=leader.term, append_answer=answer))
    assert leader.match_index(2) == held
    bench.propose(1, b"c")
    bench.settle()
    assert bench.outcomes[b"c"] == 3


def test_p31_a_second_leader_of_a_term_is_not_heard() -> None:
    bench = led()
    leader = bench.engines[1]
    with pytest.raises(MessageRefused):
        leader.receive(2, append(leader.term, request=1, prev_log_index=1))
    bench.turn(1)
    assert leader.is_leader


# --- a whole group ---------------------------------------------------------------------------------------------------


async def a_group_outlives_whatever_it_is_sent(kind: type[Engine], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("stele.services.raft.group.Engine", kind)
        groups: Registry = registry(Registry, path / kind.__name__)
        try:
            group = await groups.create(1, [1], Commands())
            await eventually(lambda: group.is_leader)
            await group.propose(b"before")
            for message in REFUSED.values():
                hostile = pb.RaftMessage()
                hostile.CopyFrom(message)
                hostile.group = 1
                groups.deliver(9, hostile)
            with promise("a message that no replica can have said costs no replica"):
                await eventually(lambda: group.is_leader, within_s=5)
                assert group.term < STRANGERS_LEAP_MAX
                assert await group.propose(b"after") == 2
            assert groups.messages_refused == len(REFUSED)
        finally:
            await groups.close()


async def test_p31_a_group_outlives_whatever_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(kind: type[Engine]) -> None:
        (tmp_path / kind.__name__ / "groups" / "1").mkdir(parents=True, exist_ok=True)
        await a_group_outlives_whatever_it_is_sent(kind, tmp_path, monkeypatch)

    await holds_and_mutant_fails(scenario, Engine, "replication.TakesWhateverComes")
