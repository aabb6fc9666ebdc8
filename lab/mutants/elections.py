"""Voting, campaigning and sleeping in ways that make two leaders of one term, or none (H5, H14, H15, R4.5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.election import ElectionStep, RaftElection
from stele.services.raft.handover import Handover
from stele.services.raft.progress import Progress
from stele.services.raft.quiescence import Quiescence
from stele.services.raft.recovery import Recovery
from stele.services.raft.state import RaftState
from stele.services.raft.ticker import Ticker


class CountsVotesTwice(RaftElection):
    """Votes are counted, not attributed."""

    _count = 0

    def campaign(self, now: float, transfer: bool = False) -> ElectionStep:
        self._count = 1
        return super().campaign(now, transfer)

    def on_vote(self, voter: int, m: pb.VoteAnswer, recovering: bool) -> ElectionStep:
        if m.pre_vote or not m.granted:
            return super().on_vote(voter, m, recovering)
        if self._core.state is not RaftState.CANDIDATE or m.voted_term != self._core.term:
            return ElectionStep.WAIT
        self._count += 1
        return ElectionStep.LEAD if self._count * 2 > len(self._voters) else ElectionStep.WAIT


class TurnsFirst(Ticker):
    """A group's turn comes straight out of its timer, before what waits is delivered."""

    def _deadline(self) -> None:
        super()._deadline()
        if self._woken:
            self._round()


class CampaignsByTheClock(RaftElection):
    """Whoever finds an election due campaigns, and does not ask first whether others see a leader."""

    def on_deadline(self, now: float, connected: Collection[int], recovering: bool) -> ElectionStep:
        step = super().on_deadline(now, connected, recovering)
        reachable = self.may_campaign(recovering) and self._majority_reachable(connected)
        return ElectionStep.CAMPAIGN if reachable else step


class TakesOnWhileItHandsOver(Handover):
    """What is proposed while leadership is handed over is taken, and sent to others than the successor too."""

    def check_takes(self) -> None:
        return


class AsksBeforeItHoldsAll(Handover):
    """The successor is asked at once, whatever is still on its way to it."""

    def is_due(self, now: float, match_index: int, commit_index: int) -> bool:
        last = self._journal.last_index
        return super().is_due(now, last, last)


class WinsBehindTheGate(RaftElection):
    """Votes are taken that were asked for while the gate was open, although it has closed since."""

    def on_vote(self, voter: int, m: pb.VoteAnswer, recovering: bool) -> ElectionStep:
        may_lead, self._may_lead = self._may_lead, lambda: True
        try:
            return super().on_vote(voter, m, recovering)
        finally:
            self._may_lead = may_lead


class OvertakesItsVotes(RaftElection):
    """A new election begins although votes of the last one are still on their way to the disk."""

    def _vote_in_flight(self) -> bool:
        return False


class VotesWithoutItsLog(Recovery):
    """A replica whose log was lost starts empty and votes and counts as if it had never promised anything."""

    def __init__(self, recovering: bool) -> None:
        super().__init__(recovering=False)


class DeafToSilence(Quiescence):
    """A follower that sleeps on although its leader's node has fallen silent."""

    def on_silence(self, store_id: int, leader: int, leads: bool) -> bool:
        return False


class EndsWithoutAwake(Quiescence):
    """A sleeping leader's replica ends, or is deposed, without a word to those who sleep under it."""

    def end(self, followers: Mapping[int, Progress]) -> list[int]:
        self.asleep = False
        return []


class RecoversAtAWord(Recovery):
    """A replica that lost entries counts itself whole as soon as its leader has spoken to it."""

    def on_verified(self, term: int, until_index: int, held_index: int) -> None:
        super().on_verified(term, until_index, held_index)
        self.holds_again = self.recovering

    def on_told(self, term: int, until_index: int) -> None:
        super().on_told(term, until_index)
        self.holds_again = self.recovering


class DoesNotListen(Recovery):
    """A replica that its leader tells that it lost entries goes on voting."""

    def on_told(self, term: int, until_index: int) -> None:
        """Nothing."""
