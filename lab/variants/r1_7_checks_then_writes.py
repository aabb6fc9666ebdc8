"""Wrong: the name is looked up, and then written in a step of its own."""

from __future__ import annotations

from stele.services.coordination.names import NameHold, name_path
from stele.services.coordination.records import encode
from stele.services.errors import NameTaken, RecordExists


class ChecksThenWrites(NameHold):
    async def settle(self) -> None:
        seen = await self.read()
        if seen.record is not None and seen.record.endpoint != self.endpoint:
            raise NameTaken(f"{self.name} is held", name=self.name)
        try:
            await self._session.create(name_path(self.name), encode(self.mine()))
        except RecordExists:
            await self._session.set(name_path(self.name), encode(self.mine()))
