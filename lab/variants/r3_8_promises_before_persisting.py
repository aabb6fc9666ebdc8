"""Wrong on purpose (R3.8, H7): votes and acknowledgements leave before what they stand for is on the disk."""

from __future__ import annotations

from stele.services.raft.engine import Engine
from stele.services.raft.library import Outgoing


class PromisesFirst(Engine):
    def take_ready(self) -> list[Outgoing]:
        ready, self._outbox = self._outbox, []
        return ready
