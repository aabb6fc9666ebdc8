"""Wrong on purpose (H15): a new election begins although votes of the last one are still on their way to the disk."""

from __future__ import annotations

from stele.services.raft.engine import Engine


class OvertakesItsVotes(Engine):
    def _vote_on_its_way(self) -> bool:
        return False
