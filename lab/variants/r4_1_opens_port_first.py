"""Wrong on purpose (R4.1): the client port opens first, so that clients reach partitions that are not loaded."""

from __future__ import annotations

from stele.datanode.gate import Gate


class OpensPortFirst(Gate):
    async def open(self) -> None:
        await self.open_port()
        await self.load()
        await self.settle()
        self.may_lead()
        await self.ready()
