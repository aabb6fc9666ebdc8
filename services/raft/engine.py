"""PySyncObj's Raft, corrected: one replica of one group, without clock, socket, thread or disk of its own.

Guarantee: with the corrections below an entry that was acknowledged is in the log of every later leader.  Events go in (``receive``,
``tick``, ``propose``, ``connected`` …); what is to be sent comes out of ``take_ready``, promises only after the changes they stand for are
synced (services/raft/journal.py).  The caller holds the one thread that touches a replica.

What stays the library's: the voting rule, appending to the log, becoming leader, terms, states, timeouts.  What we replace is
listed in ``OVERRIDDEN`` and pinned by a test to the source that we read (0.3.17).  The corrections, by their names in RAFT.md:

=====  ==========================================================================================================
H1     matching entries are skipped, only a conflict truncates; ``next_index`` never moves below ``match_index + 1``
H2     commit moves at most to the last entry that this very message verified
H4     answers name the term and request they answer; others are dropped
H5     votes are attributed: a set of voters per term
H6     membership changes are refused here (members are fixed at creation)
H7,H9  the journal syncs before promises leave; commit is never read from disk
H11    an exception in a callback or in apply neither repeats nor skips an entry
H12    proposals are made on the leader only and end *indefinite* when it loses leadership
H13    an entry travels whole, below a limit that is enforced when it is proposed
H14    what waits is delivered before the clock is looked at (the driver's order); a stalled process polls before it campaigns
H15    pre-vote, answers with the higher term, check-quorum
H17    typed messages only; VERSION and MEMBERSHIP commands are refused
R4.5   a replica that lost its log is *recovering*: it neither votes, campaigns nor counts until it holds again all it had promised
H18    a refusal names the conflicting term and its first index
=====  ==========================================================================================================
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pysyncobj.syncobj as _library
import structlog
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from services.errors import DiskFull, MessageTooLarge, NotLeader, Overloaded, ProposalLost, SteleError, StorageFailed
from services.pb import raft_pb2 as pb
from services.raft.journal import Journal
from services.raft.storage import NO_OP, REGULAR, Entry

log = structlog.get_logger()

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2  # the library's states
_STATE_NAMES: Final = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

OVERRIDDEN: Final = (
    "_SyncObj__onMessageReceived",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__generateRaftTimeout",
    "_onTick",
)
RELIED_UPON: Final = (
    "__init__",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__getCurrentLogIndex",
    "_SyncObj__getCurrentLogTerm",
    "_SyncObj__getEntries",
    "_SyncObj__deleteEntriesFrom",
    "_SyncObj__onLeaderChanged",
)

INFLIGHT_BYTES_MAX: Final = 8 << 20  # per peer, sent and not answered
INFLIGHT_REQUESTS_MAX: Final = 256
BATCH_BYTES_MAX: Final = 1 << 20
APPLY_BYTES_MAX: Final = 4 << 20  # per tick, so that one group does not hold the loop
PENDING_MAX: Final = 20_000
PENDING_BYTES_MAX: Final = 64 << 20


class StateMachine(Protocol):
    """What a group replicates.  ``apply`` is deterministic and answers a bad command with a result, never an exception (H11)."""

    def apply(self, index: int, term: int, payload: bytes) -> object: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Raft's times.  A follower campaigns after ``election_min_s..election_max_s`` without its leader; a leader without a majority
    for ``election_max_s`` steps down."""

    heartbeat_s: float = 0.15
    election_min_s: float = 1.0
    election_max_s: float = 2.0
    notice_s: float = 0.01  # how late followers may learn of a commit when nothing else is said to them
    refused_min_s: float = 0.02  # a leader's process is known to be gone: campaign after this much, at random
    refused_max_s: float = 0.12
    retry_min_s: float = 0.2  # a candidate that got no majority (a split vote) tries again after this much, at random
    retry_max_s: float = 0.4


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and the journal position that must be synced before it leaves."""

    to: int
    message: pb.RaftMessage
    after: int


Done = Callable[[object, SteleError | None], None]


@dataclass(slots=True)
class _Proposal:
    term: int
    size: int
    done: Done


class _Peer:
    """What a leader knows of one follower beyond the library's next and match index."""

    __slots__ = ("commit_sent", "heard_at", "inflight", "inflight_bytes", "recovered_at", "rewound_at", "sent_at")

    def __init__(self, now: float) -> None:
        self.inflight: deque[tuple[int, int]] = deque()  # (request, bytes)
        self.inflight_bytes = 0
        self.rewound_at = 0  # requests up to this number were sent before the last rewind
        self.heard_at = now
        self.sent_at = float("-inf")
        self.commit_sent = 0
        self.recovered_at = 0  # not 0: it lost its log, and is not counted until it holds entries up to here

    def forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0


class _Poller:
    """The library's socket poller, of which a replica without sockets has no use."""

    def poll(self, timeout: float) -> None:
        return None


class _Outlet(Transport):  # type: ignore[misc]
    """Where the library's own messages come out."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(None, None, None)
        self._engine = engine

    ready = True

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._engine._said_by_library(node.id, message)
        return True

    def destroy(self) -> None:
        return None


_now: Callable[[], float] = _library.monotonicTime
_create_journal = _library.createJournal
_create_poller = _library.createPoller
_library.monotonicTime = lambda: _now()
_library.createJournal = lambda given: given if isinstance(given, Journal) else _create_journal(given)
_library.createPoller = lambda kind: _Poller() if kind == "none" else _create_poller(kind)


class Engine(SyncObj):  # type: ignore[misc]
    """One replica.  ``store_id`` and ``members`` are store ids; ``now`` is monotonic seconds."""

    def __init__(
        self,
        group_id: int,
        store_id: int,
        members: Sequence[int],
        journal: Journal,
        machine: StateMachine,
        now: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        may_lead: Callable[[], bool],
        entry_bytes_max: int,
        recovering: bool = False,
    ) -> None:
        self.group_id = group_id
        self.store_id = store_id
        self.members = tuple(members)
        self.journal = journal
        self.machine = machine
        self.timing = timing
        self.may_lead = may_lead
        self.entry_bytes_max = entry_bytes_max
        self.recovering = recovering
        self.holds_again = (
            False  # recovering, and everything it lost is back: the caller makes that durable, then `recovered`
        )
        self.failed: SteleError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._now = now
        self._rng = rng
        self._outbox: list[Outgoing] = []
        self._peers: dict[int, _Peer] = {}
        self._pending: dict[int, _Proposal] = {}
        self._pending_bytes = 0
        self._request = 0  # number of the newest AppendEntries sent in this term
        self._answering: tuple[int, int] = (0, 0)  # (term, request) of the AppendEntries being handled
        self._voters: set[int] = set()
        self._pre_voters: set[int] | None = None
        self._pre_vote_at = float("-inf")
        self._leader_heard_at = float("-inf")
        self._leader_commit_at_start: int | None = None
        self._started_at = now()
        self._quorum_connected_at: float | None = None
        self._notice_at: float | None = None
        self._hand_over_at = 0.0
        self._applied = 1
        self._enter()
        super().__init__(
            Node(store_id),
            [Node(m) for m in members if m != store_id],
            SyncObjConf(
                autoTick=False,
                appendEntriesUseBatch=True,
                appendEntriesPeriod=timing.heartbeat_s,
                raftMinTimeout=timing.election_min_s,
                raftMaxTimeout=timing.election_max_s,
                connectionTimeout=max(3.5, timing.election_max_s),
                dynamicMembershipChange=False,
                journalFile=journal,
                pollerType="none",
                useFork=False,
                onStateChanged=self._state_changed,
            ),
            transport=_Outlet(self),
        )

    # --- what a replica is ------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def state(self) -> str:
        return "failed" if self.failed else _STATE_NAMES[self._SyncObj__raftState]

    @property
    def is_leader(self) -> bool:
        return not self.failed and self.__dict__.get("_SyncObj__raftState") == LEADER

    @property
    def leader(self) -> int:
        """Store id of the leader this replica follows, or is; 0 when none is known."""
        node = self._SyncObj__raftLeader
        return node.id if node is not None else 0

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return self._applied

    @property
    def caught_up(self) -> bool:
        """Applied up to the commit index that a leader reported first (R4.1), or no leader anywhere (R4.3): a majority has been
        connected for three heartbeats, or none could be reached for an election timeout, without a word of a leader."""
        now = self._now()
        if self.recovering:
            return True  # one bad replica does not hold its node (R4.5)
        if self._leader_commit_at_start is not None:
            silent = now - self._leader_heard_at >= self.timing.election_max_s
            return self._applied >= self._leader_commit_at_start or silent
        if len(self.members) == 1 or self.is_leader:
            return self._applied >= self.commit_index
        if self._quorum_connected_at is not None:
            return now - self._quorum_connected_at >= 3 * self.timing.heartbeat_s
        return now - self._started_at >= self.timing.election_max_s

    # --- events -----------------------------------------------------------------------------------------------------

    def connected(self, store_id: int) -> None:
        """The link to a peer is up; both sides start from nothing in flight."""
        self._enter()
        if store_id not in self.members or self.failed:
            return
        self._SyncObj__onNodeConnected(Node(store_id))
        self._rewind_lost(store_id)
        if self._quorum_connected_at is None and self._reachable() * 2 > len(self.members):
            self._quorum_connected_at = self._now()

    def disconnected(self, store_id: int) -> None:
        """The link to a peer is down; what was in flight may be lost."""
        self._enter()
        self._SyncObj__onNodeDisconnected(Node(store_id))
        self._rewind_lost(store_id)

    def peer_gone(self, store_id: int) -> None:
        """The peer's process is gone: its link broke and a new one was refused.  If it led, campaign soon (a hint: safe if wrong)."""
        self._enter()
        if not self.failed and self.leader == store_id and not self.is_leader:
            self._SyncObj__raftLeader = None
            self._leader_heard_at = float("-inf")
            wait_s = self._rng.uniform(self.timing.refused_min_s, self.timing.refused_max_s)
            self._SyncObj__raftElectionDeadline = self._now() + wait_s
            self.on_change()

    def synced(self) -> None:
        """The journal's synced position has moved."""
        self._enter()
        if self.is_leader:
            self._advance_commit()

    def recovered(self) -> None:
        """What was lost is back, and the caller has made durable that it is: this replica votes and is counted again."""
        self.recovering = self.holds_again = False
        self.on_change()

    def fail(self, error: SteleError) -> None:
        """Ends this replica: it says nothing more, and what it was asked ends with ``error``."""
        if self.failed:
            return
        self.failed = error
        self._outbox.clear()
        self._end_proposals(error)
        self.on_change()

    def propose(self, payload: bytes, done: Done) -> None:
        """Appends ``payload`` on the leader; ``done(result, None)`` follows once it is committed and applied here, or
        ``done(None, error)``.  Raises NotLeader, MessageTooLarge, Overloaded (definite), or what made the replica fail."""
        if self.failed:
            raise self.failed
        if not self.is_leader:
            raise NotLeader(f"group {self.group_id} is not led by store {self.store_id}", leader=self.leader or None)
        if self.journal.disk_full:
            raise DiskFull(
                f"store {self.store_id} has no room for writes to group {self.group_id}", store_id=self.store_id
            )
        if len(payload) > self.entry_bytes_max:
            raise MessageTooLarge(
                f"an entry of {len(payload)} bytes; accepted: up to {self.entry_bytes_max}",
                bytes_max=self.entry_bytes_max,
            )
        if len(self._pending) >= PENDING_MAX or self._pending_bytes >= PENDING_BYTES_MAX:
            raise Overloaded(f"group {self.group_id} has {len(self._pending)} proposals in flight", limit=PENDING_MAX)
        index = self.journal.last_index + 1
        self.journal.append(Entry(index, self.term, REGULAR, payload))
        self._pending[index] = _Proposal(self.term, len(payload), done)
        self._pending_bytes += len(payload)

    def tick(self) -> None:
        """Lets time pass: elections, check-quorum, commit, apply, replication.  Call after every event and at ``next_deadline``."""
        self._onTick()

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self._enter()
        if self.failed:
            return
        now = self._now()
        if self._SyncObj__raftState != LEADER:
            if self._SyncObj__raftElectionDeadline <= now:
                self._election_due()
        elif not self._has_quorum(now):
            self._follow(None)
        elif self.journal.disk_full and now >= self._hand_over_at:  # one of the others may have room
            self._hand_over_at = now + self.timing.election_max_s
            self.transfer_leadership()
        if self._SyncObj__raftState == LEADER:
            self._advance_commit()
        self._apply()
        if self._SyncObj__raftState == LEADER:
            self._SyncObj__sendAppendEntries()

    def next_deadline(self) -> float:
        """When ``tick`` is next needed if nothing happens, in monotonic seconds."""
        if self.failed:
            return float("inf")
        if self._applied < self.commit_index:
            return self._now()
        if self._SyncObj__raftState != LEADER:
            return float(self._SyncObj__raftElectionDeadline)
        if not self._peers:
            return float("inf")
        due = min(p.sent_at for p in self._peers.values()) + self.timing.heartbeat_s
        return min(due, self._notice_at) if self._notice_at is not None else due

    def take_ready(self) -> list[Outgoing]:
        """Messages that may leave now.  PERSIST BEFORE PROMISE: the others wait for the journal."""
        if not self._outbox:
            return []
        synced = self.journal.synced_position
        ready = [o for o in self._outbox if o.after <= synced]
        if ready:
            self._outbox = [o for o in self._outbox if o.after > synced]
        return ready

    def transfer_leadership(self, to: int | None = None) -> bool:
        """Asks the most caught-up connected follower (or ``to``) to campaign at once.  True if one was asked."""
        self._enter()
        if not self.is_leader:
            return False
        wanted = [
            (self._SyncObj__raftMatchIndex.get(Node(m), 0), m)
            for m in self._peers
            if self._is_connected(m) and not self._peers[m].recovered_at and (to is None or m == to)
        ]
        if not wanted or max(wanted)[0] < self.journal.last_index:
            return False
        self._emit(max(wanted)[1], pb.RaftMessage(timeout_now=pb.TimeoutNow()))
        return True

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: pb.RaftMessage) -> None:
        """One message of ``sender``, in the order in which it was sent.  Messages from stores that are no members are dropped."""
        self._enter()
        if self.failed or sender not in self.members:
            return
        if message.term > self.term:
            self._follow(message.term)
        body = message.WhichOneof("body")
        if body == "append_entries":
            self._on_append_entries(sender, message.term, message.append_entries)
        elif body == "append_answer":
            self._on_append_answer(sender, message.append_answer)
        elif body == "request_vote":
            self._on_request_vote(sender, message.term, message.request_vote)
        elif body == "vote_answer":
            self._on_vote_answer(sender, message.vote_answer)
        elif body == "timeout_now" and message.term == self.term and sender == self.leader and self._may_campaign():
            self._campaign(transfer=True)

    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        if term < self.term:  # H15: it must learn that it was deposed
            self._refuse(leader, term, m, conflict_index=0, conflict_term=0)
            return
        if self._SyncObj__raftState == LEADER:
            raise AssertionError(f"two leaders in term {term}: {self.store_id} and {leader}")
        self._answering = (term, m.request)
        self._leader_heard_at = self._now()
        self._pre_voters = None
        if self._leader_commit_at_start is None:
            self._leader_commit_at_start = m.commit_index
        journal = self.journal
        if m.prev_log_index > journal.last_index:
            self._contact(leader, term, 0)
            self._refuse(leader, term, m, conflict_index=journal.last_index + 1, conflict_term=0)
            return
        if m.prev_log_index >= journal.first_index and journal.term_at(m.prev_log_index) != m.prev_log_term:
            conflict_term = journal.term_at(m.prev_log_index)
            first = m.prev_log_index
            while (
                first > max(self.commit_index + 1, journal.first_index) and journal.term_at(first - 1) == conflict_term
            ):
                first -= 1
            self._contact(leader, term, 0)
            self._refuse(leader, term, m, conflict_index=first, conflict_term=conflict_term)
            return
        entries = m.entries
        if self.recovering and m.recovered_at and min(m.prev_log_index, journal.synced_index) >= m.recovered_at:
            self.holds_again = True
        skip = 0
        while skip < len(entries) and entries[skip].index <= journal.last_index and self._holds(entries[skip]):
            skip += 1
        verified = entries[-1].index if entries else m.prev_log_index
        commit = min(m.commit_index, verified)  # H2
        if skip == len(entries):  # H1: nothing new and nothing in conflict leaves the log alone
            self._contact(leader, term, commit)
            if (
                verified > journal.synced_index
            ):  # a slow or full disk is no silence: say what is synced now, the rest later
                self._accept(leader, journal.synced_index, promise=False)
            self._accept(leader, verified)
            return
        new = entries[skip:]
        if new[0].index <= self.commit_index:
            raise AssertionError(f"term {term} would replace committed entry {new[0].index} of group {self.group_id}")
        prev_index, prev_term = new[0].index - 1, journal.term_before(new[0].index)
        super()._SyncObj__onMessageReceived(
            Node(leader),
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": prev_index,
                "prevLogTerm": prev_term,
                "entries": [(Entry(e.index, e.term, e.kind, e.payload), e.index, e.term) for e in new],
            },
        )

    def _holds(self, entry: pb.LogEntry) -> bool:
        return entry.index < self.journal.first_index or self.journal.term_at(entry.index) == entry.term

    def _contact(self, leader: int, term: int, commit: int) -> None:
        """The library's reaction to hearing from the leader, without touching the log."""
        super()._SyncObj__onMessageReceived(
            Node(leader), {"type": "append_entries", "term": term, "commit_index": commit}
        )

    def _accept(self, leader: int, match_index: int, promise: bool = True) -> None:
        term, request = self._answering
        answer = pb.AppendAnswer(
            request=request, request_term=term, success=True, match_index=match_index, recovering=self.recovering
        )
        self._emit(leader, pb.RaftMessage(append_answer=answer), promise=promise)

    def _refuse(self, leader: int, term: int, m: pb.AppendEntries, conflict_index: int, conflict_term: int) -> None:
        answer = pb.AppendAnswer(
            request=m.request,
            request_term=term,
            conflict_index=conflict_index,
            conflict_term=conflict_term,
            recovering=self.recovering,
        )
        self._emit(leader, pb.RaftMessage(append_answer=answer))

    def _on_append_answer(self, follower: int, m: pb.AppendAnswer) -> None:
        if self._SyncObj__raftState != LEADER or m.request_term != self.term:  # H4
            return
        peer, node = self._peers[follower], Node(follower)
        peer.heard_at = self._now()
        while peer.inflight and peer.inflight[0][0] <= m.request:
            peer.inflight_bytes -= peer.inflight.popleft()[1]
        next_index, match_index = self._SyncObj__raftNextIndex, self._SyncObj__raftMatchIndex
        if m.recovering and not peer.recovered_at:  # what it acknowledged before it lost its log is void
            peer.recovered_at = self.journal.last_index
            match_index[node] = 0
            log.info("raft_peer_recovering", group=self.group_id, peer=follower, until_index=peer.recovered_at)
        elif not m.recovering:
            peer.recovered_at = 0
        if m.success:
            before = next_index[node]
            if m.match_index > match_index[node]:
                match_index[node] = m.match_index
            next_index[node] = max(before, match_index[node] + 1)  # H1
            return
        if m.request <= peer.rewound_at:  # answers what was sent before the last rewind
            return
        wanted = m.conflict_index
        if m.conflict_term:  # H18: skip the whole term unless we hold entries of it
            at = min(wanted, self.journal.last_index)
            while at >= self.journal.first_index and self.journal.term_at(at) > m.conflict_term:
                at -= 1
            wanted = max(self.journal.first_index + 1, min(wanted, at + 1))
        next_index[node] = max(match_index[node] + 1, min(wanted, self.journal.last_index + 1))
        peer.rewound_at = self._request
        peer.forget_inflight()

    def _on_request_vote(self, candidate: int, term: int, m: pb.RequestVote) -> None:
        if self.recovering:  # R4.5: it cannot know which entries it stood for
            return
        if m.pre_vote:
            self._on_pre_vote(candidate, term, m)
            return
        if term < self.term:
            self._emit(candidate, pb.RaftMessage(vote_answer=pb.VoteAnswer(voted_term=term)))
            return
        super()._SyncObj__onMessageReceived(
            Node(candidate),
            {
                "type": "request_vote",
                "term": term,
                "last_log_index": m.last_log_index,
                "last_log_term": m.last_log_term,
            },
        )

    def _on_pre_vote(self, candidate: int, term: int, m: pb.RequestVote) -> None:
        """Grants what a vote in ``term + 1`` would get, unless the leader is alive (H15).  Changes nothing, promises nothing.

        Of two replicas that ask at the same moment with equal logs the one with the lower id goes on, so that they do not split
        the vote."""
        theirs, ours = (m.last_log_term, m.last_log_index), (self.journal.last_term, self.journal.last_index)
        granted = term >= self.term and theirs >= ours and not self._leader_alive()
        if granted and self._pre_voters is not None:
            asked_just_now = self._now() - self._pre_vote_at < self.timing.retry_min_s
            if theirs == ours and self.store_id < candidate and asked_just_now:
                granted = False
            else:
                self._pre_voters = None
        answer = pb.VoteAnswer(pre_vote=True, granted=granted, voted_term=term + 1)
        self._emit(candidate, pb.RaftMessage(vote_answer=answer))

    def _leader_alive(self) -> bool:
        if self._SyncObj__raftState == LEADER:
            return True
        recent = self._now() - self._leader_heard_at < self.timing.election_min_s
        return recent and self.leader != 0 and self._is_connected(self.leader)

    def _on_vote_answer(self, voter: int, m: pb.VoteAnswer) -> None:
        if not m.granted:
            return
        if m.pre_vote:
            if self._pre_voters is not None and m.voted_term == self.term + 1:
                self._pre_voters.add(voter)
                if len(self._pre_voters) * 2 > len(self.members):
                    self._campaign()
            return
        if self._SyncObj__raftState != CANDIDATE or m.voted_term != self.term or voter in self._voters:  # H5
            return
        self._voters.add(voter)
        super()._SyncObj__onMessageReceived(Node(voter), {"type": "response_vote", "term": m.voted_term})

    # --- elections --------------------------------------------------------------------------------------------------

    def _election_due(self) -> None:
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        if not self._may_campaign() or self._reachable() * 2 <= len(self.members):
            return  # R4.2: a closed gate follows and votes, it does not campaign
        if len(self.members) == 1:
            self._campaign()
            return
        if self._SyncObj__raftState == CANDIDATE:
            self._SyncObj__setState(FOLLOWER)
        self._pre_voters = {self.store_id}
        self._pre_vote_at = self._now()
        ask = pb.RequestVote(
            pre_vote=True, last_log_index=self.journal.last_index, last_log_term=self.journal.last_term
        )
        for peer in self._others():
            self._emit(peer, pb.RaftMessage(request_vote=ask))

    def _may_campaign(self) -> bool:
        return self.may_lead() and not self.recovering and not self.journal.disk_full

    def _campaign(self, transfer: bool = False) -> None:
        self._pre_voters = None
        self._voters = {self.store_id}
        retry_s = self._rng.uniform(self.timing.retry_min_s, self.timing.retry_max_s)
        self._SyncObj__raftElectionDeadline = self._now() + retry_s
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self.store_id)
        self._SyncObj__votesCount = 1
        ask = pb.RequestVote(
            last_log_index=self.journal.last_index, last_log_term=self.journal.last_term, transfer=transfer
        )
        for peer in self._others():
            self._emit(peer, pb.RaftMessage(request_vote=ask), promise=True)
        if len(self.members) == 1:
            self._SyncObj__onBecomeLeader()

    def _follow(self, term: int | None) -> None:
        """Becomes a follower: of nobody known, in ``term`` if that is higher."""
        if term is not None:
            self._SyncObj__setCurrentTerm(term, None)
            self._pre_voters = None
        if self._SyncObj__raftState == LEADER:
            self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(FOLLOWER)

    def _state_changed(self, old: int, new: int) -> None:
        if old == LEADER:
            self._peers.clear()
            self._end_proposals(
                ProposalLost(
                    f"store {self.store_id} lost the leadership of group {self.group_id} before a majority answered"
                )
            )
        if new == LEADER:
            now = self._now()
            self._request = 0
            self._peers = {m: _Peer(now) for m in self._others()}
        log.info("raft_state", group=self.group_id, term=self.term, old=_STATE_NAMES[old], new=_STATE_NAMES[new])
        self.on_change()

    def _has_quorum(self, now: float) -> bool:
        """Check-quorum: a majority, ourselves included, was heard within one election timeout (H15)."""
        heard = sum(now - p.heard_at < self.timing.election_max_s for p in self._peers.values())
        return (heard + 1) * 2 > len(self.members)

    # --- replication ------------------------------------------------------------------------------------------------

    def _SyncObj__sendAppendEntries(self) -> None:
        now = self._now()
        notice = self._notice_at is not None and self._notice_at <= now
        for follower, peer in self._peers.items():
            if self._is_connected(follower):
                self._send_to(follower, peer, now, notice)
            else:
                peer.sent_at = now
        if notice or all(p.commit_sent >= self.commit_index for p in self._peers.values()):
            self._notice_at = None

    def _send_to(self, follower: int, peer: _Peer, now: float, notice: bool) -> None:
        next_index, node, journal = self._SyncObj__raftNextIndex, Node(follower), self.journal
        due = now - peer.sent_at >= self.timing.heartbeat_s or (notice and peer.commit_sent < self.commit_index)
        while due or next_index[node] <= journal.last_index:
            room = INFLIGHT_BYTES_MAX - peer.inflight_bytes
            full = room <= 0 or len(peer.inflight) >= INFLIGHT_REQUESTS_MAX
            if full and not due:
                return
            first = next_index[node]
            entries = [] if full else journal.read(first, journal.last_index, min(BATCH_BYTES_MAX, room))
            self._request += 1
            append = pb.AppendEntries(
                request=self._request,
                prev_log_index=first - 1,
                prev_log_term=journal.term_at(first - 1),
                commit_index=self.commit_index,
                recovered_at=peer.recovered_at,
                entries=[pb.LogEntry(index=e.index, term=e.term, kind=e.kind, payload=e.payload) for e in entries],
            )
            if entries:
                size = sum(len(e.payload) for e in entries)
                peer.inflight.append((self._request, size))
                peer.inflight_bytes += size
                next_index[node] = entries[-1].index + 1
            peer.sent_at, peer.commit_sent = now, self.commit_index
            self._emit(follower, pb.RaftMessage(append_entries=append))  # may leave before our own sync
            due = False

    def _rewind_lost(self, store_id: int) -> None:
        peer = self._peers.get(store_id)
        if peer is not None:
            node = Node(store_id)
            match = self._SyncObj__raftMatchIndex[node]
            self._SyncObj__raftNextIndex[node] = match + 1 if match else self.journal.last_index + 1
            peer.rewound_at = self._request
            peer.forget_inflight()
            peer.sent_at = float("-inf")

    def _advance_commit(self) -> None:
        """Commits what a majority has synced, ourselves counted only up to our own sync, and only in our own term."""
        match = self._SyncObj__raftMatchIndex
        counted = (0 if peer.recovered_at else match[Node(m)] for m, peer in self._peers.items())
        synced = [self.journal.synced_index, *counted]
        index = sorted(synced, reverse=True)[len(self.members) // 2]
        if index > self.commit_index and self.journal.term_at(index) == self.term:
            self._SyncObj__raftCommitIndex = index
            if self._notice_at is None:
                self._notice_at = self._now() + self.timing.notice_s

    def _apply(self) -> None:
        budget = APPLY_BYTES_MAX
        while self._applied < self.commit_index and budget > 0 and not self.failed:
            entries = self.journal.read(self._applied + 1, self.commit_index, min(budget, BATCH_BYTES_MAX))
            for entry in entries:
                budget -= len(entry.payload) + 64
                self._apply_one(entry)
                if self.failed:
                    return

    def _apply_one(self, entry: Entry) -> None:
        self._applied = entry.index  # H11: whatever happens below, this entry is not applied again
        self._SyncObj__raftLastApplied = entry.index
        result: object = None
        if entry.kind == REGULAR:
            try:
                result = self.machine.apply(entry.index, entry.term, entry.payload)
            except Exception as e:  # its state is in doubt: this replica must not go on with it
                log.exception("apply_failed", group=self.group_id, index=entry.index)
                self.fail(StorageFailed(f"group {self.group_id} could not apply entry {entry.index}: {e!r}"))
                return
        elif entry.kind != NO_OP:  # H17
            log.error("raft_entry_refused", group=self.group_id, index=entry.index, kind=entry.kind)
        proposal = self._pending.pop(entry.index, None)
        if proposal is None:
            return
        self._pending_bytes -= proposal.size
        if proposal.term == entry.term:
            self._tell(proposal, result, None)
        else:
            self._tell(
                proposal,
                None,
                NotLeader(f"another leader's entry took the place of this proposal in group {self.group_id}"),
            )

    def _end_proposals(self, error: SteleError) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        for proposal in pending.values():
            self._tell(proposal, None, error)

    def _tell(self, proposal: _Proposal, result: object, error: SteleError | None) -> None:
        try:
            proposal.done(result, error)
        except Exception:
            log.exception("proposal_callback_failed", group=self.group_id)

    # --- the seam to the library --------------------------------------------------------------------------------------

    def _enter(self) -> None:
        global _now
        _now = self._now

    def _others(self) -> list[int]:
        return [m for m in self.members if m != self.store_id]

    def _is_connected(self, store_id: int) -> bool:
        return Node(store_id) in self._SyncObj__connectedNodes

    def _reachable(self) -> int:
        """Members that can be talked to now, ourselves included."""
        return 1 + len(self._SyncObj__connectedNodes)

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._rng.uniform(self.timing.election_min_s, self.timing.election_max_s)

    def _SyncObj__sendNextNodeIdx(
        self, node: Node, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
    ) -> None:
        if not success or nextNodeIdx is None:
            raise AssertionError("the library refused a request that was checked before")
        self._accept(node.id, nextNodeIdx - 1)

    def _said_by_library(self, to: int, message: dict[str, Any]) -> None:
        if message["type"] != "response_vote":
            raise AssertionError(f"the library says {message['type']}, which is ours to say")
        answer = pb.VoteAnswer(granted=True, voted_term=message["term"])
        self._emit(to, pb.RaftMessage(vote_answer=answer), promise=True)

    def _emit(self, to: int, message: pb.RaftMessage, promise: bool = False) -> None:
        message.group = self.group_id
        message.term = self.term
        self._outbox.append(Outgoing(to, message, self.journal.position if promise else 0))

    def validate(self) -> None:
        """Cheap invariants, checked after each event in tests and simulation."""
        journal = self.journal
        assert self._applied <= self.commit_index <= journal.last_index, (
            self._applied,
            self.commit_index,
            journal.last_index,
        )
        assert journal.synced_index <= journal.last_index
        assert journal.synced_position <= journal.position
        assert self.term >= journal.last_term
        if self.is_leader:
            for m in self._peers:
                match, next_index = self._SyncObj__raftMatchIndex[Node(m)], self._SyncObj__raftNextIndex[Node(m)]
                assert match < next_index <= journal.last_index + 1, (match, next_index, journal.last_index)
        assert self._pending_bytes == sum(p.size for p in self._pending.values())
