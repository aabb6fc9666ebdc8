"""Wrong: a create whose answer was lost is taken for done, or for not done."""

from __future__ import annotations

from stele.services.coordination.members import Membership
from stele.services.coordination.records import encode
from stele.services.errors import CoordinationUnknown, NameTaken, RecordExists


class AssumesSuccess(Membership):
    async def settle(self) -> None:
        try:
            await self._session.create(self.path, encode(self.mine()), ephemeral=True)
        except CoordinationUnknown:
            return


class AssumesFailure(Membership):
    async def settle(self) -> None:
        while True:
            try:
                await self._session.create(self.path, encode(self.mine()), ephemeral=True)
                return
            except CoordinationUnknown:
                continue
            except RecordExists:
                raise NameTaken(f"{self.path} is another's", name=self.name) from None
