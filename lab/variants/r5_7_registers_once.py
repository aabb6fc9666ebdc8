"""Wrong: a registration is made at start and never looked at again."""

from __future__ import annotations

from stele.services.coordination.members import Membership


class RegistersOnce(Membership):
    async def register(self) -> None:
        await self.settle()


class ComesBackAfterLeaving(Membership):
    """Wrong: the deletion of the node at a graceful stop looks like any other."""

    async def unregister(self) -> None:
        await self._session.delete(self.path)
