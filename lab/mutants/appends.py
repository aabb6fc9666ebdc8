"""Appends whose answers say something else than what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stele.datanode.commands import Appended, Refused
from stele.datanode.foresight import Foreseen, Foresight
from stele.datanode.replica import Replica
from stele.datanode.serial_appends import SerialAppends
from stele.services.batch import BatchHeader
from stele.services.raft.group import Group


class RefusesTheWholeAppend(SerialAppends):
    """The error of a later part is told of the whole append, whatever is stored of it by then."""

    async def _append_parts(
        self, owner_epoch: int, batches: Sequence[bytes], results: dict[int, Appended | Refused]
    ) -> None:
        parts: dict[int, Appended | Refused] = {}
        await super()._append_parts(owner_epoch, batches, parts)
        results |= parts


class ForeseesFromWhatItDidNotAsk(Foresight):
    """Whatever is on its way is taken for what will be stored, also what was proposed before its state was current."""

    def proposed(self, headers: Sequence[BatchHeader], foreseen: Foreseen | None) -> None:
        if foreseen is None:
            foreseen = Foreseen(next={h.producer_id: h.last_sequence + 1 for h in headers if h.producer_id})
        super().proposed(headers, foreseen)


class BelievesThatItLeads(SerialAppends):
    """Whoever has led leads, as long as nobody says otherwise."""

    async def _leads_still(self) -> None:
        self._current()


class BelievesThatItLeadsStill(Replica):
    """Whoever has led leads, as long as nobody says otherwise."""

    def leads_still(self, group: Group) -> asyncio.Future[int]:
        believed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        believed.set_result(0)
        return believed
