"""Wrong on purpose (R3.7): nobody notices that a group's directory has vanished."""

from __future__ import annotations

import asyncio

from stele.services.raft.registry import Registry


class NeverLooks(Registry):
    async def _watch_directories(self) -> None:
        await asyncio.Event().wait()
