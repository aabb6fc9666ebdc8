"""Wrong: work is done inside ZooKeeper's callback thread; nothing bounds how often a registration is put back."""

from __future__ import annotations

from typing import Any

from stele.services.coordination.claim import WritePace
from stele.services.coordination.members import Membership
from stele.services.coordination.session import Session

BLOCKED_S = 3.0


class WorksInCallbacks(Session):
    def _on_kazoo_state(self, state: str) -> None:
        if state == "CONNECTED" and self.cluster_id:
            try:
                # The answer would be read by the very thread that waits here.
                self._client.get_async(self.full("cluster")).get(timeout=BLOCKED_S)
            except Exception:
                pass
        super()._on_kazoo_state(state)


class Unpaced(WritePace):
    async def keep(self) -> None:
        return


class StormsBack(Membership):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = self._keeper._pace = Unpaced()
