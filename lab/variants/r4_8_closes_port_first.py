"""Wrong on purpose (R4.8): the port closes while the node is still registered and still leads."""

from __future__ import annotations

from stele.datanode.role import Datanode


class ClosesPortFirst(Datanode):
    async def drain(self) -> None:
        self.store.enter("draining")
        await self.close_port()
        await self.leave()
        await self.hand_over()
