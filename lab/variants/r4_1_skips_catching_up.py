"""Wrong on purpose (R4.1): a replica counts as settled once it is loaded, however far behind it is."""

from __future__ import annotations

from stele.datanode.gate import Gate


class SkipsCatchingUp(Gate):
    def settled(self) -> int:
        return len(self.store.replicas)
