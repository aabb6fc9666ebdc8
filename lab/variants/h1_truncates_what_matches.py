"""Wrong on purpose (H1): what follows the entry before a message is cut off although it matches, and success answers move back what is
sent next."""

from __future__ import annotations

from pysyncobj.node import Node

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine


class TruncatesWhatMatches(Engine):
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
            self._SyncObj__raftNextIndex[Node(follower)] = m.match_index + 1
