"""Wrong on purpose (R4.5): a damaged partition keeps the node from starting, or is deleted."""

from __future__ import annotations

import asyncio
import shutil

from stele.datanode.store import Store
from stele.services.errors import LogDamaged


class StopsAtDamage(Store):
    async def _load_one(self, group: int) -> None:
        spec = await asyncio.to_thread(self.directory.read_group, group)
        assert spec is not None
        await self._open(spec)


class DeletesDamage(StopsAtDamage):
    async def _load_one(self, group: int) -> None:
        try:
            await super()._load_one(group)
        except LogDamaged:
            self.replicas.pop(group, None)
            await asyncio.to_thread(shutil.rmtree, self.directory.group_path(group))
