"""Reads what nobody reads, so that bytes that have changed on a disk are found while other replicas still have them.

Guarantee: every entry that is stored and synced, and every snapshot, is checked once in each round; at most ``bytes_per_s`` are read,
of one replica at a time, on a thread.  A round begins ``interval_s`` after the last one began, or when that one ends.  What is found is
the mender's business; trouble with one replica holds up no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from stele.datanode.replica import Replica
from stele.services.errors import LogDamaged, SteleError
from stele.services.raft.group import Group

FIRST_AFTER_S_MAX = 600.0  # after the start: a process that is restarted every day checks what it holds, too
CHUNK_BYTES_MAX = 256 << 10
OVERHEAD_BYTES = 64  # of an entry, beside its payload

log = structlog.get_logger()


class Scrub:
    """``found(group, error)`` is told of damage; ``read(bytes)`` of what was checked; ``whole(group)`` when no snapshot is damaged.
    ``bytes_per_s`` is above 0."""

    def __init__(
        self,
        replicas: Mapping[int, Replica],
        bytes_per_s: int,
        interval_s: float,
        found: Callable[[int, LogDamaged], None],
        read: Callable[[int], None] = lambda _: None,
        whole: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._replicas = replicas
        self._bytes_per_s = bytes_per_s
        self._interval_s = interval_s
        self._found = found
        self._read = read
        self._whole = whole
        self._chunk_bytes = max(4 << 10, min(CHUNK_BYTES_MAX, bytes_per_s // 4))

    async def run(self) -> None:
        """For ever."""
        await asyncio.sleep(min(self._interval_s, FIRST_AFTER_S_MAX))
        while True:
            began_s = time.monotonic()
            found = 0
            for group in sorted(self._replicas):
                found += await self._one(group)
            took_s = time.monotonic() - began_s
            log.debug("scrub_round", replicas=len(self._replicas), damaged=found, took_s=round(took_s, 1))
            await asyncio.sleep(max(0.0, self._interval_s - took_s))

    async def _one(self, number: int) -> int:
        """How many damaged entries that replica's log has."""
        replica = self._replicas.get(number)
        group = replica.group if replica is not None else None
        if group is None or group.state == "failed":
            return 0
        try:
            return await self._entries(group) + await self._snapshots(group)
        except (SteleError, OSError, IndexError) as e:  # deleted, closed or cut meanwhile, or its disk does not read
            log.debug("scrub_interrupted", group=number, problem=str(e))
            return 0

    async def _entries(self, group: Group) -> int:
        damaged, at = 0, group.journal.first_index
        while (last := group.journal.synced_index) >= at:
            at = max(at, group.journal.first_index)
            try:
                entries = await asyncio.to_thread(group.read_stored, at, last, self._chunk_bytes)
                if not entries:
                    break
                size = sum(len(e.payload) + OVERHEAD_BYTES for e in entries)
                at = entries[-1].index + 1
            except LogDamaged as e:
                self._found(group.group_id, e)
                damaged, size, at = damaged + 1, self._chunk_bytes, at + 1
            self._read(size)
            await asyncio.sleep(size / self._bytes_per_s)
        return damaged

    async def _snapshots(self, group: Group) -> int:
        damaged = 0
        for snapshot in group.snapshots:
            try:
                await group.check_snapshot(snapshot.index)
            except LogDamaged as e:
                self._found(group.group_id, e)
                damaged += 1
            self._read(snapshot.size)
            await asyncio.sleep(snapshot.size / self._bytes_per_s)
        if not damaged:
            self._whole(group.group_id)
        return damaged
