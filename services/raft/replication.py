"""Replication: what a leader sends, what a follower keeps, what an answer counts for (H1, H2, H4, H7, H18, R4.5).

A follower that needs entries from before the log's start is offered a snapshot instead (services/raft/snapshots.py).

Guarantee: an entry is committed once a majority has synced it, the leader counted only up to its own sync and a recovering replica not at
all; what a follower acknowledged is cut from its log only by a leader that cannot have counted it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from stele.services.pb import raft_pb2 as pb
from stele.services.raft import quorum
from stele.services.raft.elections import Elections
from stele.services.raft.entries import Batch, entries_of
from stele.services.raft.state import RaftState
from stele.services.raft.storage import Entry

log = structlog.get_logger()

INFLIGHT_BYTES_MAX: Final = 8 << 20  # per peer, sent and not answered
INFLIGHT_REQUESTS_MAX: Final = 256
BATCH_BYTES_MAX: Final = 1 << 20


class Peer:
    """What a leader knows of one follower."""

    __slots__ = (
        "answered",
        "commit_sent",
        "heard_at",
        "inflight",
        "inflight_bytes",
        "lulled",
        "match_index",
        "next_index",
        "offered",
        "recovered_at",
        "rewound_at",
        "sent_at",
    )

    def __init__(self, now: float, next_index: int) -> None:
        self.next_index = next_index
        self.match_index = 0
        self.inflight: deque[tuple[int, int]] = deque()  # (request, bytes)
        self.inflight_bytes = 0
        self.rewound_at = 0  # requests up to this number were sent before the last rewind
        self.heard_at = now
        self.sent_at = float("-inf")
        self.commit_sent = 0
        self.answered = 0  # the newest request that it answered
        self.offered = 0  # index of the snapshot that it was offered last and may be fetching
        self.lulled = 0  # not 0: since this request, `sleep` was the last word to it
        self.recovered_at = 0  # not 0: it lost its log, and is not counted until it holds entries up to here

    def forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0


class Replication(Elections):
    """Both ends of AppendEntries."""

    def __init__(self, *library: Any, **elections: Any) -> None:
        self.holds_again = (
            False  # recovering, and everything it lost is back: the caller makes that durable, then `recovered`
        )
        self._peers: dict[int, Peer] = {}
        self._request = 0  # number of the newest AppendEntries sent in this term
        self._answering: tuple[int, int] = (0, 0)  # (term, request) of the AppendEntries being handled
        self._leader_commit_at_start: int | None = None
        self._notice_at: float | None = None
        self._lulling = False  # heartbeats say `sleep`: services/raft/sleeping.py
        self.on_members: Callable[[], None] = lambda: None
        super().__init__(*library, **elections)
        self._members_seen = self.members

    def _members_may_have_changed(self) -> None:
        """After the log has grown, was cut or replaced: in force is what it says now (H6)."""
        members = self.members
        if members == self._members_seen:
            return
        self._members_seen = members
        if self.raft.state is RaftState.LEADER:
            self._keep_peers()
        log.info("raft_members", group=self.group_id, voters=members.voters, learners=members.learners)
        self.on_members()

    def _keep_peers(self) -> None:
        """One Peer for each other member."""
        others = {*self.members.voters, *self.members.learners} - {self.store_id}
        for gone in self._peers.keys() - others:
            del self._peers[gone]
        # Anew, whatever an earlier leadership knew of one: a store that was out may have lost, or be about to lose, what it held then,
        # and an acknowledgement remembered for it would count towards a commit that it does not hold.
        for new in sorted(others - self._peers.keys()):
            self._peers[new] = Peer(self._now(), self.journal.last_index + 1)

    # --- the follower's end -------------------------------------------------------------------------------------------

    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        try:
            entries = entries_of(m)
        except ValueError as e:
            log.error("raft_message_refused", group=self.group_id, peer=leader, error=str(e))
            return
        if not self._obey(leader, term, m.request):
            return
        if self._leader_commit_at_start is None:
            self._leader_commit_at_start = m.commit_index
        journal = self.journal
        if m.prev_log_index > journal.last_index:
            self._contact(leader, 0)
            self._refuse(leader, conflict_index=journal.last_index + 1, conflict_term=0)
            return
        if m.prev_log_index >= journal.first_index and journal.term_at(m.prev_log_index) != m.prev_log_term:
            conflict_term = journal.term_at(m.prev_log_index)
            first = m.prev_log_index
            while (
                first > max(self.commit_index + 1, journal.first_index) and journal.term_at(first - 1) == conflict_term
            ):
                first -= 1
            self._contact(leader, 0)
            self._refuse(leader, conflict_index=first, conflict_term=conflict_term)
            return
        if self.recovering and m.recovered_at and min(m.prev_log_index, journal.synced_index) >= m.recovered_at:
            self.holds_again = True
        skip = 0
        while skip < len(entries) and entries[skip].index <= journal.last_index and self._holds(entries[skip]):
            skip += 1
        verified = entries[-1].index if entries else m.prev_log_index
        commit = min(m.commit_index, verified)  # H2
        if skip == len(entries):  # H1: nothing new and nothing in conflict leaves the log alone
            self._contact(leader, commit)
            if (
                verified > journal.synced_index
            ):  # a slow or full disk is no silence: say what is synced now, the rest later
                self._accept(leader, journal.synced_index, promise=False)
            self._accept(leader, verified)
            return
        new = entries[skip:]
        if new[0].index <= self.commit_index:
            raise AssertionError(f"term {term} would replace committed entry {new[0].index} of group {self.group_id}")
        if new[0].index <= journal.last_index:
            journal.truncate_from(new[0].index)
        for entry in new:
            journal.append(entry)
        self._contact(leader, commit)
        self._accept(leader, verified)
        self._members_may_have_changed()

    def _obey(self, leader: int, term: int, request: int) -> bool:
        """Takes ``leader``'s word, from here on the one that is answered.  False if its term is over."""
        self._answering = (term, request)
        if term < self.term:  # H15: it must learn that it was deposed
            self._refuse(leader, conflict_index=0, conflict_term=0)
            return False
        if self.raft.state is RaftState.LEADER:
            raise AssertionError(f"two leaders in term {term}: {self.store_id} and {leader}")
        self._leader_heard_at = self._now()
        self._pre_voters = None
        return True

    def _holds(self, entry: Entry) -> bool:
        return entry.index < self.journal.first_index or self.journal.term_at(entry.index) == entry.term

    def _accept(self, leader: int, match_index: int, promise: bool = True) -> None:
        term, request = self._answering
        answer = pb.AppendAnswer(
            request=request, request_term=term, success=True, match_index=match_index, recovering=self.recovering
        )
        self._emit(leader, pb.RaftMessage(append_answer=answer), promise=promise)

    def _refuse(self, leader: int, conflict_index: int, conflict_term: int) -> None:
        term, request = self._answering
        answer = pb.AppendAnswer(
            request=request,
            request_term=term,
            conflict_index=conflict_index,
            conflict_term=conflict_term,
            recovering=self.recovering,
        )
        self._emit(leader, pb.RaftMessage(append_answer=answer))

    # --- the leader's end ---------------------------------------------------------------------------------------------

    def _has_quorum(self, now: float) -> bool:
        """Check-quorum: a majority, ourselves included, was heard within one election timeout (H15)."""
        return quorum.is_majority({self.store_id, *self._heard(now)}, self.members.voters)

    def _heard(self, now: float) -> set[int]:
        return {m for m, peer in self._peers.items() if now - peer.heard_at < self.timing.election_max_s}

    def _send_append_entries(self) -> None:
        now = self._now()
        notice = self._notice_at is not None and self._notice_at <= now
        batches: dict[tuple[int, int], Batch] = {}
        for follower, peer in self._peers.items():
            if self._is_connected(follower):
                self._send_to(follower, peer, now, notice, batches)
            else:
                peer.sent_at = now
        if notice or all(p.commit_sent >= self.commit_index for p in self._peers.values()):
            self._notice_at = None

    def _send_to(
        self, follower: int, peer: Peer, now: float, notice: bool, batches: dict[tuple[int, int], Batch]
    ) -> None:
        """``batches`` are those made in this round, by first index and room: what goes to one follower mostly goes to the next."""
        journal = self.journal
        if peer.next_index < journal.first_index:
            self._offer_snapshot(follower, peer, now)
            return
        due = now - peer.sent_at >= self.timing.heartbeat_s or (notice and peer.commit_sent < self.commit_index)
        while due or peer.next_index <= journal.last_index:
            room = INFLIGHT_BYTES_MAX - peer.inflight_bytes
            full = room <= 0 or len(peer.inflight) >= INFLIGHT_REQUESTS_MAX
            if full and not due:
                return
            first, room = peer.next_index, 0 if full else min(BATCH_BYTES_MAX, room)
            batch = batches.get((first, room))
            if batch is None:
                entries = journal.read(first, journal.last_index, room) if room else []
                batch = batches[first, room] = Batch(entries)
            self._request += 1
            append = pb.AppendEntries(
                request=self._request,
                prev_log_index=first - 1,
                prev_log_term=journal.term_at(first - 1),
                commit_index=self.commit_index,
                recovered_at=peer.recovered_at,
                sleep=self._lulling,
                payloads=batch.payloads,
                runs=batch.runs,
            )
            if batch.payloads:
                peer.inflight.append((self._request, batch.size))
                peer.inflight_bytes += batch.size
                peer.next_index = first + len(batch.payloads)
            peer.sent_at, peer.commit_sent = now, self.commit_index
            peer.lulled = (peer.lulled or self._request) if self._lulling else 0
            self._emit(follower, pb.RaftMessage(append_entries=append))  # may leave before our own sync
            due = False

    def _offer_snapshot(self, follower: int, peer: Peer, now: float) -> None:
        """What ``follower`` needs is no longer in the log: services/raft/snapshots.py."""
        raise NotImplementedError

    def _on_append_answer(self, follower: int, m: pb.AppendAnswer) -> None:
        if self.raft.state is not RaftState.LEADER or m.request_term != self.term:  # H4
            return
        peer = self._peers.get(follower)
        if peer is None:  # it is no member any more
            return
        peer.heard_at = self._now()
        peer.answered = max(peer.answered, m.request)
        while peer.inflight and peer.inflight[0][0] <= m.request:
            peer.inflight_bytes -= peer.inflight.popleft()[1]
        if m.recovering and not peer.recovered_at:  # what it acknowledged before it lost its log is void
            peer.recovered_at = self.journal.last_index
            peer.match_index = 0
            log.info("raft_peer_recovering", group=self.group_id, peer=follower, until_index=peer.recovered_at)
        elif not m.recovering:
            peer.recovered_at = 0
        if m.success:
            before = peer.next_index
            if m.match_index > peer.match_index:
                peer.match_index = m.match_index
                if m.match_index >= peer.offered:
                    peer.offered = 0
            peer.next_index = max(before, peer.match_index + 1)  # H1
            return
        if m.recovering:  # it may have lost its log once more since it was last known to recover
            peer.match_index = min(peer.match_index, m.conflict_index - 1)
        if m.request <= peer.rewound_at:  # answers what was sent before the last rewind
            return
        wanted = m.conflict_index
        if m.conflict_term:  # H18: skip the whole term unless we hold entries of it
            at = min(wanted, self.journal.last_index)
            while at >= self.journal.first_index and self.journal.term_at(at) > m.conflict_term:
                at -= 1
            wanted = min(wanted, at + 1)
        lowest = (
            2 if self.journal.first_index == 1 else 1
        )  # entry 1 is the same everywhere; below the start: a snapshot
        peer.next_index = max(peer.match_index + 1, lowest, min(wanted, self.journal.last_index + 1))
        peer.rewound_at = self._request
        peer.forget_inflight()

    def _rewind_lost(self, store_id: int) -> None:
        peer = self._peers.get(store_id)
        if peer is not None:
            peer.next_index = peer.match_index + 1 if peer.match_index else self.journal.last_index + 1
            peer.rewound_at = self._request
            peer.forget_inflight()
            peer.sent_at = float("-inf")

    def _advance_commit(self) -> None:
        """Commits what a majority has synced, ourselves counted only up to our own sync, and only in our own term."""
        peers = self._peers
        synced = [0 if peers[m].recovered_at else peers[m].match_index for m in self._other_voters()]
        if self.store_id in self.members.voters:
            synced.append(self.journal.synced_index)
        index = quorum.committed(synced)
        if index > self.commit_index and self.journal.term_at(index) == self.term:
            self.commit_index = index
            if self._notice_at is None:
                self._notice_at = self._now() + self.timing.notice_s
