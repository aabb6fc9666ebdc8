"""Appends whose answers say something else than what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from stele.datanode.commands import Appended, Refused
from stele.datanode.serial_appends import SerialAppends


class RefusesTheWholeAppend(SerialAppends):
    """The error of a later part is told of the whole append, whatever is stored of it by then."""

    async def _append_parts(
        self, owner_epoch: int, batches: Sequence[bytes], results: dict[int, Appended | Refused]
    ) -> None:
        parts: dict[int, Appended | Refused] = {}
        await super()._append_parts(owner_epoch, batches, parts)
        results |= parts
