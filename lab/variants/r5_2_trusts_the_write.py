"""Wrong: a registration that was written is believed, without looking whose node it became."""

from __future__ import annotations

from stele.services.coordination.members import Membership
from stele.services.coordination.records import encode
from stele.services.errors import RecordExists


class TrustsTheWrite(Membership):
    async def settle(self) -> None:
        seen = await self.read()
        try:
            if not seen.present:
                await self.create_node()
            elif seen.owner != self._session.session_id:
                await super().settle()
        except RecordExists:
            await self._session.set(self.path, encode(self.mine()))

    async def create_node(self) -> None:
        await self._session.create(self.path, encode(self.mine()), ephemeral=True)
