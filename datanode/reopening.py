"""Failed replicas are tried again while the process runs.

Guarantee: a replica that a lack of descriptors, of memory or a disk in passing trouble has ended runs again soon after that is over,
without a restart and without anybody asking; one that goes on failing is tried ever more rarely, and stays listed as failed.

As safe as a restart: what a failed sync covered is cut off, and what is found is synced before it counts (datanode/log/log.py).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog

from stele.datanode.store import Store
from stele.services.backoff import Backoff

CHECK_S = 0.5
BACKOFF = Backoff(first_s=1.0, max_s=60.0)
STABLE_S = 120.0  # after it was opened: a failure from then on is a new one
AT_ONCE_MAX = 4

log = structlog.get_logger()


@dataclass(slots=True)
class _Attempts:
    failures: int
    due_at: float


class Reopening:
    """``await Reopening(store, rng).run()`` for as long as the store is to be looked after."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self._store, self._rng = store, rng
        self._attempts: dict[int, _Attempts] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for group in self._due(asyncio.get_running_loop().time())[:AT_ONCE_MAX]:
                await self._reopen(group)

    def _due(self, now: float) -> list[int]:
        failed = self._store.failed()
        for group in failed:
            if group not in self._attempts:
                self._attempts[group] = _Attempts(1, now + BACKOFF.after(1, self._rng))
        for group in self._attempts.keys() - set(failed):
            if now > self._attempts[group].due_at + STABLE_S:
                del self._attempts[group]
        return [group for group in failed if self._attempts[group].due_at <= now]

    async def _reopen(self, group: int) -> None:
        await self._store.reopen(group)
        attempts = self._attempts[group]
        attempts.failures += 1
        attempts.due_at = asyncio.get_running_loop().time() + BACKOFF.after(attempts.failures, self._rng)
        if group not in self._store.failed():
            log.info("replica_reopened", group=group, attempts=attempts.failures - 1)
