"""Wrong on purpose (R3.2): what is stopped is taken out of the map by its name, whoever holds that name by then."""

from __future__ import annotations

import asyncio

from stele.lab.variants.r3_1_creates_without_a_gate import Ungated


class UnregistersByName(Ungated):
    async def _stop(self, group_id: int) -> bool:
        group = self._groups.get(group_id)
        if group is None:
            return False
        storage = self._storage.pop(group_id)
        del self._groups[group_id]
        await group.stop()
        await asyncio.to_thread(storage.close)
        await asyncio.sleep(1.0)
        self._groups.pop(group_id, None)
        return True
