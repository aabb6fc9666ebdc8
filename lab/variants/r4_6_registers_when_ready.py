"""Wrong on purpose (R4.6): the node registers once it is ready, so that a node which loads looks dead."""

from __future__ import annotations

from stele.datanode.role import Datanode
from stele.services.coordination.session import Session


class RegistersWhenReady(Datanode):
    async def _register(self, session: Session, raft_endpoint: str) -> None:
        async def later() -> None:
            await self._runtime.ready.wait("port")
            await super(RegistersWhenReady, self)._register(session, raft_endpoint)
            await self._report("ready", self.store.loaded, self.store.total)

        self._tasks.start(later(), "register")
