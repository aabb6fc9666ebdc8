"""The damaged replicas of one store: had again from their peers, and named until they are.

Guarantee: damage that is found, by whomever (a reader, a peer that catches up, a replay at the start, the scrub), is mended from the other
replicas of its group (services/raft/mending.py), tried again with growing pauses for as long as it is there, and named in the replica's
report meanwhile.  However often it is found, one replica is mended at most once in ``PAUSE_S``, and ``AT_ONCE_MAX`` of a store at a time.

A replica without peers has nobody to be mended from: it is named, and serves what can be read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter

from stele.services.backoff import Backoff
from stele.services.errors import GroupStopped, LogDamaged, SteleError
from stele.services.raft.registry import Registry
from stele.services.tasks import Tasks

PAUSE_S = 1.0
AT_ONCE_MAX = 2
KNOWN_MAX = 64  # damaged entries of one replica; more are found again once these are mended
AGAIN = Backoff(first_s=1.0, max_s=60.0)

log = structlog.get_logger()


class DamageMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.found = Counter("stele_damage_found", "Entries of logs that were found damaged", registry=registry)
        self.mended = Counter(
            "stele_damage_mended", "Damaged entries that were had again from a peer", registry=registry
        )


class Mender:
    """``changed(group)`` is called when what :meth:`problem` says of a group is another."""

    def __init__(self, registry: Registry, changed: Callable[[int], None], rng: random.Random | None = None) -> None:
        self._registry = registry
        self._changed = changed
        self._rng = rng or random.Random()
        self._tasks = Tasks(self._failed)
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._damaged: dict[
            int, dict[int, str]
        ] = {}  # by group: entries that cannot be read, and what is known of each
        self._snapshots: dict[int, str] = {}  # by group: a damaged snapshot that is needed
        self.metrics = DamageMetrics(CollectorRegistry())  # the process puts in those that it shows

    @property
    def damaged(self) -> int:
        """How many replicas of this store have damage that is not mended."""
        return len(self._damaged)

    def problem(self, group: int) -> str:
        """One line while entries of that replica cannot be read; else empty."""
        known = self._damaged.get(group)
        if not known:
            return f"damaged: {self._snapshots[group]}" if group in self._snapshots else ""
        first = min(known)
        more = f", and {len(known) - 1} more" if len(known) > 1 else ""
        return f"damaged: {known[first]}{more}"

    def found(self, group: int, error: LogDamaged) -> None:
        """An entry of that replica's log does not check (fact ``index``)."""
        text = error.facts.get("index", "")
        if not text:
            self._snapshot_found(group, error)
        if not text.isdigit() or self._registry.get(group) is None:
            return
        index, known = int(text), self._damaged.setdefault(group, {})
        if index in known or len(known) >= KNOWN_MAX:
            return
        known[index] = error.message
        self.metrics.found.inc()
        log.error("log_damaged", group=group, index=index, problem=error.message)
        self._changed(group)
        if len(known) == 1:
            self._tasks.start(self._mend(group, known), f"mend-{group}")

    def _snapshot_found(self, group: int, error: LogDamaged) -> None:
        """One that a follower may need and nobody has in its place: named, until the scrub finds all of them whole again."""
        if self._snapshots.setdefault(group, error.message) is error.message:
            log.error("snapshot_needed_and_damaged", group=group, problem=error.message)
            self._changed(group)

    def snapshots_whole(self, group: int) -> None:
        """All snapshots of that replica were read whole."""
        if self._snapshots.pop(group, None) is not None:
            self._changed(group)

    async def _mend(self, group: int, known: dict[int, str]) -> None:
        failures = 0
        try:
            while known:
                running = self._registry.get(group)
                if running is None or running.state == "failed":
                    return
                if not await self._mend_all(group, known):
                    failures += 1
                    await asyncio.sleep(AGAIN.after(failures, self._rng))
                else:
                    failures = 0
                    await asyncio.sleep(PAUSE_S)
        finally:
            if self._damaged.get(group) is known:
                del self._damaged[group]
            self._changed(group)

    async def _mend_all(self, group: int, known: dict[int, str]) -> bool:
        """Whether all that was known is mended."""
        whole = True
        for index in sorted(known):
            running = self._registry.get(group)
            if running is None:
                return False
            try:
                async with self._turns:
                    await running.mend(index)
            except GroupStopped:
                return False
            except (SteleError, OSError) as e:
                whole = False
                if known[index] != str(e):
                    known[index] = str(e)
                    log.warning("log_not_mended", group=group, index=index, problem=str(e))
                    self._changed(group)
                continue
            del known[index]
            self.metrics.mended.inc()
            self._changed(group)
        return whole

    def _failed(self, name: str, error: BaseException) -> None:
        log.error("mending_failed", task=name, error=repr(error), exc_info=error)

    async def close(self) -> None:
        await self._tasks.cancel()
