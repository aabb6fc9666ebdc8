"""Wrong on purpose (H2): the leader's commit index counts up to the end of the log, whatever its message verified of it."""

from __future__ import annotations

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine


class TrustsTheCommitIndex(Engine):
    def _on_append_entries(self, leader: int, term: int, m: pb.AppendEntries) -> None:
        super()._on_append_entries(leader, term, m)
        if term == self.term and not self.is_leader:
            self._contact(leader, term, m.commit_index)

    def _on_snapshot_offer(self, leader: int, term: int, m: pb.SnapshotOffer) -> None:
        super()._on_snapshot_offer(leader, term, m)
        if term == self.term and not self.is_leader:
            self._contact(leader, term, m.snapshot.index)
