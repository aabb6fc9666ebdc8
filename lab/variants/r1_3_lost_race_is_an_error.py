"""Wrong: losing the race to create the name is taken for the name being another's."""

from __future__ import annotations

from stele.services.coordination.names import Decision, NameHold, Seen
from stele.services.coordination.records import NameRecord
from stele.services.errors import NameTaken, RecordExists


class LostRaceIsAnError(NameHold):
    async def _carry_out(self, decision: Decision, seen: Seen, mine: NameRecord) -> None:
        try:
            await self._session.commit(self.writes(decision, seen, mine))
        except RecordExists:
            raise NameTaken(f"somebody else created {self.name}", name=self.name) from None
