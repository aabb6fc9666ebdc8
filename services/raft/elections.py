"""Elections: pre-vote, votes attributed to voters, check-quorum, the gate (H5, H15, R4.2, R4.5).

Guarantee: at most one leader in a term.  A replica whose gate is closed, whose disk is full or whose log is lost does not
campaign; one whose log is lost does not vote either.  A replica that was cut off does not disturb a living leader when it comes
back.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from stele.services.errors import SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal
from stele.services.raft.outbox import Outbox, Outgoing
from stele.services.raft.pysyncobj_adapter import RaftCore
from stele.services.raft.quorum import is_majority
from stele.services.raft.state import RaftState
from stele.services.raft.storage import Members
from stele.services.raft.timing import Timing


class Elections:
    """``may_lead`` is the node's gate; ``recovering`` says that the log was lost and the term file was not."""

    def __init__(
        self,
        group_id: int,
        store_id: int,
        journal: Journal,
        now: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        may_lead: Callable[[], bool],
        recovering: bool,
    ) -> None:
        self.group_id = group_id
        self.store_id = store_id
        self.journal = journal
        self.timing = timing
        self.failed: SteleError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._now = now
        self._rng = rng
        self.may_lead = may_lead
        self.recovering = recovering
        self.leader = 0  # store id of the leader this replica follows, or is; 0 when none is known
        self.commit_index = journal.committed_at_start
        self.raft = RaftCore(store_id, journal)
        self.outbox = Outbox(group_id, journal)
        self._connected: set[int] = set()
        self._election_deadline = now() + self._election_timeout()
        self._voters: set[int] = set()
        self._pre_voters: set[int] | None = None
        self._pre_vote_at = float("-inf")
        self._leader_heard_at = float("-inf")

    @property
    def members(self) -> Members:
        """Those in force: of the newest membership entry in the log (H6)."""
        return self.journal.members.current

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def state(self) -> str:
        return "failed" if self.failed else self.raft.state.value

    @property
    def is_leader(self) -> bool:
        return not self.failed and self.raft.state is RaftState.LEADER

    def take_ready(self) -> list[Outgoing]:
        """Messages that may leave now.  PERSIST BEFORE PROMISE: the others wait for the journal."""
        return self.outbox.take_ready()

    def _other_voters(self) -> list[int]:
        return [store for store in self.members.voters if store != self.store_id]

    def _is_connected(self, store_id: int) -> bool:
        return store_id in self._connected

    def _majority_reachable(self) -> bool:
        """Whether a majority of the voters can be talked to now, ourselves included."""
        return is_majority({self.store_id, *self._connected}, self.members.voters)

    def _state_changed(self, old: RaftState, new: RaftState) -> None:
        raise NotImplementedError

    def _begin_leading(self) -> None:
        raise NotImplementedError

    def _moved(self, old: RaftState) -> None:
        if self.raft.state is not old:
            self._state_changed(old, self.raft.state)

    def _contact(self, leader: int, commit: int) -> None:
        """The reaction to hearing from the leader of this term, without touching the log."""
        self._election_deadline = self._now() + self._election_timeout()
        self.leader = leader
        if self.raft.state is not RaftState.FOLLOWER:
            old = self.raft.state
            self.raft.follow(leader)
            self._moved(old)
        self.commit_index = max(self.commit_index, commit)

    def _emit(self, to: int, message: pb.RaftMessage, promise: bool = False) -> None:
        self.outbox.put(to, self.raft.term, message, promise)

    def _election_timeout(self) -> float:
        return self._rng.uniform(self.timing.election_min_s, self.timing.election_max_s)

    def peer_gone(self, store_id: int) -> None:
        """The peer's process is gone: its link broke and a new one was refused.  If it led, campaign soon (a hint: safe if wrong)."""
        if not self.failed and self.leader == store_id and not self.is_leader:
            self.leader = 0
            self._leader_heard_at = float("-inf")
            wait_s = self._rng.uniform(self.timing.refused_min_s, self.timing.refused_max_s)
            self._election_deadline = self._now() + wait_s
            self.on_change()

    def _election_due(self) -> None:
        self._election_deadline = self._now() + self._election_timeout()
        self.leader = 0
        if not self._may_campaign() or not self._majority_reachable():
            return  # R4.2: a closed gate follows and votes, it does not campaign
        if self._vote_on_its_way():
            return
        if self._alone():
            self._campaign()
            return
        self._pre_voters = {self.store_id}
        self._pre_vote_at = self._now()
        ask = pb.RequestVote(
            pre_vote=True, last_log_index=self.journal.last_index, last_log_term=self.journal.last_term
        )
        for peer in self._other_voters():
            self._emit(peer, pb.RaftMessage(request_vote=ask))

    def _vote_on_its_way(self) -> bool:
        """Our newest vote is not durable yet, so nobody has heard of it: whoever begins another term now makes it void.  Where a vote takes
        the disk longer than candidates are patient, elections would overtake one another for ever."""
        return not self.journal.term_synced

    def _may_campaign(self) -> bool:
        counted = self.store_id in self.members.voters
        return counted and self.may_lead() and not self.recovering and not self.journal.disk_full

    def _alone(self) -> bool:
        return self.members.voters == (self.store_id,)

    def _campaign(self, transfer: bool = False) -> None:
        self._pre_voters = None
        self._voters = {self.store_id}
        retry_s = self._rng.uniform(self.timing.retry_min_s, self.timing.retry_max_s)
        self._election_deadline = self._now() + retry_s
        self.leader = 0
        old = self.raft.state
        self.raft.campaign()
        self._moved(old)
        ask = pb.RequestVote(
            last_log_index=self.journal.last_index, last_log_term=self.journal.last_term, transfer=transfer
        )
        for peer in self._other_voters():
            self._emit(peer, pb.RaftMessage(request_vote=ask), promise=True)
        if self._alone():
            self._begin_leading()

    def _follow(self, term: int | None) -> None:
        """Becomes a follower: of nobody known, in ``term`` if that is higher."""
        old = self.raft.state
        if term is not None:
            self._pre_voters = None
        if old is RaftState.LEADER:
            self._election_deadline = self._now() + self._election_timeout()
        self.leader = 0
        self.raft.step_down(term or self.term)
        self._moved(old)

    def _on_request_vote(self, candidate: int, term: int, m: pb.RequestVote) -> None:
        if self.recovering:  # R4.5: it cannot know which entries it stood for
            return
        if m.pre_vote:
            self._on_pre_vote(candidate, term, m)
            return
        if term < self.term:
            self._emit(candidate, pb.RaftMessage(vote_answer=pb.VoteAnswer(voted_term=term)))
            return
        if self.raft.grants_vote(candidate, m.last_log_index, m.last_log_term):
            self._election_deadline = self._now() + self._election_timeout()
            answer = pb.VoteAnswer(granted=True, voted_term=term)
            self._emit(candidate, pb.RaftMessage(vote_answer=answer), promise=True)

    def _on_pre_vote(self, candidate: int, term: int, m: pb.RequestVote) -> None:
        """Grants what a vote in ``term + 1`` would get, unless the leader is alive (H15) or a vote of ours is on its way.  Changes nothing,
        promises nothing.

        Of two replicas that ask at the same moment with equal logs the one with the lower id goes on, so that they do not split
        the vote."""
        theirs, ours = (m.last_log_term, m.last_log_index), (self.journal.last_term, self.journal.last_index)
        granted = term >= self.term and theirs >= ours and not self._leader_alive() and not self._vote_on_its_way()
        if granted and self._pre_voters is not None:
            asked_just_now = self._now() - self._pre_vote_at < self.timing.retry_min_s
            if theirs == ours and self.store_id < candidate and asked_just_now:
                granted = False
            else:
                self._pre_voters = None
        answer = pb.VoteAnswer(pre_vote=True, granted=granted, voted_term=term + 1)
        self._emit(candidate, pb.RaftMessage(vote_answer=answer))

    def _leader_alive(self) -> bool:
        if self.raft.state is RaftState.LEADER:
            return True
        recent = self._now() - self._leader_heard_at < self.timing.election_min_s
        return recent and self.leader != 0 and self._is_connected(self.leader)

    def _on_vote_answer(self, voter: int, m: pb.VoteAnswer) -> None:
        if not m.granted or voter not in self.members.voters:
            return
        if m.pre_vote:
            if self._pre_voters is not None and m.voted_term == self.term + 1:
                self._pre_voters.add(voter)
                if is_majority(self._pre_voters, self.members.voters):
                    self._campaign()
            return
        if self.raft.state is not RaftState.CANDIDATE or m.voted_term != self.term or voter in self._voters:  # H5
            return
        self._voters.add(voter)
        if is_majority(self._voters, self.members.voters):
            self._begin_leading()
