"""What was deleted and is kept for a while: the data directory's ``trash``.

Guarantee: the folder of a deleted replica stays whole until this store has been running for ``retention_s`` seconds since, and is removed
then, once and for all; earlier, the oldest first, while the disk is ``short`` of room.  Only time that the process itself has seen pass
counts: no wall clock, and not the time during which it was stopped or paused.  What a crash left half-deleted is no group, and goes
the same way.

Each folder still says in its ``group.json`` whose it was.  An operator who moves one back into ``groups`` while the store is stopped has
the replica again at the next start.  :meth:`Trash.listed` says what there is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from stele.services.json_files import read_json, write_json
from stele.services.pb import datanode_pb2 as pb

TICK_S = 1.0
TICK_SEEN_MAX_S = 5.0  # of one turn: a process that stood still has not seen the rest
WRITTEN_EVERY_S = 60.0  # how much of the time that was seen a crash may forget
AGES_NAME = "ages.json"

LISTED_MAX = 10_000

log = structlog.get_logger()


class Trash:
    """``await trash.run()`` for ever.  ``short`` says whether the disk is short of room; ``look`` measures it anew."""

    def __init__(
        self, path: Path, retention_s: float, short: Callable[[], bool], look: Callable[[], Awaitable[object]]
    ) -> None:
        self._path, self._retention_s = path, retention_s
        self._short, self._look = short, look
        self.ages_s: dict[str, float] = {}  # folder → how long this store has kept it

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.ages_s = await asyncio.to_thread(self._read)
        seen_at = written_at = loop.time()
        trouble = ""
        while True:
            await asyncio.sleep(min(TICK_S, self._retention_s / 4))
            now = loop.time()
            passed_s, seen_at = min(now - seen_at, TICK_SEEN_MAX_S), now
            known = set(self.ages_s)
            try:
                await self.turn(passed_s)
                trouble = ""
            except OSError as e:  # for a moment it cannot be listed: what is in it stays, and whoever serves goes on
                if str(e) != trouble:
                    log.warning("trash_not_listed", error=str(e))
                trouble = str(e)
            if set(self.ages_s) != known or (self.ages_s and now - written_at >= WRITTEN_EVERY_S):
                written_at = now
                await asyncio.to_thread(self._write)

    async def turn(self, passed_s: float) -> None:
        """``passed_s`` more have passed: removes what is due."""
        present = await asyncio.to_thread(self._folders)
        self.ages_s = {name: self.ages_s[name] + passed_s if name in self.ages_s else 0.0 for name in present}
        for name in [n for n, age_s in self.ages_s.items() if age_s >= self._retention_s]:
            await self._remove(name, "kept_for_long_enough")
        while self.ages_s and self._short():
            await self._remove(max(self.ages_s, key=lambda n: (self.ages_s[n], n)), "disk_short_of_room")
            await self._look()

    async def listed(self) -> list[pb.TrashedReplica]:
        """What is kept now, the oldest first."""
        replicas = await asyncio.to_thread(self._listed)
        return sorted(replicas, key=lambda r: (-r.age_ms, r.folder))

    def _listed(self) -> list[pb.TrashedReplica]:
        return [self._describe(name) for name in self._folders()[:LISTED_MAX]]

    def _describe(self, name: str) -> pb.TrashedReplica:
        group, _, _ = name.partition("-")
        found = pb.TrashedReplica(
            folder=name,
            group=int(group) if group.isdecimal() else 0,
            size_bytes=_size_bytes(self._path / name),
            age_ms=round(self.ages_s.get(name, 0.0) * 1000),
            retention_ms=round(self._retention_s * 1000),
        )
        body = read_json(self._path / name / "group.json") or {}
        topic, topic_id, partition = (body.get(key) for key in ("topic", "topic_id", "partition"))
        if isinstance(topic, str) and isinstance(partition, int):
            found.topic, found.partition = topic, partition
            found.topic_id = topic_id if isinstance(topic_id, int) else 0
        return found

    async def _remove(self, name: str, why: str) -> None:
        age_s = self.ages_s.pop(name)
        await asyncio.to_thread(shutil.rmtree, self._path / name, ignore_errors=True)
        log.info("trash_removed", folder=name, age_s=round(age_s), why=why)

    def _folders(self) -> list[str]:
        return sorted(p.name for p in self._path.iterdir() if p.is_dir())

    def _read(self) -> dict[str, float]:
        """Ages as the last run knew them.  What it did not know of, or wrote down in another way, is as good as new."""
        found = read_json(self._path / AGES_NAME) or {}
        return {n: float(age_s) for n, age_s in found.items() if isinstance(age_s, int | float) and age_s >= 0}

    def _write(self) -> None:
        try:
            write_json(self._path / AGES_NAME, self.ages_s)
        except OSError as e:  # a full disk, for example: the ages are kept in memory, and written with a later turn
            log.warning("trash_ages_not_written", error=str(e))


def _size_bytes(folder: Path) -> int:
    """Of the files that are in it at this moment."""
    size = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                size += entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # it is being removed
        return size
    return size
