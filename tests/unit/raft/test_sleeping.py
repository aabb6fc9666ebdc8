"""Groups that sleep: what they do not say, and what wakes them.  Liveness arguments are tested with mutants that break them."""

from __future__ import annotations

import pytest

from stele.services.errors import GroupStopped, NotLeader, SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine
from stele.services.raft.quiescence import Quiescence
from stele.services.raft.storage import Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench

STEP_S = 0.05
SILENCE_S = 1.0  # Timing.election_min_s


class SleepBench(Bench):
    """Stores whose nodes hear each other all the time, except those in ``silent`` and over what is in ``cut``.  As the transport does,
    it tells of silence after ``election_min_s``, once, and of the first word after it."""

    def __init__(self, count: int = 3, spare: int = 0) -> None:
        self.heard: dict[tuple[int, int], float] = {}
        self.silent: set[int] = set()
        self.cut: set[tuple[int, int]] = set()  # (from, to)
        self.told_silent: set[tuple[int, int]] = set()
        self.messages = 0
        super().__init__(count, spare)

    def start(self, i: int) -> Engine:
        engine = super().start(i)
        engine.quiescence.node_active_at = lambda store: self.heard.get((i, store), float("-inf"))
        for j in self.ids:
            self.heard[i, j] = self.heard[j, i] = self.now
            self.told_silent -= {(i, j), (j, i)}
        return engine

    def hears(self, i: int, j: int) -> bool:
        return i not in self.silent and j not in self.silent and (j, i) not in self.cut

    def let(self, seconds: float) -> int:
        """Lets time pass and everything be delivered that can be.  Returns how many messages were sent."""
        before = self.messages
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for i in self.ids:
                for j in self.ids:
                    if i != j and i not in self.silent:
                        self.node_level(i, j)
            for i in self.ids:
                if i not in self.silent:
                    self.turn(i)
            for _ in range(3):
                for wire in [(a, b) for a in self.ids for b in self.ids if a != b]:
                    if self.hears(wire[1], wire[0]):
                        self.messages += len(self.deliver(*wire))
                    elif wire in self.cut:
                        self.wires[wire].clear()
        return self.messages - before

    def node_level(self, i: int, j: int) -> None:
        if self.hears(i, j):
            self.heard[i, j] = self.now
            if (i, j) in self.told_silent:
                self.told_silent.discard((i, j))
                self.engines[i].peer_active(j)
        elif self.now - self.heard[i, j] >= SILENCE_S and (i, j) not in self.told_silent:
            self.told_silent.add((i, j))
            self.engines[i].peer_silent(j)

    def sleeping(self) -> list[int]:
        return [i for i in self.ids if self.engines[i].asleep]

    def leaders(self) -> list[int]:
        return [i for i in self.ids if self.engines[i].is_leader and i not in self.silent]


def asleep(count: int = 3) -> SleepBench:
    """A group led by store 1, with one entry, fast asleep."""
    bench = SleepBench(count)
    bench.elect(1)
    bench.propose(1, b"first")
    bench.let(3.0)
    assert bench.sleeping() == bench.ids
    return bench


def test_an_idle_group_falls_asleep_and_says_nothing() -> None:
    bench = SleepBench()
    bench.elect(1)
    bench.propose(1, b"first")
    bench.let(0.9)
    assert bench.sleeping() == []
    bench.let(1.0)
    assert bench.sleeping() == [1, 2, 3]
    assert all(engine.next_deadline() == float("inf") for engine in bench.engines.values())
    assert bench.let(60.0) == 0
    assert bench.leaders() == [1]
    assert {engine.term for engine in bench.engines.values()} == {bench.engines[1].term}


def test_a_group_that_is_used_does_not_sleep() -> None:
    bench = SleepBench()
    bench.elect(1)
    for turn in range(20):
        bench.propose(1, b"%d" % turn)
        bench.let(0.5)
        assert bench.sleeping() == []
    for _ in range(20):
        bench.engines[1].read_index(lambda index, error: None)
        bench.let(0.5)
        assert bench.sleeping() == []


def test_a_proposal_wakes_everybody_and_commits_as_ever() -> None:
    bench = asleep()
    bench.propose(1, b"second")
    bench.let(0.1)
    assert bench.outcomes[b"second"] == 2
    assert bench.sleeping() == []
    bench.let(3.0)
    assert bench.sleeping() == [1, 2, 3]
    assert [bench.machines[i].applied for i in bench.ids] == [[b"first", b"second"]] * 3


def test_a_read_wakes_the_leader_and_is_confirmed_by_a_round() -> None:
    bench = asleep()
    read: list[tuple[int, SteleError | None]] = []
    bench.engines[1].read_index(lambda index, error: read.append((index, error)))
    bench.turn(1)
    assert read == []  # H15: not before a majority has answered
    bench.let(0.1)
    assert [error for _, error in read] == [None]


@pytest.mark.parametrize("missing", ["disconnected", "silent", "behind"])
def test_a_group_with_a_member_missing_stays_awake(missing: str) -> None:
    bench = SleepBench()
    bench.elect(1)
    if missing == "disconnected":
        for i, j in ((1, 3), (3, 1), (2, 3), (3, 2)):
            bench.engines[i].disconnected(j)
    elif missing == "silent":
        bench.silent.add(3)
    else:
        bench.sync[3] = False
    bench.propose(1, b"first")
    bench.let(5.0)
    assert bench.outcomes[b"first"] == 1
    assert not bench.engines[1].asleep
    assert not bench.engines[2].asleep


def test_without_word_of_its_nodes_a_group_never_sleeps() -> None:
    bench = SleepBench()
    for engine in bench.engines.values():
        engine.quiescence.node_active_at = None
    bench.elect(1)
    bench.let(5.0)
    assert bench.sleeping() == []


def test_a_learner_sleeps_too() -> None:
    bench = SleepBench(3, spare=1)
    bench.elect(1)
    bench.let(0.3)
    bench.change(1, Members((1, 2, 3), (4,)))
    bench.let(3.0)
    assert bench.sleeping() == [1, 2, 3, 4]


# --- the leader is lost ---------------------------------------------------------------------------------------------


async def test_followers_of_a_silent_leader_elect_another() -> None:
    @with_part
    async def scenario() -> None:
        bench = asleep()
        bench.silent.add(1)
        since = bench.now
        while not bench.leaders() and bench.now - since < 10.0:
            bench.let(STEP_S)
        with promise("a sleeping group elects when its leader's node falls silent"):
            assert bench.leaders(), "nobody leads"
        assert SILENCE_S <= bench.now - since <= 3.0  # as if a heartbeat had come when the node was last heard

    await holds_and_mutant_fails(scenario, Quiescence, "elections.DeafToSilence")


@pytest.mark.parametrize("how", ["failed", "deposed"])
async def test_followers_are_woken_when_the_leading_replica_ends(how: str) -> None:
    """Its node lives on and is heard: nothing but a word can tell them."""

    @with_part
    async def scenario() -> None:
        bench = asleep()
        if how == "failed":
            bench.engines[1].fail(GroupStopped("the replica ends", group=7))
        else:  # by a candidate that reached nobody else
            term = bench.engines[1].term + 1
            bench.engines[1].receive(3, pb.RaftMessage(group=7, term=term, vote_answer=pb.VoteAnswer(voted_term=term)))
            bench.may_lead[1] = False
        bench.let(5.0)
        with promise("a sleeping group hears of its leader's end"):
            assert [i for i in bench.leaders() if i != 1], "nobody leads"

    await holds_and_mutant_fails(scenario, Quiescence, "elections.EndsWithoutAwake")


def test_an_old_word_lulls_nobody() -> None:
    """The links deliver nothing twice; if they did, a follower would still not go back to sleep by it."""
    bench = SleepBench()
    bench.elect(1)
    bench.propose(1, b"first")
    words: list[pb.RaftMessage] = []
    while 3 not in bench.sleeping():
        bench.now += STEP_S
        for i in bench.ids:
            for j in bench.ids:
                bench.heard[i, j] = bench.now
            bench.turn(i)
        words += [m for m in bench.deliver(1, 3) if m.append_entries.sleep]
        for wire in ((1, 2), (2, 1), (3, 1)):
            bench.deliver(*wire)
    assert words
    engine = bench.engines[3]
    engine.receive(1, words[-1])
    assert engine.asleep
    bench.engines[1].propose(b"second", lambda result, error: None)
    bench.turn(1)
    bench.deliver(1, 3)
    engine.receive(1, words[-1])
    assert not engine.asleep
    bench.let(3.0)
    bench.engines[1].fail(GroupStopped("the replica ends", group=7))
    bench.turn(1)
    bench.deliver(1, 3)
    engine.receive(1, words[-1])
    assert not engine.asleep


def test_a_failed_leading_replica_is_succeeded_at_once() -> None:
    bench = asleep()
    bench.engines[1].fail(GroupStopped("the replica ends", group=7))
    bench.let(0.4)
    assert bench.leaders()


def test_a_broken_link_to_the_leader_gives_the_deadline_back_and_a_refused_one_hurries() -> None:
    bench = asleep()
    for i in (2, 3):
        bench.engines[i].disconnected(1)
    assert not bench.engines[2].asleep
    assert 0.5 < bench.engines[2].next_deadline() - bench.now <= 2.0
    bench.engines[2].peer_gone(1)
    assert bench.engines[2].next_deadline() - bench.now <= 0.12


def test_a_break_between_followers_wakes_neither() -> None:
    bench = asleep()
    bench.engines[2].disconnected(3)
    bench.engines[3].disconnected(2)
    bench.engines[2].peer_silent(3)
    assert bench.sleeping() == [1, 2, 3]


# --- the leader is not lost -----------------------------------------------------------------------------------------


def test_a_sleeping_leader_that_is_cut_off_steps_down_and_serves_nothing() -> None:
    """H15: check-quorum counts from when its peers' nodes were last heard."""
    bench = asleep()
    bench.cut |= {(1, 2), (2, 1), (1, 3), (3, 1)}
    bench.let(2.1)
    assert not bench.engines[1].is_leader
    assert bench.outcomes.keys() == {b"first"}


def test_a_leader_that_was_stopped_while_asleep_does_not_serve_the_first_read_after_it() -> None:
    bench = asleep()
    bench.silent.add(1)
    bench.let(5.0)
    successor = bench.leaders()[0]
    bench.propose(successor, b"second")
    bench.let(0.2)
    assert bench.engines[1].asleep  # it still believes
    read: list[tuple[int, SteleError | None]] = []
    bench.engines[1].read_index(lambda index, error: read.append((index, error)))
    bench.propose(1, b"lost")
    assert read == []
    bench.alone(1, 0.5)  # it had no turn for long, so it asks before it judges who is there
    assert [type(error) for _, error in read] == [NotLeader]
    assert isinstance(bench.outcomes[b"lost"], SteleError)
    assert not bench.engines[1].is_leader


def test_a_pause_shorter_than_an_election_costs_no_leader() -> None:
    bench = asleep()
    term = bench.engines[1].term
    bench.silent.add(1)
    while (2, 1) not in bench.told_silent:
        bench.let(STEP_S)
    bench.silent.clear()
    bench.let(3.0)
    assert bench.leaders() == [1]
    assert bench.engines[1].term == term
    assert bench.sleeping() == [1, 2, 3]


def test_one_that_lost_only_the_leader_does_not_depose_it() -> None:
    """H15: store 3 cannot hear store 1 and asks store 2, which sleeps under it."""
    bench = asleep()
    term = bench.engines[1].term
    for i, j in ((1, 3), (3, 1)):
        bench.engines[i].disconnected(j)
    bench.cut |= {(1, 3), (3, 1)}
    bench.let(10.0)
    assert bench.leaders() == [1]
    assert bench.engines[1].term == term


def test_a_follower_woken_by_another_asks_its_leader_for_a_word() -> None:
    bench = asleep()
    ask = pb.RequestVote(pre_vote=True, last_log_index=99, last_log_term=1)
    bench.engines[2].receive(3, pb.RaftMessage(group=7, term=bench.engines[1].term, request_vote=ask))
    assert not bench.engines[2].asleep
    assert bench.engines[1].asleep
    sent = bench.let(0.1)
    assert not bench.engines[1].asleep
    assert sent <= 7  # a refusal, a word of either follower to the leader, its two heartbeats and their answers
    bench.let(2.0)
    assert bench.sleeping() == [1, 2, 3]


def test_r4_1_a_replica_started_on_a_link_that_stands_learns_what_is_committed() -> None:
    """Its leader sleeps and sees no change of the link."""
    bench = asleep()
    bench.start(3)
    for i in (1, 2):
        bench.engines[3].connected(i)  # as the registry says it to a new group
    assert not bench.engines[3].caught_up
    bench.turn(3)
    bench.let(0.2)
    assert bench.engines[3].caught_up
    assert bench.engines[3].applied_index == bench.engines[1].commit_index
    bench.let(3.0)
    assert bench.sleeping() == [1, 2, 3]


def test_r4_1_a_restarted_node_learns_what_is_committed() -> None:
    bench = asleep()
    bench.crash(3)
    bench.turn(3)
    assert not bench.engines[1].asleep
    bench.let(0.2)
    assert bench.engines[3].caught_up
    assert bench.engines[3].applied_index == bench.engines[1].commit_index


def test_leadership_is_handed_over_by_a_sleeping_leader() -> None:
    bench = asleep()
    assert bench.engines[1].transfer_leadership(2)
    bench.turn(1)
    bench.let(0.3)
    assert bench.leaders() == [2]
    bench.let(3.0)
    assert bench.sleeping() == [1, 2, 3]


def test_a_sleeping_leader_changes_its_members() -> None:
    """It has not heard its followers since it fell asleep, and their nodes speak: they count as alive."""
    bench = asleep()
    bench.let(60.0)
    assert bench.engines[1].asleep
    outcomes: list[object] = []
    bench.engines[1].change_members(Members((1, 2)), lambda result, error: outcomes.append(error))
    bench.let(0.3)
    assert outcomes == [None]


def test_a_gate_that_closes_over_a_sleeping_group_changes_nothing() -> None:
    bench = asleep()
    for i in bench.ids:
        bench.may_lead[i] = False
    assert bench.let(10.0) == 0
    assert bench.leaders() == [1]


def test_a_lost_answer_keeps_a_group_awake_until_it_is_repeated() -> None:
    bench = SleepBench()
    bench.elect(1)
    bench.cut.add((3, 1))
    bench.let(0.9)
    bench.heard[1, 3] = bench.now
    assert not bench.engines[1].asleep
    bench.cut.clear()
    bench.let(3.0)
    assert bench.sleeping() == [1, 2, 3]
