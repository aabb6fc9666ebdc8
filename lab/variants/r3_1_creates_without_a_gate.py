"""Wrong on purpose (R3.1, R3.3): the lookup and the registration of a group are not one step, and deleting does not join them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stele.services.raft.registry import Registry


class Ungated(Registry):
    @asynccontextmanager
    async def _gate(self, group_id: int) -> AsyncIterator[None]:
        yield
