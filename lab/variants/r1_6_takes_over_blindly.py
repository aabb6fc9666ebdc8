"""Wrong: a dead owner's name is taken over with a set that carries no version."""

from __future__ import annotations

from stele.services.coordination.names import Decision, NameHold, Seen, name_path
from stele.services.coordination.records import NameRecord, encode
from stele.services.errors import NameTaken


class TakesOverBlindly(NameHold):
    async def settle(self) -> None:
        seen = await self.read()
        if seen.guard_session:
            raise NameTaken(f"{self.name} is held", name=self.name)
        await self._carry_out(Decision.TAKE_OVER, seen, self.mine())

    async def _carry_out(self, decision: Decision, seen: Seen, mine: NameRecord) -> None:
        await self._session.set(name_path(self.name), encode(mine))


class NeverTakesOver(NameHold):
    """Wrong: another's record is another's for ever, so a node can never move."""

    async def settle(self) -> None:
        seen = await self.read()
        if seen.record is not None and seen.record.endpoint != self.endpoint:
            raise NameTaken(f"{self.name} is held", name=self.name)
        await super().settle()
