"""Wrong on purpose (H5): votes are counted, not attributed."""

from __future__ import annotations

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine


class CountsVotesTwice(Engine):
    def _on_vote_answer(self, voter: int, m: pb.VoteAnswer) -> None:
        super()._on_vote_answer(voter, m)
        self._voters.discard(voter)
