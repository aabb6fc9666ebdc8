"""Appends whose answers say something else than what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from stele.datanode.commands import Appended, Refused
from stele.datanode.foresight import Foreseen, Foresight
from stele.datanode.serial_appends import SerialAppends
from stele.services.batch import BatchHeader


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
