"""One replica of one group: Raft, corrected, without clock, socket, thread or disk of its own.

Guarantee: with the corrections below an entry that was acknowledged is in the log of every later leader.  Events go in (``receive``,
``tick``, ``propose``, ``connected`` …); what is to be sent comes out of ``take_ready``, promises only after the changes they stand for are
synced (services/raft/journal.py).  The caller holds the one thread that touches a replica.

The engine owns parts that know nothing of it or of one another's owners: each is given events and answers with decisions, which
the engine carries out.  ``RaftElection`` (over ``RaftCore``, the library's terms, states and voting rule), ``Replication`` with a
``Progress`` for each follower, ``Follower``, ``SnapshotOffer``, ``ReadIndex``, ``Quiescence``, ``Proposals``, ``Applier``, ``Recovery``,
``CatchUp``, ``Handover``, ``Outbox``.  Here: in what order they are asked.  The corrections, by their numbers in docs/reference/raft.md:

=======  ======================================  ==================================================================================
H1       follower.py match                       matching entries are skipped, only a conflict truncates
..       progress.py on_answer                   ``next_index`` never moves below ``match_index + 1``
H2       follower.py _commit                     commit moves at most to the last entry that this very message verified
..       snapshot_offer.py verified_commit       an offer commits only what this log holds
H3       snapshot_offer.py is_of_use             never over what is committed, nor over a log that holds the snapshot's entry
H4       replication.py on_answer                answers name the term and request they answer; others are dropped
H5       election.py on_vote                     votes are attributed: a set of voters per term
H6       membership.py check_ready               one change at a time, after an entry of the leader's own term is committed
..       membership.py MemberHistory             in force once appended, out of force once cut; from snapshot and log at the start
..       replication.py on_members               a member that comes back is known nothing of
H7       outbox.py, journal.py Flush             promises leave after the sync; an unreadable term file is refused (datanode/log/terms.py)
..       replication.py committed                the leader counts itself up to its own sync
H8       journal.py Flush._carry_out             segments go after the snapshot that stands for them is durable
H9       journal.py committed_at_start           commit is never read from disk
H10      datanode/storage.py                     a log without its start needs a snapshot that reaches it
H11      applier.py _apply_one, proposals.py     an exception in a callback or in apply neither repeats nor skips an entry
H12      engine.py propose, proposals.py         on the leader only; what is pending ends *indefinite* when leadership is lost
H13      engine.py propose                       an entry travels whole, below a limit
H14      ticker.py                               what waits is delivered before any replica looks at the clock
..       election.py keeps_leading               a leader that had no turn asks before it judges
H15      election.py                             pre-vote; check-quorum
..       engine.py _obey                         a leader of an older term is answered with the higher one
..       read_index.py                           reads by ReadIndex
H16      replication.py _offer                   snapshots travel beside the heartbeats, resumable, checked before they replace anything
H17      door.py, applier.py                     typed messages only; the library's VERSION and MEMBERSHIP commands are refused
H18      follower.py match                       a refusal names the conflicting term and its first index
..       mending.py                              a damaged entry is had again from a peer; meanwhile the replica goes on without it
R4.5     recovery.py, progress.py                who lost what it acknowledged neither votes, campaigns nor counts until it holds it
=======  ======================================  ==================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from stele.services.errors import (
    DiskFull,
    InvalidArgument,
    LogDamaged,
    MessageTooLarge,
    NotLeader,
    NotReady,
    Overloaded,
    ProposalLost,
    SteleError,
)
from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.applier import Applier
from stele.services.raft.catch_up import CatchUp
from stele.services.raft.door import MessageRefused, check
from stele.services.raft.election import ElectionStep, RaftElection
from stele.services.raft.entries import entries_of
from stele.services.raft.follower import STALE, Conflict, Follower
from stele.services.raft.handover import Handover
from stele.services.raft.journal import UNSYNCED_BYTES_MAX, Journal
from stele.services.raft.membership import check_ready
from stele.services.raft.outbox import Outbox, Outgoing
from stele.services.raft.proposals import Done, Proposals, isolated
from stele.services.raft.pysyncobj_adapter import RaftCore
from stele.services.raft.quiescence import Quiescence
from stele.services.raft.quorum import is_majority
from stele.services.raft.read_index import READS_MAX, ReadDone, ReadIndex
from stele.services.raft.recovery import Recovery
from stele.services.raft.replication import Replication
from stele.services.raft.snapshot_offer import Offer, SnapshotOffer, from_pb
from stele.services.raft.state import RaftState
from stele.services.raft.state_machine import StateMachine
from stele.services.raft.storage import MEMBERSHIP, REGULAR, Entry, Members, Snapshot
from stele.services.raft.timing import Timing

log = structlog.get_logger()


class Engine:
    """Its members are those that ``journal`` names; ``machine`` is as the journal's newest snapshot has it, or new; ``now`` is monotonic
    seconds; ``may_lead`` is the node's gate; ``observed_ms`` is the store's own time, in which snapshots have an age; ``recovering`` says
    that entries were lost and the term file was not."""

    def __init__(
        self,
        group_id: int,
        store_id: int,
        journal: Journal,
        machine: StateMachine,
        now: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        may_lead: Callable[[], bool],
        entry_bytes_max: int,
        observed_ms: Callable[[], int],
        recovering: bool = False,
    ) -> None:
        self.group_id = group_id
        self.store_id = store_id
        self.journal = journal
        self.entry_bytes_max = entry_bytes_max
        self.failed: SteleError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.on_members: Callable[[], None] = lambda: None
        self.on_offer: Callable[[], None] = lambda: None
        self.on_damage: Callable[[LogDamaged], None] = lambda _: None
        self.on_transfer: Callable[[int, str], None] = lambda successor, cause: None
        self._damage: dict[
            str, LogDamaged
        ] = {}  # by entry: what this replica or a follower of it needs and cannot be read
        self._now = now
        self._observed_ms = observed_ms
        self._timing = timing
        self.core = RaftCore(store_id, journal)
        self.election = RaftElection(store_id, self.core, journal, rng, timing, may_lead, now())
        self.recovery = Recovery(recovering)
        self.replication = Replication(group_id, store_id, journal, timing, observed_ms)
        self.follower = Follower(journal)
        self.snapshot_offer = SnapshotOffer(journal)
        self.reads = ReadIndex(store_id)
        self.quiescence = Quiescence(timing)
        self.proposals = Proposals(group_id)
        self.applier = Applier(group_id, journal, machine, self.proposals)
        self.outbox = Outbox(group_id, journal)
        self.commit_index = journal.committed_at_start
        self._connected: set[int] = set()
        self._members_seen = self.members
        self.catch_up = CatchUp(now(), timing)
        self.handover = Handover(group_id, store_id, journal, timing, now())
        self._cannot_apply = False  # for damage

    # --- what it is -----------------------------------------------------------------------------------------------------

    @property
    def members(self) -> Members:
        """Those in force: of the newest membership entry in the log (H6)."""
        return self.journal.members.current

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def state(self) -> str:
        return "failed" if self.failed else self.core.state.value

    @property
    def is_leader(self) -> bool:
        return self.core.state is RaftState.LEADER and not self.failed

    @property
    def leader(self) -> int:
        """Store id of the leader this replica follows, or is; 0 when none is known."""
        return self.election.leader

    @property
    def recovering(self) -> bool:
        return self.recovery.recovering

    @property
    def members_settled(self) -> bool:
        """On a current leader: its members are committed, so that no quorum of an earlier set decides anything any more."""
        return self.is_leader and self._has_committed_own() and self.journal.members.index <= self.commit_index

    @property
    def asleep(self) -> bool:
        return self.quiescence.asleep

    @property
    def offer(self) -> Offer | None:
        """What the leader has for this replica to fetch."""
        return self.snapshot_offer.current

    @property
    def applied_index(self) -> int:
        return self.applier.applied_index

    @property
    def offered_index(self) -> int | None:
        """The oldest snapshot that a living follower was offered and may be fetching: it and the log behind it must stay."""
        return self.replication.offered_index(self._now())

    @property
    def caught_up(self) -> bool:
        """Whether it does not hold its node's ready gate any more (R4.1, R4.3, R4.5)."""
        if self.recovery.recovering or self._cannot_apply:
            return True  # one bad replica does not hold its node
        alone = self.members.voters == (self.store_id,)
        if self.catch_up.leader_commit is None and (alone or self.is_leader):
            return self.applied_index >= self.commit_index
        return self.catch_up.is_done(self._now(), self.applied_index, self.election.leader_active_at)

    def match_index(self, store_id: int) -> int:
        """On the leader: up to where that member is known to hold the log; 0 for others."""
        return self.journal.synced_index if store_id == self.store_id else self.replication.match_index(store_id)

    def is_caught_up(self, store_id: int) -> bool:
        """On the leader: whether that member holds everything committed, so that it does not hold commits up once it is counted."""
        return self.replication.is_caught_up(store_id, self.commit_index)

    def take_ready(self) -> list[Outgoing]:
        """Messages that may leave now.  PERSIST BEFORE PROMISE: the others wait for the journal."""
        return self.outbox.take_ready()

    # --- links, nodes, disk -----------------------------------------------------------------------------------------------

    def connected(self, store_id: int) -> None:
        """The link to a peer is up; both sides start from nothing in flight."""
        if self.failed:
            return
        self._on_node_changed(store_id)
        self._connected.add(store_id)
        self.replication.on_link_changed(store_id)
        if self.catch_up.leader_commit is None and not self.is_leader and self.quiescence.node_active_at is not None:
            # It knows of no leader: it may have been started on a link that stands, under a leader that sleeps (R4.1).
            self._send(store_id, pb.RaftMessage(awake=pb.Awake()))
        if self.catch_up.awaits_majority and is_majority({self.store_id, *self._connected}, self.members.voters):
            self.catch_up.on_majority_connected(self._now())

    def disconnected(self, store_id: int) -> None:
        """The link to a peer is down; what was in flight may be lost."""
        self._on_node_changed(store_id)
        self._connected.discard(store_id)
        self.replication.on_link_changed(store_id)

    def peer_gone(self, store_id: int) -> None:
        """The peer's process is gone: its link broke and a new one was refused.  If it led, campaign soon (a hint: safe if
        wrong).  A leader has been told of the break, and learns nothing new."""
        if not self.failed and not self.is_leader and self.leader == store_id:
            self._wake()
            self.election.on_leader_gone(self._now())
            self.on_change()

    def peer_silent(self, store_id: int) -> None:
        """Nothing was heard of that store for ``election_min_s``, although its link stands."""
        if not self.failed and self.quiescence.on_silence(store_id, self.leader, self.is_leader):
            self._wake()

    def peer_active(self, store_id: int) -> None:
        """The store speaks again.  Its replica may lead asleep and not know that it was missed."""
        if not self.failed and not self.is_leader and self.leader == store_id:
            self._send(store_id, pb.RaftMessage(awake=pb.Awake()))

    def synced(self) -> None:
        """The journal's synced position has moved."""
        if self.is_leader:
            self._advance_commit()

    def recovered(self) -> None:
        """What was lost is back, and the caller has made durable that it is: this replica votes and is counted again."""
        self.recovery.end()
        self.on_change()

    def mended(self) -> None:
        """What was damaged may be readable again."""
        self._damage.clear()
        self._cannot_apply = False
        self.replication.mended()
        self.on_change()

    def fail(self, error: SteleError) -> None:
        """Ends this replica: it says nothing more but ``Awake`` to those who sleep under it; what it was asked ends with ``error``."""
        if self.failed:
            return
        self.failed = error
        self.outbox.clear()
        self._owe_awake()
        self.proposals.end(error)
        self._end_reads(error)
        self.on_change()

    # --- what can be asked of it ------------------------------------------------------------------------------------------

    def propose(self, payload: bytes, done: Done) -> None:
        """Appends ``payload`` on the leader; ``done(result, None)`` follows once it is committed and applied here, or
        ``done(None, error)``.  Raises NotLeader (also while leadership is handed over), MessageTooLarge, Overloaded (definite), or what
        made the replica fail."""
        self._check_leads()
        if len(payload) > self.entry_bytes_max:
            raise MessageTooLarge(
                f"an entry of {len(payload)} bytes; accepted: up to {self.entry_bytes_max}",
                bytes_max=self.entry_bytes_max,
            )
        self.proposals.check_room()
        if self.journal.is_full:
            raise Overloaded(
                f"{self.journal.unsynced_bytes} bytes of group {self.group_id} wait for the disk of store {self.store_id}",
                limit=UNSYNCED_BYTES_MAX,
            )
        self._append(REGULAR, payload, done)

    def change_members(self, members: Members, done: Done) -> None:
        """Appends a membership entry, in force at once; ``done(None, None)`` follows once a majority of the new set has it.

        Raises NotLeader, DiskFull; InvalidArgument unless it is one step (services/raft/membership.py) and keeps this leader a voter;
        NotReady while another change is under way, this leader is not current yet, the new voter has not caught up, or too few of the
        new voters are alive and whole.  All definite.
        """
        self._check_leads()
        membership.check_change(self.members, members)
        if self.store_id not in members.voters:
            raise InvalidArgument(f"store {self.store_id} leads group {self.group_id}: transfer its leadership first")
        self._wake()  # BEFORE it is asked who was heard: while it slept, the nodes were
        followers = self.replication.followers
        active = self.replication.active(self._now())
        check_ready(
            self.group_id,
            self.journal.members,
            members,
            self.commit_index,
            applied_index=self.applied_index,
            current=self._has_committed_own(),
            held={store: progress.counted_index for store, progress in followers.items()},
            whole={self.store_id, *(store for store in active if not followers[store].recovering_until)},
        )
        self._append(MEMBERSHIP, membership.encode(members), done)
        self._members_may_have_changed()

    def hears(self, store_id: int) -> bool:
        """Whether the leader has heard that follower within one election timeout.  While the group sleeps its node counts: it is woken,
        and the next question is about the replica."""
        self._wake()
        return store_id in self.replication.active(self._now())

    def read_index(self, done: ReadDone) -> None:
        """``done(applied_index, None)`` follows once the machine may be read, or ``done(0, error)``: NotLeader when leadership is lost.

        Raises NotLeader, Overloaded, or what made the replica fail.  A read has no effect, so every error is definite.
        """
        self._check_is_leader()
        if len(self.reads) >= READS_MAX:
            raise Overloaded(f"group {self.group_id} has {READS_MAX} reads in flight", limit=READS_MAX)
        self.reads.add(done)
        self._wake()

    def transfer_leadership(self, to: int | None = None, cause: str = "") -> bool:
        """Hands leadership to the most caught-up connected follower, or to ``to`` (services/raft/handover.py).  True if that is under way;
        ``on_transfer`` is told whom, and why, when the successor is asked to campaign.  Call ``tick`` afterwards."""
        if not self.is_leader:
            return False
        self._wake()
        if self.handover.successor:
            return to in (None, self.handover.successor)
        now = self._now()
        able = self._connected.difference(self.handover.passed_over(now))
        successor = self.replication.successor(able, to, self.commit_index)
        if successor is None:
            return False
        self.handover.begin(successor, cause, now)
        return True

    def install(self, snapshot: Snapshot, state: bytes) -> bool:
        """``snapshot`` is staged and checked: it becomes the state and the start of the log.  False if it is of no use any more.

        Raises ValueError if the machine cannot read ``state``; nothing has changed then.
        """
        self.snapshot_offer.current = None
        if self.failed or not self.snapshot_offer.is_of_use(snapshot, self.commit_index):  # H3
            return False
        self.applier.restore(snapshot, state)
        self.journal.install(snapshot)
        self.commit_index = snapshot.index
        self._members_may_have_changed()
        if self.follower.term == self.term and self.leader and not self.is_leader:
            self._accept(self.leader, snapshot.index)
        self.on_change()
        return True

    def refuse_offer(self) -> None:
        """What was offered could not be had: the leader offers again with its next heartbeat."""
        self.snapshot_offer.current = None

    def _check_is_leader(self) -> None:
        if self.failed:
            raise self.failed
        if not self.is_leader:
            raise NotLeader(f"group {self.group_id} is not led by store {self.store_id}", leader=self.leader or None)

    def _check_leads(self) -> None:
        self._check_is_leader()
        if self.journal.disk_full:
            raise DiskFull(
                f"store {self.store_id} has no room for writes to group {self.group_id}", store_id=self.store_id
            )
        if self._cannot_apply:
            damage = next(iter(self._damage.values()), None)
            raise NotReady(f"store {self.store_id} cannot apply all of group {self.group_id}: {damage}")
        self.handover.check_takes()

    def _append(self, kind: int, payload: bytes, done: Done) -> None:
        self._wake()
        index = self.journal.last_index + 1
        self.journal.append(Entry(index, self.core.term, kind, payload))
        self.proposals.add(index, self.core.term, len(payload), done)

    # --- messages ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: pb.RaftMessage) -> None:
        """One message of ``sender``, in the order in which it was sent.

        Whoever asks is heard: a replica that lags behind does not know its newest members (Ongaro's dissertation, section 4.1).
        Answers count from members only.  MessageRefused: nothing has come of it.
        """
        if self.failed:
            return
        check(sender, message, self.core.term, self.members)
        body, term = message.WhichOneof("body"), message.term
        self._wake_by(sender, message)
        if term > self.core.term:
            self._step_down(term)
        if body == "append_entries":
            self._on_append_entries(sender, term, message.append_entries)
        elif body == "append_answer":
            if self.core.state is RaftState.LEADER:
                self.replication.on_answer(sender, message.append_answer, self.core.term, self._now())
        elif body == "snapshot_offer":
            self._on_snapshot_offer(sender, term, message.snapshot_offer)
        elif body == "request_vote":
            self._on_request_vote(sender, term, message.request_vote)
        elif body == "vote_answer":
            self._take(self.election.on_vote(sender, message.vote_answer, self.recovery.recovering))
        elif body == "awake":
            self._on_awake(sender)
        elif body == "timeout_now" and term == self.core.term and sender == self.leader and self._may_campaign():
            self._campaign(transfer=True)

    def _send(self, to: int, message: pb.RaftMessage, promise: bool = False) -> None:
        self.outbox.put(to, self.core.term, message, promise)

    # --- elections --------------------------------------------------------------------------------------------------------

    def _may_campaign(self) -> bool:
        return self.election.may_campaign(self.recovery.recovering)

    def _take(self, step: ElectionStep) -> None:
        if step is ElectionStep.ASK:
            self._ask_for_votes(pre_vote=True)
        elif step is ElectionStep.CAMPAIGN:
            self._campaign()
        elif step is ElectionStep.LEAD:
            self._begin_leading()

    def _campaign(self, transfer: bool = False) -> None:
        old = self.core.state
        step = self.election.campaign(self._now(), transfer)
        self._on_state(old)
        self._ask_for_votes(transfer=transfer)
        self._take(step)

    def _ask_for_votes(self, pre_vote: bool = False, transfer: bool = False) -> None:
        """A pre-vote promises nothing.  A vote asked for says that this replica has voted for itself, which must be durable
        BEFORE: one that forgot it could give the vote of the same term to another (R3.8)."""
        ask = pb.RequestVote(
            pre_vote=pre_vote,
            last_log_index=self.journal.last_index,
            last_log_term=self.journal.last_term,
            transfer=transfer,
        )
        for voter in self.members.voters:
            if voter != self.store_id:
                self._send(voter, pb.RaftMessage(request_vote=ask), promise=not pre_vote)

    def _on_request_vote(self, candidate: int, term: int, m: pb.RequestVote) -> None:
        now = self._now()
        if self.recovery.recovering:  # R4.5: it cannot know which entries it stood for
            return
        if m.pre_vote:
            granted = self.election.grants_pre_vote(candidate, term, m, now, self._connected)
            answer = pb.VoteAnswer(pre_vote=True, granted=granted, voted_term=term + 1)
            self._send(candidate, pb.RaftMessage(vote_answer=answer))
        elif term < self.core.term:
            self._send(candidate, pb.RaftMessage(vote_answer=pb.VoteAnswer(voted_term=term)))
        elif self.election.grants_vote(candidate, m, now):
            answer = pb.VoteAnswer(granted=True, voted_term=term)
            self._send(candidate, pb.RaftMessage(vote_answer=answer), promise=True)

    def _begin_leading(self) -> None:
        old, first = self.core.state, self.journal.last_index + 1
        self.election.lead()
        self.quiescence.mark_active()
        self.handover.begin_leading(self._now())
        self.replication.begin(first, self._now())
        self._damage = {index: e for index, e in self._damage.items() if index}  # of snapshots it is found anew
        self._on_state(old)
        self._replicate()

    def _step_down(self, term: int) -> None:
        old = self.core.state
        self.election.step_down(self._now(), term)
        self._on_state(old)

    def _on_state(self, old: RaftState) -> None:
        """After whatever may have changed it from ``old``."""
        new = self.core.state
        if new is old:
            return
        if old is RaftState.LEADER:
            self._owe_awake()
            self.replication.end()
            self.handover.end_leading()
            lost = f"store {self.store_id} lost the leadership of group {self.group_id}"
            self.proposals.end(ProposalLost(f"{lost} before a majority answered"))
            self._end_reads(NotLeader(lost))
        log.info("raft_state", group=self.group_id, term=self.core.term, old=old.value, new=new.value)
        self.on_change()

    # --- the follower -----------------------------------------------------------------------------------------------------

    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        self._replicate_from(leader, term, m, entries_of(m))
        if term == self.core.term:
            self.quiescence.on_append(term, m, self._is_at_rest(leader, m))

    def _replicate_from(self, leader: int, term: int, m: pb.AppendEntries, entries: list[Entry]) -> None:
        if not self._obey(leader, term, m):
            return
        self.catch_up.on_leader_commit(m.commit_index)
        if self.journal.is_full and (m.payloads or m.prev_log_index > self.journal.last_index):
            # Neither taken nor asked for before there is room.  It lives, and holds no more than before.
            self._accept(leader, 0, promise=False)
            return
        match = self.follower.match(m, entries, self.commit_index)
        if isinstance(match, Conflict):
            self._send(leader, self.follower.refused(match, self.recovery.recovering))
            return
        synced, verified = self.journal.synced_index, match.verified_index
        self.recovery.on_verified(term, m.recovered_at, min(m.prev_log_index, synced))
        if match.new:
            self.follower.append(match.new)
        self.commit_index = max(self.commit_index, match.commit_index)
        if match.new:
            self._accept(leader, verified)
            self._members_may_have_changed()
            return
        if verified > synced:  # a slow or full disk is no silence: say what is synced now, the rest later
            self._accept(leader, synced, promise=False)
        self._accept(leader, verified)

    def _on_snapshot_offer(self, leader: int, term: int, m: pb.SnapshotOffer) -> None:
        if not self._obey(leader, term, m):
            return
        snapshot = from_pb(m.snapshot, self._observed_ms())
        self.catch_up.on_leader_commit(snapshot.index)
        self.commit_index = max(self.commit_index, self.snapshot_offer.verified_commit(snapshot))
        if self.snapshot_offer.on_offer(leader, snapshot, self.commit_index):
            self._accept(leader, 0, promise=False)  # alive, and no further than before
            self.on_offer()
        else:
            self._accept(leader, snapshot.index)

    def _obey(self, leader: int, term: int, m: pb.AppendEntries | pb.SnapshotOffer) -> bool:
        """Takes ``leader``'s word, from here on the one that is answered.  False if its term is over: it must learn that it was
        deposed, or it would believe that it leads for as long as nobody answers (H15)."""
        self.follower.term, self.follower.request = term, m.request
        if term < self.core.term:
            self._send(leader, self.follower.refused(STALE, self.recovery.recovering))
            return False
        old = self.core.state
        if old is RaftState.LEADER:
            raise MessageRefused(f"store {leader} claims to lead term {term}, which store {self.store_id} leads")
        self.election.on_leader(leader, self._now())
        self.recovery.on_told(term, m.recovered_at)
        self._on_state(old)
        return True

    def _accept(self, leader: int, match_index: int, promise: bool = True) -> None:
        self._send(leader, self.follower.accepted(match_index, self.recovery.recovering), promise)

    def _members_may_have_changed(self) -> None:
        """After the log has grown, was cut or replaced: in force is what it says now (H6)."""
        members = self.members
        if members == self._members_seen:
            return
        self._members_seen = members
        if self.core.state is RaftState.LEADER:
            self.replication.on_members(self._now())
        log.info("raft_members", group=self.group_id, voters=members.voters, learners=members.learners)
        self.on_members()

    # --- sleep ------------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self.quiescence.wake():
            return
        if self.is_leader:
            self.replication.on_woken(self.quiescence.last_active)
        else:
            self.election.on_woken(self.quiescence.last_active(self.leader))

    def _wake_by(self, sender: int, message: pb.RaftMessage) -> None:
        """Before ``message`` is handled."""
        quiescence, leads = self.quiescence, self.core.state is RaftState.LEADER
        if not quiescence.asleep:
            if leads and message.WhichOneof("body") != "append_answer":
                quiescence.mark_active()
            return
        leader = self.leader
        if quiescence.sleeps_on(sender, message, self.core.term, leader, leads):
            return
        self._wake()
        if not leads and sender != leader and message.term <= self.core.term:
            self._send(leader, pb.RaftMessage(awake=pb.Awake()))

    def _on_node_changed(self, store_id: int) -> None:
        """A follower relies on its leader's node alone."""
        if self.is_leader or store_id == self.leader:
            self._wake()

    def _on_awake(self, sender: int) -> None:
        """Whom this replica follows leads no more, nor ever again in this term; to a leader it was a word like any other."""
        if sender == self.leader and not self.is_leader:
            self.quiescence.on_leader_ended(self.core.term)
            self.peer_gone(sender)

    def _owe_awake(self) -> None:
        for store in self.quiescence.end(self.replication.followers):
            self._send(store, pb.RaftMessage(awake=pb.Awake()))

    def _is_idle(self, now: float) -> bool:
        """On the leader: nothing is left to do, and nobody has anything left to hear."""
        journal, last = self.journal, self.journal.last_index
        if self.handover.successor:
            return False
        if self.proposals or self.reads or not last == self.commit_index == self.applied_index == journal.synced_index:
            return False
        if journal.last_term != self.core.term or journal.disk_full:
            return False
        return self.quiescence.is_quiet(now, last, self.replication.followers, self._connected)

    def _is_at_rest(self, leader: int, m: pb.AppendEntries) -> bool:
        """On the follower: it holds what its leader says is everything, and the leader can be heard."""
        journal = self.journal
        return (
            m.prev_log_index == journal.last_index == self.commit_index == journal.synced_index
            and not m.payloads
            and self.core.state is RaftState.FOLLOWER
            and self.leader == leader
            and leader in self._connected
            and not self.recovery.recovering
        )

    # --- time -------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Lets time pass: elections, check-quorum, commit, apply, replication.  Call after every event and at ``next_deadline``."""
        if self.failed:
            return
        if self.quiescence.asleep:
            self._apply()
            return
        now = self._now()
        if self.core.state is not RaftState.LEADER:
            if self.election.deadline <= now:
                self._take(self.election.on_deadline(now, self._connected, self.recovery.recovering))
        elif not self.election.keeps_leading(now, self.replication.active(now)):
            self._step_down(self.core.term)
        elif (cause := self._reason_to_hand_over(now)) and self.transfer_leadership(cause=cause):
            log.warning("gives_up_leading", group=self.group_id, store=self.store_id, cause=cause)
        if self.core.state is not RaftState.LEADER:
            self._apply()
            return
        self._advance_commit()
        self._confirm_reads()
        self._apply()
        if self.core.state is RaftState.LEADER:
            self._hand_over(now)
            self._finish_reads()
            if self.reads.start_round(self.replication.newest_request):
                self.replication.ask_everybody()
                # Where this replica is a majority by itself nobody's answer follows that would bring another turn.
                self._confirm_reads()
                self._finish_reads()
            self.quiescence.on_turn(now, self._is_idle(now), self.replication.followers)
            if not self.quiescence.asleep:
                self._replicate()

    def _reason_to_hand_over(self, now: float) -> str:
        return self.handover.reason(now, self.commit_index, bool(self._damage))

    def _hand_over(self, now: float) -> None:
        handover, successor = self.handover, self.handover.successor
        if not successor:
            return
        if successor not in self._connected or successor not in self.members.voters or handover.is_overdue(now):
            handover.give_up(now)
            log.info("handover_given_up", group=self.group_id, store=self.store_id, successor=successor)
        elif handover.is_due(now, self.replication.match_index(successor), self.commit_index):
            self._send(successor, pb.RaftMessage(timeout_now=pb.TimeoutNow()))
            self.on_transfer(successor, handover.cause)

    def _confirm_reads(self) -> None:
        self.reads.confirm(
            self.commit_index, self._has_committed_own(), self.replication.followers, self.members.voters
        )

    def _finish_reads(self) -> None:
        for read in self.reads.take_done(self.applied_index):
            isolated(self.group_id, read, self.applied_index, None)

    def next_deadline(self) -> float:
        """When ``tick`` is next needed if nothing happens, in monotonic seconds."""
        if self.failed:
            return float("inf")
        if self.applied_index < self.commit_index and not self._cannot_apply:
            return self._now()
        if self.quiescence.asleep:
            return float("inf")
        return self.replication.next_due() if self.core.state is RaftState.LEADER else self.election.deadline

    def _replicate(self) -> None:
        sleep = self.quiescence.offers_sleep
        for to, message in self.replication.round(self.commit_index, self._connected, sleep, self._now()):
            self._send(to, message)
        if (damage := self.replication.damage) is not None and damage not in self._damage.values():
            self.report_damage(damage)

    def _advance_commit(self) -> None:
        self.commit_index = self.replication.committed(self.commit_index, self.core.term, self._now())

    def _has_committed_own(self) -> bool:
        """Whether an entry of the current term is committed: a leader then knows everything that its predecessors acknowledged."""
        return self.journal.term_at(self.commit_index) == self.core.term

    def _apply(self) -> None:
        """A damaged entry holds the state up, and nothing else: this replica votes, stores and acknowledges as before."""
        if self._cannot_apply:
            return
        try:
            error = self.applier.apply(self.commit_index)
        except LogDamaged as e:
            alone = self.members == Members((self.store_id,))  # else another may have it, and states must not differ
            self._cannot_apply = not (alone and self.applier.pass_over())
            self.report_damage(e)
            return
        if error is not None:
            self.fail(error)

    def report_damage(self, error: LogDamaged) -> None:
        """What this replica or a follower of it needs cannot be read here: while it leads, it looks for another that leads instead."""
        if self._damage.setdefault(error.facts.get("index", ""), error) is error:
            self.on_damage(error)

    def _end_reads(self, error: SteleError) -> None:
        for read in self.reads.take_all():
            isolated(self.group_id, read, 0, error)

    def validate(self) -> None:
        """Cheap invariants, checked after each event in tests and simulation."""
        journal = self.journal
        assert self.applied_index <= self.commit_index <= journal.last_index, (
            self.applied_index,
            self.commit_index,
            journal.last_index,
        )
        assert journal.first_index - 1 <= journal.last_index
        assert journal.synced_index <= journal.last_index
        assert journal.synced_position <= journal.position
        leads = self.core.state is RaftState.LEADER
        others = {*self.members.voters, *self.members.learners} - {self.store_id}
        assert self.replication.followers.keys() == (others if leads else set())
        assert leads or not (self.proposals or self.reads or self.handover.successor)
        if self.quiescence.asleep:
            assert self.commit_index == journal.last_index == journal.synced_index
            assert not self.failed
            assert not self.proposals
            assert self.leader
        for part in (
            self.election,
            self.replication,
            self.reads,
            self.quiescence,
            self.proposals,
            self.recovery,
            self.outbox,
        ):
            part.validate()
