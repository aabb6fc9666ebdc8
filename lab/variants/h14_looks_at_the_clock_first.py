"""Wrong on purpose (H14): a group's turn comes straight out of its timer, before what waits is delivered, and what it does about an
election that is due is to campaign, not to ask first: any stall elects."""

from __future__ import annotations

from stele.services.raft.engine import Engine
from stele.services.raft.ticker import Ticker


class TurnsFirst(Ticker):
    def _deadline(self) -> None:
        super()._deadline()
        if self._woken:
            self._round()


class CampaignsByTheClock(Engine):
    def _election_due(self) -> None:
        if self._may_campaign() and self._majority_reachable():
            self._campaign()
        else:
            super()._election_due()
