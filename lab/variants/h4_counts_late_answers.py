"""Wrong on purpose (H4): an answer counts whatever term asked for it."""

from __future__ import annotations

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine


class CountsLateAnswers(Engine):
    def _on_append_answer(self, follower: int, m: pb.AppendAnswer) -> None:
        answer = pb.AppendAnswer()
        answer.CopyFrom(m)
        answer.request_term = self.term
        super()._on_append_answer(follower, answer)
