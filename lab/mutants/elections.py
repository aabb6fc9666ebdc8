"""Voting, campaigning and sleeping in ways that make two leaders of one term, or none (H5, H14, H15, R4.5)."""

from __future__ import annotations

from typing import Any

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine
from stele.services.raft.state import RaftState
from stele.services.raft.ticker import Ticker


class CountsVotesTwice(Engine):
    """Votes are counted, not attributed."""

    _votes = (0, 0)  # term, votes in it

    def _on_vote_answer(self, voter: int, m: pb.VoteAnswer) -> None:
        if m.pre_vote or not m.granted:
            super()._on_vote_answer(voter, m)
        elif self.raft.state is RaftState.CANDIDATE and m.voted_term == self.term:
            term, votes = self._votes
            self._votes = (self.term, votes + 1 if term == self.term else 2)
            if self._votes[1] * 2 > len(self.members.voters):
                self._begin_leading()


class TurnsFirst(Ticker):
    """A group's turn comes straight out of its timer, before what waits is delivered."""

    def _deadline(self) -> None:
        super()._deadline()
        if self._woken:
            self._round()


class CampaignsByTheClock(Engine):
    """Whoever finds an election due campaigns, and does not ask first whether others see a leader."""

    def _election_due(self) -> None:
        if self._may_campaign() and self._majority_reachable():
            self._campaign()
        else:
            super()._election_due()


class OvertakesItsVotes(Engine):
    """A new election begins although votes of the last one are still on their way to the disk."""

    def _vote_on_its_way(self) -> bool:
        return False


class VotesWithoutItsLog(Engine):
    """A replica whose log was lost starts empty and votes and counts as if it had never promised anything."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.recovering = False


class DeafToSilence(Engine):
    """A follower that sleeps on although its leader's node has fallen silent."""

    def peer_silent(self, store_id: int) -> None:
        return None


class SaysNothingAtItsEnd(Engine):
    """A sleeping leader's replica ends, or is deposed, without a word to those who sleep under it."""

    def _say_awake(self) -> None:
        self.asleep = False
