"""Wrong on purpose (R3.4): the directory is removed under the running group, which is stopped afterwards and only if it is asked."""

from __future__ import annotations

import asyncio
import shutil

from stele.services.raft.registry import Registry


class RemovesFirst(Registry):
    async def delete(self, group_id: int) -> bool:
        async with self._gate(group_id):
            known = self._groups.pop(group_id, None) is not None
            await asyncio.to_thread(shutil.rmtree, self.path(group_id), True)
            return known
