"""PySyncObj's Raft, corrected: one replica of one group, without clock, socket, thread or disk of its own.

Guarantee: with the corrections below an entry that was acknowledged is in the log of every later leader.  Events go in (``receive``,
``tick``, ``propose``, ``connected`` …); what is to be sent comes out of ``take_ready``, promises only after the changes they stand for are
synced (services/raft/journal.py).  The caller holds the one thread that touches a replica.

One replica in seven rooms, each standing on the one before: pysyncobj_adapter.py (the seam to the library), elections.py, replication.py,
snapshots.py, reads.py, sleeping.py, and here: events, time, proposals, applying.  What stays the library's: the voting rule, appending
to the log, becoming leader, terms and states.  The corrections, by their names in the design's list:

=======  ==================================  ======================================================================================
H1       replication.py _on_append_entries   matching entries are skipped, only a conflict truncates
..       replication.py _on_append_answer    ``next_index`` never moves below ``match_index + 1``
H2       replication.py _on_append_entries   commit moves at most to the last entry that this very message verified
H3       snapshots.py install                never over what is committed, nor over a log that holds the snapshot's entry
H4       replication.py _on_append_answer    answers name the term and request they answer; others are dropped
H5       elections.py _on_vote_answer        votes are attributed: a set of voters per term
H6       engine.py change_members            one change at a time, after an entry of the leader's own term is committed
..       membership.py MemberHistory         in force once appended, out of force once cut; from snapshot and log at the start
H7       journal.py Flush                    promises leave after the sync; an unreadable term file is refused (datanode/log/terms.py)
H8       journal.py Flush._carry_out         segments go after the snapshot that stands for them is durable
H9       journal.py setRaftCommitIndex       commit is never read from disk
H10      datanode/storage.py                 a log without its start needs a snapshot that reaches it
H11      engine.py _apply_one                an exception in a callback or in apply neither repeats nor skips an entry
H12      engine.py propose                   on the leader only; what is pending ends *indefinite* when leadership is lost
H13      engine.py propose                   an entry travels whole, below a limit
H14      ticker.py                           what waits is delivered before any replica looks at the clock
H15      elections.py, replication.py        pre-vote; answers with the higher term; check-quorum
..       reads.py                            reads by ReadIndex
H16      snapshots.py                        snapshots travel beside the heartbeats, resumable, checked before they replace anything
H17      engine.py receive, _apply_one       typed messages only; the library's VERSION and MEMBERSHIP commands are refused
H18      replication.py _on_append_entries   a refusal names the conflicting term and its first index
R4.5     elections.py, replication.py        a replica that lost its log neither votes, campaigns nor counts until it holds it again
=======  ==================================  ======================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from stele.services.errors import (
    DiskFull,
    InvalidArgument,
    MessageTooLarge,
    NotLeader,
    NotReady,
    Overloaded,
    ProposalLost,
    SteleError,
    StorageFailed,
)
from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.journal import Journal
from stele.services.raft.quorum import is_majority
from stele.services.raft.replication import BATCH_BYTES_MAX
from stele.services.raft.sleeping import Sleeping
from stele.services.raft.snapshots import StateMachine
from stele.services.raft.state import RaftState
from stele.services.raft.storage import MEMBERSHIP, NO_OP, REGULAR, Entry, Members
from stele.services.raft.timing import Timing

log = structlog.get_logger()

APPLY_BYTES_MAX: Final = 4 << 20  # per tick, so that one group does not hold the loop
APPLY_ENTRIES_MAX: Final = 512  # likewise; what the first bring about is under way while the rest is applied
PENDING_MAX: Final = 20_000
PENDING_BYTES_MAX: Final = 64 << 20
RETRY_AFTER_MS: Final = 200
STALLED_HEARTBEATS: Final = 4  # without a turn
ANSWER_HEARTBEATS: Final = 2  # then given to the followers


Done = Callable[[object, SteleError | None], None]


@dataclass(slots=True)
class _Proposal:
    term: int
    size: int
    done: Done


class Engine(Sleeping):
    """One replica.  Its members are those that ``journal`` names; ``machine`` is as the journal's newest snapshot has it, or new;
    ``now`` is monotonic seconds."""

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
        recovering: bool = False,
    ) -> None:
        self.entry_bytes_max = entry_bytes_max
        self._pending: dict[int, _Proposal] = {}
        self._pending_bytes = 0
        self._started_at = now()
        self._quorum_connected_at: float | None = None
        self._hand_over_at = 0.0
        self._turned_at = float("-inf")
        self._judges_from = float("-inf")
        super().__init__(
            group_id, store_id, journal, now, rng, timing, machine=machine, may_lead=may_lead, recovering=recovering
        )

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
        if self._alone() or self.is_leader:
            return self._applied >= self.commit_index
        if self._quorum_connected_at is not None:
            return now - self._quorum_connected_at >= 3 * self.timing.heartbeat_s
        return now - self._started_at >= self.timing.election_max_s

    # --- events -----------------------------------------------------------------------------------------------------

    def connected(self, store_id: int) -> None:
        """The link to a peer is up; both sides start from nothing in flight."""
        if self.failed:
            return
        self._wake_by_node(store_id)
        self._connected.add(store_id)
        self._rewind_lost(store_id)
        self._greet(store_id)
        if self._quorum_connected_at is None and self._majority_reachable():
            self._quorum_connected_at = self._now()

    def disconnected(self, store_id: int) -> None:
        """The link to a peer is down; what was in flight may be lost."""
        self._wake_by_node(store_id)
        self._connected.discard(store_id)
        self._rewind_lost(store_id)

    def synced(self) -> None:
        """The journal's synced position has moved."""
        if self.is_leader:
            self._advance_commit()

    def recovered(self) -> None:
        """What was lost is back, and the caller has made durable that it is: this replica votes and is counted again."""
        self.recovering = self.holds_again = False
        self.on_change()

    def fail(self, error: SteleError) -> None:
        """Ends this replica: it says nothing more but ``Awake`` to those who sleep under it; what it was asked ends with ``error``."""
        if self.failed:
            return
        self.failed = error
        self.outbox.clear()
        self._say_awake()
        self._end_proposals(error)
        self._end_reads(error)
        self.on_change()

    def propose(self, payload: bytes, done: Done) -> None:
        """Appends ``payload`` on the leader; ``done(result, None)`` follows once it is committed and applied here, or
        ``done(None, error)``.  Raises NotLeader, MessageTooLarge, Overloaded (definite), or what made the replica fail."""
        self._check_leads()
        if len(payload) > self.entry_bytes_max:
            raise MessageTooLarge(
                f"an entry of {len(payload)} bytes; accepted: up to {self.entry_bytes_max}",
                bytes_max=self.entry_bytes_max,
            )
        if len(self._pending) >= PENDING_MAX or self._pending_bytes >= PENDING_BYTES_MAX:
            raise Overloaded(f"group {self.group_id} has {len(self._pending)} proposals in flight", limit=PENDING_MAX)
        self._append(REGULAR, payload, done)

    def change_members(self, members: Members, done: Done) -> None:
        """Appends a membership entry, in force at once; ``done(None, None)`` follows once a majority of the new set has it.

        Raises NotLeader, DiskFull; InvalidArgument unless it is one step (services/raft/membership.py) and keeps this leader a voter;
        NotReady while another change is under way, this leader is not current yet, the new voter has not caught up, or too few of the
        new voters are alive and whole.  All definite.
        """
        self._check_leads()
        now = self.members
        membership.check_change(now, members)
        if self.store_id not in members.voters:
            raise InvalidArgument(f"store {self.store_id} leads group {self.group_id}: transfer its leadership first")
        if self.journal.members.index > self.commit_index:
            raise NotReady(f"group {self.group_id} changes its members already", retry_after_ms=RETRY_AFTER_MS)
        if self.journal.term_at(self.commit_index) != self.term:
            raise NotReady(f"group {self.group_id} has a leader that is not current yet", retry_after_ms=RETRY_AFTER_MS)
        for store in set(members.voters) - set(now.voters):
            if not self.is_caught_up(store):
                raise NotReady(
                    f"store {store} holds group {self.group_id} up to entry {self.match_index(store)} of {self.commit_index}",
                    retry_after_ms=RETRY_AFTER_MS,
                )
        self._check_alive(members)
        self._append(MEMBERSHIP, membership.encode(members), done)
        self._members_may_have_changed()

    def _check_alive(self, members: Members) -> None:
        """Without a majority that answers and can vote the new set could commit nothing, not even the next change."""
        whole = {m for m in self._heard(self._now()) if not self._peers[m].recovered_at}
        if not is_majority({self.store_id, *whole}, members.voters):
            raise NotReady(
                f"too few of the stores {list(members.voters)} answer and hold group {self.group_id}",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def is_caught_up(self, store_id: int) -> bool:
        """On the leader: whether that member holds everything committed, so that it does not hold commits up once it is counted."""
        peer = self._peers.get(store_id)
        return peer is not None and not peer.recovered_at and self.match_index(store_id) >= self.commit_index

    def _check_leads(self) -> None:
        if self.failed:
            raise self.failed
        if not self.is_leader:
            raise NotLeader(f"group {self.group_id} is not led by store {self.store_id}", leader=self.leader or None)
        if self.journal.disk_full:
            raise DiskFull(
                f"store {self.store_id} has no room for writes to group {self.group_id}", store_id=self.store_id
            )

    def _append(self, kind: int, payload: bytes, done: Done) -> None:
        self._wake()
        index = self.journal.last_index + 1
        self.journal.append(Entry(index, self.term, kind, payload))
        self._pending[index] = _Proposal(self.term, len(payload), done)
        self._pending_bytes += len(payload)

    def transfer_leadership(self, to: int | None = None) -> bool:
        """Asks the most caught-up connected follower (or ``to``) to campaign at once.  True if one was asked."""
        if not self.is_leader:
            return False
        self._wake()
        wanted = [
            (self._peers[m].match_index, m)
            for m in self._peers
            if m in self.members.voters and self._is_connected(m) and not self._peers[m].recovered_at
            if to is None or m == to
        ]
        if not wanted or max(wanted)[0] < self.journal.last_index:
            return False
        self._emit(max(wanted)[1], pb.RaftMessage(timeout_now=pb.TimeoutNow()))
        return True

    def receive(self, sender: int, message: pb.RaftMessage) -> None:
        """One message of ``sender``, in the order in which it was sent.

        Whoever asks is heard: a replica that lags behind does not know its newest members (Ongaro's dissertation, section 4.1).
        Answers count from members only.
        """
        if self.failed:
            return
        body = message.WhichOneof("body")
        self._wake_by_word(sender, message)
        if message.term > self.term:
            self._follow(message.term)
        if body == "append_entries":
            self._on_append_entries(sender, message.term, message.append_entries)
            if message.term == self.term:
                self._heed_sleep(sender, message.append_entries)
        elif body == "append_answer":
            self._on_append_answer(sender, message.append_answer)
        elif body == "snapshot_offer":
            self._on_snapshot_offer(sender, message.term, message.snapshot_offer)
        elif body == "request_vote":
            self._on_request_vote(sender, message.term, message.request_vote)
        elif body == "vote_answer":
            self._on_vote_answer(sender, message.vote_answer)
        elif body == "awake":
            self._on_awake(sender)
        elif body == "timeout_now" and message.term == self.term and sender == self.leader and self._may_campaign():
            self._campaign(transfer=True)

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Lets time pass: elections, check-quorum, commit, apply, replication.  Call after every event and at ``next_deadline``."""
        if self.failed:
            return
        now = self._now()
        if self.asleep:
            self._apply()
            return
        if self.raft.state is not RaftState.LEADER:
            if self._election_deadline <= now:
                self._election_due()
        elif not self._was_stalled(now) and not self._has_quorum(now):
            self._follow(None)
        elif self.journal.disk_full and now >= self._hand_over_at:  # one of the others may have room
            self._hand_over_at = now + self.timing.election_max_s
            self.transfer_leadership()
        if self.raft.state is RaftState.LEADER:
            self._advance_commit()
            self._confirm_round()
        self._apply()
        if self.raft.state is RaftState.LEADER:
            self._end_confirmed()
            self._start_round()
            self._rest(now)
            if not self.asleep:
                self._send_append_entries()

    def _was_stalled(self, now: float) -> bool:
        """A leader that had no turn for some heartbeats has asked nobody meanwhile: silence tells nothing until it has, and until the
        answers that wait were read (H14)."""
        if now - self._turned_at >= STALLED_HEARTBEATS * self.timing.heartbeat_s:
            self._judges_from = now + ANSWER_HEARTBEATS * self.timing.heartbeat_s
        self._turned_at = now
        return now < self._judges_from

    def next_deadline(self) -> float:
        """When ``tick`` is next needed if nothing happens, in monotonic seconds."""
        if self.failed:
            return float("inf")
        if self._applied < self.commit_index:
            return self._now()
        if self.asleep:
            return float("inf")
        if self.raft.state is not RaftState.LEADER:
            return self._election_deadline
        if not self._peers:
            return float("inf")
        due = min(p.sent_at for p in self._peers.values()) + self.timing.heartbeat_s
        return min(due, self._notice_at) if self._notice_at is not None else due

    def _begin_leading(self) -> None:
        """A majority has voted for this replica in this term."""
        old, first = self.raft.state, self.journal.last_index + 1
        self.raft.lead()
        self.leader = self.store_id
        self._moved(old)
        for peer in self._peers.values():
            peer.next_index = first
        self._send_append_entries()

    def _state_changed(self, old: RaftState, new: RaftState) -> None:
        if old is RaftState.LEADER:
            self._say_awake()
            self._peers.clear()
            self._end_proposals(
                ProposalLost(
                    f"store {self.store_id} lost the leadership of group {self.group_id} before a majority answered"
                )
            )
            self._end_reads(NotLeader(f"store {self.store_id} lost the leadership of group {self.group_id}"))
        if new is RaftState.LEADER:
            self._request = 0
            self._keep_peers()
        log.info("raft_state", group=self.group_id, term=self.term, old=old.value, new=new.value)
        self.on_change()

    # --- applying -----------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        budget = APPLY_BYTES_MAX
        last = min(self.commit_index, self._applied + APPLY_ENTRIES_MAX)
        while self._applied < last and budget > 0 and not self.failed:
            entries = self.journal.read(self._applied + 1, last, min(budget, BATCH_BYTES_MAX))
            for entry in entries:
                budget -= len(entry.payload) + 64
                self._apply_one(entry)
                if self.failed:
                    return

    def _apply_one(self, entry: Entry) -> None:
        self._applied = entry.index  # H11: whatever happens below, this entry is not applied again
        result: object = None
        if entry.kind == REGULAR:
            try:
                result = self.machine.apply(entry.index, entry.term, entry.payload)
            except Exception as e:  # its state is in doubt: this replica must not go on with it
                log.exception("apply_failed", group=self.group_id, index=entry.index)
                self.fail(StorageFailed(f"group {self.group_id} could not apply entry {entry.index}: {e!r}"))
                return
        elif entry.kind not in (NO_OP, MEMBERSHIP):  # H17
            log.error("raft_entry_refused", group=self.group_id, index=entry.index, kind=entry.kind)
        proposal = self._pending.pop(entry.index, None)
        if proposal is None:
            return
        self._pending_bytes -= proposal.size
        if proposal.term == entry.term:
            self._isolated(proposal.done, result, None)
        else:
            self._isolated(
                proposal.done,
                None,
                NotLeader(f"another leader's entry took the place of this proposal in group {self.group_id}"),
            )

    def _pending_count(self) -> int:
        return len(self._pending)

    def _end_proposals(self, error: SteleError) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        for proposal in pending.values():
            self._isolated(proposal.done, None, error)

    def _isolated(self, done: Callable[..., None], *outcome: Any) -> None:
        try:
            done(*outcome)
        except Exception:  # H11
            log.exception("callback_failed", group=self.group_id)

    def validate(self) -> None:
        """Cheap invariants, checked after each event in tests and simulation."""
        journal = self.journal
        assert self._applied <= self.commit_index <= journal.last_index, (
            self._applied,
            self.commit_index,
            journal.last_index,
        )
        assert journal.first_index - 1 <= journal.last_index
        assert journal.synced_index <= journal.last_index
        assert journal.synced_position <= journal.position
        assert self.term >= journal.last_term
        if self.is_leader:
            assert self._peers.keys() == {*self.members.voters, *self.members.learners} - {self.store_id}
            for peer in self._peers.values():
                assert peer.match_index < peer.next_index <= journal.last_index + 1, (peer.match_index, peer.next_index)
        if self.asleep:
            assert self.commit_index == journal.last_index == journal.synced_index
            assert not self.failed
            assert not self._pending
            assert self.is_leader or self.leader
        assert self._pending_bytes == sum(p.size for p in self._pending.values())
