"""Proposing, replicating, committing and reading in ways that lose what was acknowledged, or leave somebody waiting (H1 to H4, H6, H7,
H9, H12, H13, H15, H16, H18, R3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stele.services.errors import SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine
from stele.services.raft.entries import Batch
from stele.services.raft.follower import Conflict, Follower, Match
from stele.services.raft.journal import Journal
from stele.services.raft.membership import MemberHistory
from stele.services.raft.outbox import Outbox, Outgoing
from stele.services.raft.progress import Progress
from stele.services.raft.proposals import Done, Proposals, isolated
from stele.services.raft.read_index import ReadDone, ReadIndex
from stele.services.raft.replication import Outbound, Replication
from stele.services.raft.snapshot_offer import Offer, SnapshotOffer
from stele.services.raft.storage import Entry, Snapshot


class TruncatesWhatMatches(Follower):
    """What follows the entry before a message is cut off although it matches."""

    def match(self, m: pb.AppendEntries, entries: Sequence[Entry], commit_index: int) -> Conflict | Match:
        journal = self._journal
        matches = (
            journal.first_index - 1 <= m.prev_log_index <= journal.last_index
            and journal.term_at(m.prev_log_index) == m.prev_log_term
        )
        keep = max(m.prev_log_index, commit_index)
        if entries and matches and keep < journal.last_index:
            journal.truncate_from(keep + 1)
        return super().match(m, entries, commit_index)


class MovesBack(Progress):
    """A success answer moves back what is sent next, whatever has been sent since."""

    def on_answer(self, m: pb.AppendAnswer, newest_request: int, journal: Journal, now: float) -> bool:
        lost = super().on_answer(m, newest_request, journal, now)
        if m.success and m.match_index:
            self.next_index = m.match_index + 1
        return lost


class TrustsTheCommitIndex(Follower):
    """The leader's commit index counts up to the end of the log, whatever its message verified of it."""

    def match(self, m: pb.AppendEntries, entries: Sequence[Entry], commit_index: int) -> Conflict | Match:
        match = super().match(m, entries, commit_index)
        if isinstance(match, Conflict):
            return match
        last = match.new[-1].index if match.new else self._journal.last_index
        return replace(match, commit_index=min(m.commit_index, last))


class TrustsTheOffer(SnapshotOffer):
    """What a snapshot stands for counts as committed here, whatever this log holds in its place."""

    def verified_commit(self, snapshot: Snapshot) -> int:
        return min(snapshot.index, self._journal.last_index)


class InstallsWhatIsOld(SnapshotOffer):
    """A snapshot is taken and installed whatever was applied since it was made."""

    def on_offer(self, leader: int, snapshot: Snapshot, commit_index: int) -> bool:
        self.current = Offer(leader, snapshot)
        return True

    def is_of_use(self, snapshot: Snapshot, commit_index: int) -> bool:
        return True


class CountsLateAnswers(Replication):
    """An answer counts whatever term asked for it."""

    def on_answer(self, follower: int, m: pb.AppendAnswer, term: int, now: float) -> None:
        answer = pb.AppendAnswer()
        answer.CopyFrom(m)
        answer.request_term = term
        super().on_answer(follower, answer, term, now)


def changes_two_at_once(*leader: object, **followers: object) -> None:
    """A membership change does not wait for the one before it, nor for the leader's first own entry."""


class ForgetsTheLog(Journal):
    """A restart takes the members that the group began with, whatever its log and snapshot say."""

    def __init__(self, log: Any, terms: Any, snapshots: Any, first_members: Any, **options: Any) -> None:
        super().__init__(log, terms, snapshots, first_members, **options)
        self.members = MemberHistory(0, first_members, [])


class CountsItself(Replication):
    """The leader counts its own entries towards a majority before it has synced them."""

    def committed(self, commit_index: int, term: int, now: float) -> int:
        journal = self._journal
        synced, journal.synced_index = journal.synced_index, journal.last_index
        try:
            return super().committed(commit_index, term, now)
        finally:
            journal.synced_index = synced


class PromisesFirst(Outbox):
    """Votes and acknowledgements leave before what they stand for is on the disk."""

    def take_ready(self) -> list[Outgoing]:
        ready, self._waiting = self._waiting, []
        return ready


COMMIT_NAME = "commit"


class BelievesItsCommitIndex(Journal):
    """The commit index is kept on disk and believed after a restart, whatever the log holds."""

    def __init__(self, log: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(log, *arguments, **options)
        self._commit_path = log._directory / COMMIT_NAME
        self._commit_file: Any = None
        try:
            self._commit_file = log._fs.open(self._commit_path)
        except FileNotFoundError:
            self._commit_file = log._fs.create(self._commit_path)
            log._fs.fsync_dir(log._directory)

    def keep_commit_index(self, index: int) -> None:
        self._commit_file.pwrite([b"%020d" % index], 0)
        self._commit_file.fdatasync()

    @property
    def committed_at_start(self) -> int:
        stored = self._commit_file.pread(20, 0)
        return max(int(stored) if len(stored) == 20 else 1, super().committed_at_start)


class KeepsItsCommitIndex(Engine):
    """Every commit index is written down: what a journal that believes it reads."""

    def tick(self) -> None:
        super().tick()
        assert isinstance(self.journal, BelievesItsCommitIndex)
        self.journal.keep_commit_index(self.commit_index)


class LeavesProposalsUnanswered(Proposals):
    """What a leader was asked to append is forgotten when it leads no more."""

    def end(self, error: SteleError) -> None:
        self._pending, self._bytes = {}, 0


class CallsTheUnknownDefinite(Proposals):
    """What a replica was asked ends with what ended the replica, although others may store it."""

    def end(self, error: SteleError) -> None:
        pending, self._pending, self._bytes = self._pending, {}, 0
        for proposal in pending.values():
            isolated(self._group_id, proposal.done, None, error)


class TakesAllThatIsProposed(Proposals):
    """A group takes as many proposals as come, however many it has in flight."""

    def check_room(self) -> None:
        """There always is."""


class TakesAnyLength(Engine):
    """A leader appends whatever it is asked to, however long."""

    def propose(self, payload: bytes, done: Done) -> None:
        self.entry_bytes_max = max(self.entry_bytes_max, len(payload))
        super().propose(payload, done)


class GoesBackByOne(Follower):
    """A refusal names the entry before the message, not the term that it is of."""

    def match(self, m: pb.AppendEntries, entries: Sequence[Entry], commit_index: int) -> Conflict | Match:
        match = super().match(m, entries, commit_index)
        return Conflict(m.prev_log_index, 0) if isinstance(match, Conflict) and match.term else match


class FallsSilentOnceItOffers(Replication):
    """A follower that was offered a snapshot hears nothing more until it has it."""

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
        if progress.next_index < self._journal.first_index and progress.offered_index:
            progress.sent_at = now
            return
        super()._send_to(follower, progress, commit_index, sleep, notice, now, batches, sent)


class ReadsWithoutARound(ReadIndex):
    """A leader answers reads from what it has applied, without asking whether it still leads."""

    def add(self, done: ReadDone) -> None:
        self._confirmed.append((0, done))


class ReadsBeforeItsOwnEntry(ReadIndex):
    """A new leader takes the commit index it happens to know for all that was acknowledged."""

    def _may_confirm(self, committed_in_term: bool) -> bool:
        return True


class KeepsToWhatWasAcknowledged(Progress):
    """A leader never asks a follower for less than it once acknowledged, whatever it says."""

    def _lacks_acknowledged(self, m: pb.AppendAnswer) -> bool:
        return False


class CountsWhatWasLost(Progress):
    """What a follower acknowledged before it lost it still counts towards a majority."""

    _acknowledged = 0

    def on_answer(self, m: pb.AppendAnswer, newest_request: int, journal: Journal, now: float) -> bool:
        self._acknowledged = max(self._acknowledged, self.match_index)
        return super().on_answer(m, newest_request, journal, now)

    @property
    def counted_index(self) -> int:
        return max(self._acknowledged, super().counted_index)


class ReleasesWhatIsNotStored(Progress):
    """An answer makes room for more, whether the follower has stored what it answers or not."""

    def _release(self, m: pb.AppendAnswer) -> None:
        while self.inflight and self.inflight[0][0] <= m.request:
            self.inflight_bytes -= self.inflight.popleft()[2]
        super()._release(m)


class BelievesLateRefusals(Progress):
    """A refusal that was given before an acknowledgement, and arrives after it, takes it back."""

    def _lacks_acknowledged(self, m: pb.AppendAnswer) -> bool:
        return not m.success and 0 < m.conflict_index <= self.match_index


class WaitsForEverForAFetch(Replication):
    """What a living follower was offered stays, whether it takes it in or not."""

    def offered_index(self, now: float) -> int | None:
        return min((p.offered_index for p in self.followers.values() if p.offered_index), default=None)


class TakesWhateverComes(Engine):
    """A replica takes the term of whatever it is sent for its own, however far it lies ahead."""

    def receive(self, sender: int, message: pb.RaftMessage) -> None:
        if not self.failed and message.term > self.term:
            self._step_down(message.term)
        super().receive(sender, message)
