"""The ready gate: when a datanode takes clients and when its replicas may lead (F4 in docs/reference/failures.md).

Guarantee: the client port opens only when every replica is settled, that is loaded and caught up, without a leader
anywhere, failed or quarantined (R4.1, R4.3, R4.5), and no replica campaigns before the port is open (R4.2).  Until then
the node is registered as ``loading``, with its progress (R4.4, R4.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from stele.datanode.store import Store
from stele.services.ready import ReadyGate

SETTLED_CHECK_S = 0.02
SETTLED_LOG_S = 10.0

log = structlog.get_logger()

Report = Callable[[str, int, int], Awaitable[None]]


class Gate:
    """``await gate.open()`` once.  ``open_port`` opens the client port; ``report(state, loaded, total)`` tells the
    cluster."""

    def __init__(
        self, store: Store, ready: ReadyGate, parallelism: int, open_port: Callable[[], Awaitable[None]], report: Report
    ) -> None:
        self.store = store
        self._ready = ready
        self._parallelism = parallelism
        self._open_port = open_port
        self._report = report
        for condition in ("loaded", "settled", "port", "announced"):
            ready.add(condition)

    async def open(self) -> None:
        """The order is the guarantee."""
        await self.load()
        await self.settle()
        await self.open_port()  # BEFORE the replicas may lead: whoever leads can be reached (R4.2)
        self.may_lead()
        await self.ready()

    async def load(self) -> None:
        await self.store.load(self._parallelism, self._show_loaded)
        self._ready.set("loaded", True, self._progress(self.store.loaded))

    async def settle(self) -> None:
        """Until no replica holds the gate."""
        loop = asyncio.get_running_loop()
        log_at = loop.time() + SETTLED_LOG_S
        while (settled := self.settled()) < len(self.store.replicas):
            self._ready.set("settled", False, f"{settled}/{len(self.store.replicas)}")
            if loop.time() >= log_at:
                log_at = loop.time() + SETTLED_LOG_S
                log.info("groups_settling", settled=settled, total=len(self.store.replicas), waiting=self._unsettled())
            await asyncio.sleep(SETTLED_CHECK_S)
        self._ready.set("settled", True, f"{settled}/{len(self.store.replicas)}")

    def settled(self) -> int:
        return self.store.settled()

    async def open_port(self) -> None:
        await self._open_port()
        self._ready.set("port", True)

    def may_lead(self) -> None:
        self.store.registry.may_lead = True

    async def ready(self) -> None:
        self.store.enter("ready")
        await self._report("ready", self.store.loaded, self.store.total)
        self._ready.set("announced", True)

    def _show_loaded(self) -> None:
        self._ready.set("loaded", False, self._progress(self.store.loaded))

    def _progress(self, loaded: int) -> str:
        aside = f", {len(self.store.quarantined)} quarantined" if self.store.quarantined else ""
        return f"{loaded}/{self.store.total}{aside}"

    def _unsettled(self) -> list[int]:
        return [
            g for g, r in self.store.replicas.items() if r.state != "failed" and not self.store.registry.settled(g)
        ][:10]
