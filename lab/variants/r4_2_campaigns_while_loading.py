"""Wrong on purpose (R4.2): a replica may lead as soon as it is loaded, behind a port that is closed until the last one is."""

from __future__ import annotations

from stele.datanode.gate import Gate


class CampaignsWhileLoading(Gate):
    async def open(self) -> None:
        self.may_lead()
        await super().open()
