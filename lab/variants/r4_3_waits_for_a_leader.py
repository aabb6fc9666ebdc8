"""Wrong on purpose (R4.3): a replica settles only under a leader, of which there is none when a whole cluster starts cold."""

from __future__ import annotations

from stele.datanode.gate import Gate


class WaitsForALeader(Gate):
    def settled(self) -> int:
        return sum(g.leader_store_id != 0 and g.settled for g in self.store.registry.groups())
