"""Wrong: a read that ZooKeeper did not answer counts as "no such name", and the write that follows is unconditional."""

from __future__ import annotations

from stele.services.coordination.names import Decision, NameHold, Seen, guard_path, name_path
from stele.services.coordination.records import NameRecord, encode
from stele.services.coordination.znode import CreateOp, DeleteOp, SetOp
from stele.services.errors import CoordinationUnknown, SteleError


class UnknownIsAbsent(NameHold):
    async def read(self) -> Seen:
        try:
            return await super().read()
        except CoordinationUnknown:
            return Seen(None, -1, 0)

    async def _carry_out(self, decision: Decision, seen: Seen, mine: NameRecord) -> None:
        guard = CreateOp(guard_path(self.name), b"", ephemeral=True)
        try:
            await self._session.commit(
                [SetOp(name_path(self.name), encode(mine)), DeleteOp(guard_path(self.name)), guard]
            )
        except SteleError:
            await super()._carry_out(decision, seen, mine)
