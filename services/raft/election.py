"""Elections: pre-vote, votes attributed to voters, check-quorum, the gate (H5, H14, H15, R4.2).

Guarantee: at most one leader in a term.  A replica whose gate is closed, whose disk is full or whose log is lost does not
campaign.  A replica that was cut off does not disturb a living leader when it comes back.

Events go in with the time at which they happen; what is to be done about them comes out as a step.  Whom a replica may vote for, its
terms and its states are the library's (services/raft/pysyncobj_adapter.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal
from stele.services.raft.pysyncobj_adapter import RaftCore
from stele.services.raft.quorum import is_majority
from stele.services.raft.state import RaftState
from stele.services.raft.timing import Timing

STALLED_HEARTBEATS: Final = 4  # without a turn
ANSWER_HEARTBEATS: Final = 2  # then given to the followers
NEVER: Final = float("-inf")


class ElectionStep(Enum):
    """What an election does next."""

    WAIT = auto()
    ASK = auto()  # the other voters, whether they would vote for this replica
    CAMPAIGN = auto()
    LEAD = auto()


class ElectionCause(StrEnum):
    """Why a replica campaigned."""

    FIRST = "first"  # nobody had led yet
    REFUSED = "refused"  # the leader's port did: its process is gone
    TIMEOUT = "timeout"  # no leader was heard for an election timeout
    TRANSFER = "transfer"  # the leader asked for it


@dataclass(frozen=True, slots=True)
class Victory:
    """How a leader came to lead in ``term``.  ``former``: the store that it followed when the cause arose, in ``former_term``; 0: none."""

    term: int
    cause: ElectionCause
    former: int
    former_term: int


class RaftElection:
    """``may_lead`` is the node's gate (R4.2).  Times are monotonic seconds."""

    __slots__ = (
        "_cause",
        "_core",
        "_journal",
        "_judges_from",
        "_may_lead",
        "_pre_vote_at",
        "_pre_votes",
        "_rng",
        "_store_id",
        "_timing",
        "_turned_at",
        "_votes",
        "deadline",
        "leader",
        "leader_active_at",
        "victory",
    )

    def __init__(
        self,
        store_id: int,
        core: RaftCore,
        journal: Journal,
        rng: random.Random,
        timing: Timing,
        may_lead: Callable[[], bool],
        now: float,
    ) -> None:
        self._store_id = store_id
        self._core = core
        self._journal = journal
        self._rng = rng
        self._timing = timing
        self._may_lead = may_lead
        self.leader = 0  # store id of the leader this replica follows, or is; 0 when none is known
        self.leader_active_at = NEVER  # when the leader of this term was last known to be alive
        self.deadline = now + self._timeout_s()  # of one that does not lead
        self._votes: set[int] = set()  # for this replica in the term in which it campaigned last
        self._pre_votes: set[int] | None = None  # None: nobody is being asked
        self._pre_vote_at = NEVER
        self._turned_at = NEVER
        self._judges_from = NEVER
        self._cause: tuple[ElectionCause, int, int] | None = (
            None  # to campaign, while no leader is known: it, of whom, in which term
        )
        self.victory: Victory | None = None  # the newest

    def _timeout_s(self) -> float:
        """At random: followers that lose their leader at the same moment would otherwise split every vote."""
        return self._rng.uniform(self._timing.election_min_s, self._timing.election_max_s)

    @property
    def _voters(self) -> tuple[int, ...]:
        return self._journal.members.current.voters

    # --- campaigning ----------------------------------------------------------------------------------------------------

    def on_deadline(self, now: float, connected: Collection[int], recovering: bool) -> ElectionStep:
        """The leader was not heard for an election timeout, or a campaign got no majority."""
        self.deadline = now + self._timeout_s()
        if self._cause is None:
            cause = ElectionCause.TIMEOUT if self._core.term else ElectionCause.FIRST
            self._cause = cause, self.leader, self._core.term
        self.leader = 0
        if not self.may_campaign(recovering) or not self._majority_reachable(connected):
            # It follows and votes as before; without a majority it would only raise its term (H15).
            return ElectionStep.WAIT
        if self._vote_in_flight():
            return ElectionStep.WAIT
        if self._is_alone():
            return ElectionStep.CAMPAIGN
        self._pre_votes = {self._store_id}
        self._pre_vote_at = now
        return ElectionStep.ASK

    def may_campaign(self, recovering: bool) -> bool:
        """R4.2: behind a closed gate nobody is served, so leading there takes the group away from its clients.  A leader
        without room cannot store its first entry and leads nothing.  One whose log is lost would take what it lost away from
        everybody (R4.5)."""
        counted = self._store_id in self._voters
        return counted and self._may_lead() and not recovering and not self._journal.disk_full

    def _majority_reachable(self, connected: Collection[int]) -> bool:
        return is_majority({self._store_id, *connected}, self._voters)

    def _vote_in_flight(self) -> bool:
        """Our newest vote is not durable yet, so nobody has heard of it: whoever begins another term now makes it void.  Where a vote takes
        the disk longer than candidates are patient, elections would overtake one another for ever."""
        return not self._journal.term_synced

    def _is_alone(self) -> bool:
        return self._voters == (self._store_id,)

    def campaign(self, now: float, transfer: bool = False) -> ElectionStep:
        """A new term, with a vote for itself; the others are to be asked for theirs.  LEAD if there are no others.  ``transfer``: the
        leader has asked for it."""
        if transfer:
            self._cause = ElectionCause.TRANSFER, self.leader, self._core.term
        self._pre_votes = None
        self._votes = {self._store_id}
        # Sooner than an election timeout: nobody leads in this term, so nobody is disturbed by another attempt.
        self.deadline = now + self._rng.uniform(self._timing.retry_min_s, self._timing.retry_max_s)
        self.leader = 0
        self._core.campaign()
        return ElectionStep.LEAD if self._is_alone() else ElectionStep.WAIT

    def on_vote(self, voter: int, m: pb.VoteAnswer, recovering: bool) -> ElectionStep:
        """An answer counts for the term that was asked in and for the store that gave it, once (H5): counted without a name,
        one that arrives twice makes a second leader of the same term.

        What forbids to campaign forbids to win: the gate may have closed since the others were asked."""
        if not m.granted or voter not in self._voters or not self.may_campaign(recovering):
            return ElectionStep.WAIT
        if m.pre_vote:
            if self._pre_votes is None or m.voted_term != self._core.term + 1:
                return ElectionStep.WAIT
            self._pre_votes.add(voter)
            return ElectionStep.CAMPAIGN if is_majority(self._pre_votes, self._voters) else ElectionStep.WAIT
        if self._core.state is not RaftState.CANDIDATE or m.voted_term != self._core.term:
            return ElectionStep.WAIT
        self._votes.add(voter)
        return ElectionStep.LEAD if is_majority(self._votes, self._voters) else ElectionStep.WAIT

    def lead(self) -> None:
        """A majority has voted for this replica in this term."""
        # Asked for again while votes were late: answers that come now would depose this very leader.
        self._pre_votes = None
        self._core.lead()
        self.leader = self._store_id
        cause, former, former_term = self._cause or (ElectionCause.TIMEOUT, 0, 0)
        self.victory, self._cause = Victory(self._core.term, cause, former, former_term), None

    # --- voting -----------------------------------------------------------------------------------------------------------

    def grants_pre_vote(
        self, candidate: int, term: int, m: pb.RequestVote, now: float, connected: Collection[int]
    ) -> bool:
        """What a vote in ``term + 1`` would get, unless the leader is alive (H15) or a vote of ours is in flight.  Changes nothing,
        promises nothing.

        Of two replicas that ask at the same moment with equal logs the one with the lower id goes on, so that they do not split
        the vote."""
        theirs, ours = (m.last_log_term, m.last_log_index), (self._journal.last_term, self._journal.last_index)
        granted = (
            term >= self._core.term
            and theirs >= ours
            and not self._leader_alive(now, connected)
            and not self._vote_in_flight()
        )
        if granted and self._pre_votes is not None:
            asked_just_now = now - self._pre_vote_at < self._timing.retry_min_s
            if theirs == ours and self._store_id < candidate and asked_just_now:
                return False
            self._pre_votes = None
        return granted

    def _leader_alive(self, now: float, connected: Collection[int]) -> bool:
        if self._core.state is RaftState.LEADER:
            return True
        recent = now - self.leader_active_at < self._timing.election_min_s
        return recent and self.leader != 0 and self.leader in connected

    def grants_vote(self, candidate: int, m: pb.RequestVote, now: float) -> bool:
        """In the current term.  PERSIST BEFORE PROMISE: the answer waits until the vote is durable; a replica that forgot it would give
        another, and the term two leaders."""
        if not self._core.grants_vote(candidate, m.last_log_index, m.last_log_term):
            return False
        self.deadline = now + self._timeout_s()  # whoever has this vote gets the time to win
        return True

    # --- following --------------------------------------------------------------------------------------------------------

    def on_leader(self, leader: int, now: float) -> None:
        """Word of the leader of the current term."""
        self.leader_active_at = now
        self._cause = None
        self._pre_votes = None  # what others answer to it is out of date
        self.deadline = now + self._timeout_s()
        self.leader = leader
        if self._core.state is not RaftState.FOLLOWER:
            self._core.follow(leader)

    def step_down(self, now: float, term: int) -> None:
        """A follower of nobody known, in ``term`` if that is higher."""
        if term > self._core.term:
            self._pre_votes = None  # they were asked for a term that is no longer the next one
        if self._core.state is RaftState.LEADER:
            self.deadline = now + self._timeout_s()  # a leader has none, and the one of its last campaign is long over
        self.leader = 0
        self._core.step_down(term)

    def on_leader_gone(self, now: float) -> None:
        """The leader's process is gone: campaign soon.  A hint, safe if wrong: the others have a word in it."""
        self._cause = ElectionCause.REFUSED, self.leader, self._core.term
        self.leader = 0
        self.leader_active_at = NEVER
        self.deadline = now + self._rng.uniform(self._timing.refused_min_s, self._timing.refused_max_s)

    def on_woken(self, leader_node_active_at: float) -> None:
        """After sleep, as if a heartbeat had come when the leader's node was last heard."""
        self.leader_active_at = max(self.leader_active_at, leader_node_active_at)
        self.deadline = self.leader_active_at + self._timeout_s()

    # --- leading ----------------------------------------------------------------------------------------------------------

    def keeps_leading(self, now: float, active: Collection[int]) -> bool:
        """Check-quorum: a majority, ourselves included, was heard within one election timeout (H15).  Without it a leader that was cut off
        would accept proposals that can never commit, while the others have long elected another."""
        return self._was_stalled(now) or is_majority({self._store_id, *active}, self._voters)

    def _was_stalled(self, now: float) -> bool:
        """A leader that had no turn for some heartbeats has asked nobody meanwhile: silence tells nothing until it has, and until the
        answers that wait were read (H14)."""
        if now - self._turned_at >= STALLED_HEARTBEATS * self._timing.heartbeat_s:
            self._judges_from = now + ANSWER_HEARTBEATS * self._timing.heartbeat_s
        self._turned_at = now
        return now < self._judges_from

    def validate(self) -> None:
        leads = self._core.state is RaftState.LEADER
        assert leads == (self.leader == self._store_id), (self._core.state, self.leader)
        assert self._core.state is not RaftState.CANDIDATE or self.leader == 0, self.leader
        assert self._core.state is not RaftState.CANDIDATE or self._store_id in self._votes
        assert self._pre_votes is None or (self._store_id in self._pre_votes and not leads)
        self._core.validate()
