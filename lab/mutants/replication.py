"""Replicating, committing and reading in ways that lose what was acknowledged (H1 to H4, H6, H7, H9, H15, R3.8)."""

from __future__ import annotations

from typing import Any

from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.engine import Done, Engine
from stele.services.raft.journal import Journal
from stele.services.raft.membership import MemberHistory
from stele.services.raft.outbox import Outbox, Outgoing
from stele.services.raft.quorum import is_majority
from stele.services.raft.reads import ReadDone
from stele.services.raft.storage import MEMBERSHIP, Members, Snapshot


class TruncatesWhatMatches(Engine):
    """What follows the entry before a message is cut off although it matches, and success answers move back what is
    sent next."""

    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        journal = self.journal
        matches = (
            journal.first_index - 1 <= m.prev_log_index <= journal.last_index
            and journal.term_at(m.prev_log_index) == m.prev_log_term
        )
        keep = max(m.prev_log_index, self.commit_index)
        if m.payloads and term >= self.term and not self.is_leader and matches and keep < journal.last_index:
            journal.truncate_from(keep + 1)
        super()._on_append_entries(leader, term, m)

    def _on_append_answer(self, follower: int, m: pb.AppendAnswer) -> None:
        super()._on_append_answer(follower, m)
        if m.success and m.match_index and follower in self._peers and m.request_term == self.term:
            self._peers[follower].next_index = m.match_index + 1


class TrustsTheCommitIndex(Engine):
    """The leader's commit index counts up to the end of the log, whatever its message verified of it."""

    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        super()._on_append_entries(leader, term, m)
        if term == self.term and not self.is_leader:
            self._contact(leader, min(m.commit_index, self.journal.last_index))

    def _on_snapshot_offer(self, leader: int, term: int, m: pb.SnapshotOffer) -> None:
        super()._on_snapshot_offer(leader, term, m)
        if term == self.term and not self.is_leader:
            self._contact(leader, min(m.snapshot.index, self.journal.last_index))


class InstallsWhatIsOld(Engine):
    """A snapshot is installed whatever was applied since it was taken."""

    def install(self, snapshot: Snapshot, state: bytes) -> bool:
        self.machine.restore(state)
        self.journal.install(snapshot)
        self._applied = snapshot.index
        self.commit_index = snapshot.index
        return True


class CountsLateAnswers(Engine):
    """An answer counts whatever term asked for it."""

    def _on_append_answer(self, follower: int, m: pb.AppendAnswer) -> None:
        answer = pb.AppendAnswer()
        answer.CopyFrom(m)
        answer.request_term = self.term
        super()._on_append_answer(follower, answer)


class ChangesTwoAtOnce(Engine):
    """A membership change does not wait for the one before it, nor for the leader's first own entry."""

    def change_members(self, members: Members, done: Done) -> None:
        self._check_leads()
        membership.check_change(self.members, members)
        self._append(MEMBERSHIP, membership.encode(members), done)
        self._members_may_have_changed()


class ForgetsTheLog(Journal):
    """A restart takes the members that the group began with, whatever its log and snapshot say."""

    def __init__(self, log: Any, terms: Any, snapshots: Any, first_members: Any, **options: Any) -> None:
        super().__init__(log, terms, snapshots, first_members, **options)
        self.members = MemberHistory(0, first_members, [])


class CountsItself(Engine):
    """The leader counts its own entries towards a majority before it has synced them."""

    def _advance_commit(self) -> None:
        journal = self.journal
        synced, journal.synced_index = journal.synced_index, journal.last_index
        try:
            super()._advance_commit()
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


class ReadsWithoutARound(Engine):
    """A leader answers reads from what it has applied, without asking whether it still leads."""

    def read_index(self, done: ReadDone) -> None:
        self._check_leads()
        done(self.applied_index, None)


class ReadsBeforeItsOwnEntry(Engine):
    """A new leader takes the commit index it happens to know for all that was acknowledged."""

    def _confirm_round(self) -> None:
        after = self._round_after
        if after is None:
            return
        answered = {m for m, peer in self._peers.items() if peer.answered > after}
        if is_majority({self.store_id, *answered}, self.members.voters):
            self._confirmed += [(self.commit_index, done) for done in self._in_round]
            self._in_round, self._round_after = [], None
