"""Wrong: the name is in use (by this very process, whose candidacy is older than its name), and a record that cannot be found is taken
for one that differs."""

from __future__ import annotations

from stele.services.coordination.names import NameHold, name_path
from stele.services.errors import NameTaken


class AbsentIsDifferent(NameHold):
    async def settle(self) -> None:
        candidates = await self._session.children("election") or []
        in_use = [node.value.decode() for c in candidates if (node := await self._session.get(f"election/{c}"))]
        if self.name in in_use and await self._session.get(name_path(self.name)) is None:
            raise NameTaken(f"server name {self.name} duplicate", name=self.name)
        await super().settle()
