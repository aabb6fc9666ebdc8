"""The leader's end of AppendEntries: what it sends, what an answer counts for, what is committed (H1, H4, H7, H18, R4.5).

Guarantee: an entry is committed once a majority has synced it, the leader counted only up to its own sync and a recovering replica not
at all.

A follower that needs entries from before the log's start is offered a snapshot instead (services/raft/snapshot_offer.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import structlog

from stele.services.errors import LogDamaged
from stele.services.pb import raft_pb2 as pb
from stele.services.raft import quorum
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.door import MessageRefused
from stele.services.raft.entries import Batch
from stele.services.raft.journal import Journal
from stele.services.raft.progress import NEVER, Progress
from stele.services.raft.snapshot_offer import snapshot_for, to_pb
from stele.services.raft.timing import Timing

log = structlog.get_logger()

BATCH_BYTES_MAX: Final = 1 << 20
OFFER_PATIENCE_S: Final = 120.0  # for which compaction waits for one who fetches a snapshot

Outbound = list[tuple[int, pb.RaftMessage]]
"""Messages with their receivers, in the order in which they leave."""


class Replication:
    """``followers`` are all members but this store while it leads, and nobody while it does not."""

    __slots__ = (
        "_damaged_index",
        "_group_id",
        "_journal",
        "_notice_at",
        "_observed_ms",
        "_store_id",
        "_timing",
        "damage",
        "followers",
        "may_send",
        "newest_request",
        "pace",
    )

    def __init__(
        self, group_id: int, store_id: int, journal: Journal, timing: Timing, observed_ms: Callable[[], int]
    ) -> None:
        self._group_id = group_id
        self._store_id = store_id
        self._journal = journal
        self._timing = timing
        self._observed_ms = observed_ms
        self.followers: dict[int, Progress] = {}
        self.may_send: Callable[[int, int], bool] = lambda follower, ahead_bytes: (
            True
        )  # whether a link takes more entries
        self.pace = BuildPace()  # of what learners are sent
        self.newest_request = 0  # sent in this term; numbers tell answers apart that promise different things (H4, H15)
        self._notice_at: float | None = None  # when followers are told of a commit at the latest
        self.damage: LogDamaged | None = None  # why this log cannot give what a follower needs
        self._damaged_index = 0

    # --- who there is -----------------------------------------------------------------------------------------------------

    def begin(self, next_index: int, now: float) -> None:
        """A term of leadership begins; ``next_index`` is where its own first entry stands."""
        self.newest_request = 0
        self._notice_at = None
        self.mended()
        self._add_followers(next_index, now)

    def end(self) -> None:
        """What is known of followers is of this term: in another they may have been made to cut what they hold."""
        self.followers.clear()

    def on_members(self, now: float) -> None:
        """Others are members now.  A new one is known nothing of, whatever an earlier leadership knew: one that was out may
        have lost, or be about to lose, what it held then, and an acknowledgement remembered for it would count towards a commit
        that it does not hold."""
        self._add_followers(self._journal.last_index + 1, now)

    def _add_followers(self, next_index: int, now: float) -> None:
        members = self._journal.members.current
        others = {*members.voters, *members.learners} - {self._store_id}
        for gone in self.followers.keys() - others:
            del self.followers[gone]
        for new in sorted(others - self.followers.keys()):
            self.followers[new] = Progress(next_index, now)

    def on_link_changed(self, store_id: int) -> None:
        progress = self.followers.get(store_id)
        if progress is not None:
            progress.on_link_changed(self.newest_request, self._journal.last_index)

    def on_woken(self, node_active_at: Callable[[int], float]) -> None:
        for store, progress in self.followers.items():
            progress.on_woken(node_active_at(store))

    def active(self, now: float) -> set[int]:
        """Followers that were heard within one election timeout."""
        timeout_s = self._timing.election_max_s
        return {store for store, progress in self.followers.items() if now - progress.active_at < timeout_s}

    def match_index(self, store_id: int) -> int:
        """Up to where a follower is known to hold the log; 0 for others."""
        progress = self.followers.get(store_id)
        return progress.match_index if progress is not None else 0

    def is_caught_up(self, store_id: int, commit_index: int) -> bool:
        """Whether that follower holds everything committed, so that it does not hold commits up once it is counted."""
        progress = self.followers.get(store_id)
        return progress is not None and not progress.recovering_until and progress.match_index >= commit_index

    def offered_index(self, now: float) -> int | None:
        """The oldest snapshot that a living follower was offered and may be fetching: it and the log behind it must stay.  For
        ``OFFER_PATIENCE_S``: one that cannot take it in, its disk being full, must not fill this one too.  Then it is offered another."""
        alive_since = now - self._timing.election_max_s
        offered_since = now - OFFER_PATIENCE_S
        return min(
            (
                p.offered_index
                for p in self.followers.values()
                if p.offered_index and p.active_at > alive_since and p.offered_at > offered_since
            ),
            default=None,
        )

    def successor(self, able: Collection[int], wanted: int | None, commit_index: int) -> int | None:
        """Of ``able``, the voter that leads next if this leader gives it up: the most caught up, one that holds everything committed, so
        that what it lacks is under way to it."""
        voters = self._journal.members.current.voters
        held = [
            (progress.match_index, store)
            for store, progress in self.followers.items()
            if store in voters and store in able and not progress.recovering_until
            if wanted is None or store == wanted
        ]
        if not held or max(held)[0] < commit_index:
            return None
        return max(held)[1]

    # --- sending ----------------------------------------------------------------------------------------------------------

    def ask_everybody(self) -> None:
        """The next round goes to all, due or not."""
        for progress in self.followers.values():
            progress.sent_at = NEVER

    def round(self, commit_index: int, connected: Collection[int], sleep: bool, now: float) -> Outbound:
        """What is due now: new entries, a commit that nothing else has told of, heartbeats.

        May leave before our own sync: a follower that syncs first counts for itself, and what this leader then loses, it was never counted
        for."""
        notice = self._notice_at is not None and self._notice_at <= now
        batches: dict[tuple[int, int], Batch] = {}
        sent: Outbound = []
        all_current = True
        for follower, progress in self.followers.items():
            if follower in connected:
                self._send_to(follower, progress, commit_index, sleep, notice, now, batches, sent)
            else:
                progress.sent_at = now
            all_current = all_current and progress.commit_sent >= commit_index
        if notice or all_current:
            self._notice_at = None
        return sent

    def _send_to(
        self,
        follower: int,
        progress: Progress,
        commit_index: int,
        sleep: bool,
        notice: bool,
        now: float,
        batches: dict[tuple[int, int], Batch],
        sent: Outbound,
    ) -> None:
        """``batches`` are those made in this round, by first index and room: what goes to one follower mostly goes to the next."""
        journal = self._journal
        if progress.next_index < journal.first_index:
            if now - progress.sent_at >= self._timing.heartbeat_s:
                sent.append((follower, self._offer(progress, commit_index, now)))
            return
        ahead_bytes = 0
        is_built = follower in journal.members.current.learners
        due = now - progress.sent_at >= self._timing.heartbeat_s or (notice and progress.commit_sent < commit_index)
        while due or progress.next_index <= journal.last_index:
            room = progress.room_bytes
            if progress.next_index == self._damaged_index:
                room = 0  # others may have it, and lead: to them, as to any other, this leader is alive
            if room > 0 and progress.next_index <= journal.last_index and not self.may_send(follower, ahead_bytes):
                room = 0  # other groups send over the same link, and this one is told when it is its turn
            if is_built and not self.pace.may_send(now):
                room = 0  # it is asked again with the next heartbeat
            if room <= 0 and not due:
                return
            first, room = progress.next_index, min(BATCH_BYTES_MAX, room) if room > 0 else 0  # a heartbeat at least
            batch = batches.get((first, room))
            if batch is None:
                try:
                    entries = journal.read(first, journal.last_index, room) if room else []
                except LogDamaged as e:
                    self.damage, self._damaged_index = e, first
                    continue
                batch = batches[first, room] = Batch(entries)
            self.newest_request += 1
            append = pb.AppendEntries(
                request=self.newest_request,
                prev_log_index=first - 1,
                prev_log_term=journal.term_at(first - 1),
                commit_index=commit_index,
                recovered_at=progress.recovering_until,
                sleep=sleep,
                payloads=batch.payloads,
                runs=batch.runs,
            )
            progress.on_sent(self.newest_request, len(batch.payloads), batch.size, commit_index, sleep, now)
            sent.append((follower, pb.RaftMessage(append_entries=append)))
            ahead_bytes += batch.size
            if is_built:
                self.pace.took(batch.size, now)
            due = False

    def mended(self) -> None:
        """What was damaged may be readable again."""
        self.damage, self._damaged_index = None, 0

    def _offer(self, progress: Progress, commit_index: int, now: float) -> pb.RaftMessage:
        """In place of a heartbeat, as often, and answered like one: a transfer that takes long silences nobody (H16)."""
        snapshot = snapshot_for(self._journal)
        self.newest_request += 1
        progress.on_offered(snapshot.index, commit_index, now)
        info = to_pb(snapshot, self._observed_ms())
        offer = pb.SnapshotOffer(request=self.newest_request, snapshot=info, recovered_at=progress.recovering_until)
        return pb.RaftMessage(snapshot_offer=offer)

    def next_due(self) -> float:
        """When a round is due if nothing happens."""
        if not self.followers:
            return float("inf")
        due = min(p.sent_at for p in self.followers.values()) + self._timing.heartbeat_s
        return min(due, self._notice_at) if self._notice_at is not None else due

    # --- answers ----------------------------------------------------------------------------------------------------------

    def on_answer(self, follower: int, m: pb.AppendAnswer, term: int, now: float) -> None:
        """On the leader of ``term``.  An answer to a request of another term says what the follower held *then*; entries that
        it acknowledged to another leader may have been cut since, and a commit that counts them is lost with the next leader
        (H4).  MessageRefused: it answers what was not asked, or holds what this leader does not."""
        progress = self.followers.get(follower)
        if m.request_term != term or progress is None:
            return
        if m.request > self.newest_request or m.match_index > self._journal.last_index:
            raise MessageRefused(f"an answer to request {m.request} that holds entry {m.match_index}")
        if progress.on_answer(m, self.newest_request, self._journal, now):
            until = progress.recovering_until
            log.info("raft_peer_recovering", group=self._group_id, peer=follower, until_index=until)

    def committed(self, commit_index: int, term: int, now: float) -> int:
        """What a majority has synced, ourselves counted only up to our own sync: an entry counted here before it is on this
        disk, and lost with it, would be held by a minority (H7).

        Only an entry of the leader's own term is committed by counting; those before it are with it.  One of an earlier term
        may be on a majority and still be replaced by a leader that never saw it (Raft, section 5.4.2)."""
        followers, voters = self.followers, self._journal.members.current.voters
        synced = [followers[store].counted_index for store in voters if store != self._store_id]
        if self._store_id in voters:
            synced.append(self._journal.synced_index)
        index = quorum.committed(synced)
        if index <= commit_index or self._journal.term_at(index) != term:
            return commit_index
        if self._notice_at is None:
            self._notice_at = now + self._timing.notice_s
        return index

    def validate(self) -> None:
        members = self._journal.members.current
        if self.followers:
            assert self.followers.keys() == {*members.voters, *members.learners} - {self._store_id}
        for progress in self.followers.values():
            progress.validate(self.newest_request, self._journal.last_index)
