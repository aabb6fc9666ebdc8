"""Wrong on purpose (H15): a new leader takes the commit index it happens to know for all that was acknowledged."""

from __future__ import annotations

from stele.services.raft.engine import Engine
from stele.services.raft.membership import is_majority


class ReadsBeforeItsOwnEntry(Engine):
    def _confirm_round(self) -> None:
        after = self._round_after
        if after is None:
            return
        answered = {m for m, peer in self._peers.items() if peer.answered > after}
        if is_majority({self.store_id, *answered}, self.members):
            self._confirmed += [(self.commit_index, done) for done in self._in_round]
            self._in_round, self._round_after = [], None
