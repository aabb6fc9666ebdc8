"""Creating, deleting and holding groups on a store in ways that leave two of one, or one without a directory (F3)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stele.datanode.store import Mandate, Store
from stele.datanode.trash import Trash
from stele.services.directory_lock import LOCK_NAME, DirectoryLock
from stele.services.errors import DirectoryBusy
from stele.services.keyed_lock import KeyedLock
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry
from stele.services.raft.storage import Entry


class _NoLocks(KeyedLock[int]):
    @asynccontextmanager
    async def hold(self, key: int) -> AsyncIterator[None]:
        yield


class Ungated(Registry):
    """The lookup and the registration of a group are not one step, and deleting does not join them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._locks = _NoLocks()


class UnregistersByName(Ungated):
    """What is stopped is taken out of the map by its name, whoever holds that name by then."""

    async def _stop(self, group_id: int) -> bool:
        group = self._groups.get(group_id)
        if group is None:
            return False
        storage = self._storage.pop(group_id)
        del self._groups[group_id]
        await group.stop()
        await asyncio.to_thread(storage.close)
        await asyncio.sleep(1.0)
        self._groups.pop(group_id, None)
        return True


class RemovesFirst(Registry):
    """The directory is removed under the running group, which goes on until the store ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._forgotten: dict[int, Group] = {}

    async def delete(self, group_id: int) -> bool:
        async with self._locks.hold(group_id):
            group = self._groups.pop(group_id, None)
            if group is not None:
                self._forgotten[group_id] = group
            await asyncio.to_thread(self._discard, self.path(group_id))
            return group is not None

    async def close(self) -> None:
        self._groups.update(self._forgotten)
        await super().close()


class PidFile:
    """A directory is taken if the process that wrote its lock file is another one and alive, as without a lock
    that the system keeps.  Two openers in one process both get it."""

    def __init__(self, directory: Path, busy: type[DirectoryBusy] = DirectoryBusy) -> None:
        self._path = directory / LOCK_NAME
        try:
            owner = int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            owner = 0
        if owner not in (0, os.getpid()) and _is_alive(owner):
            raise busy(f"{directory} is in use by process {owner}", path=directory, owner=owner)
        self._path.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


class LooksAtNoPath(DirectoryLock):
    """What was locked is the folder for good, wherever its path leads."""

    def check_in_place(self) -> None:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class NeverLooks(Registry):
    """Nobody notices that a group's directory has vanished."""

    async def _watch_directories(self) -> None:
        await asyncio.Event().wait()


class ObeysForAnyTopic(Store):
    """A group is deleted by its number, whichever topic is meant."""

    async def delete(self, group: int, topic_id: int, mandate: Mandate) -> bool:
        return await super().delete(group, self.replica(group).spec.topic_id, mandate)


class EmptiesItsTrash(Trash):
    """What was deleted is removed at once."""

    async def turn(self, passed_s: float) -> None:
        await super().turn(passed_s)
        for name in list(self.ages_s):
            await self._remove(name, "deleted")


class GivesWhatIsNotCommitted(Registry):
    """A peer whose entries are damaged is given whatever stands in the log, committed or not."""

    async def read_entries(self, group_id: int, first: int, last: int) -> list[Entry]:
        return self._storage[group_id].log.read(first, last, 1 << 20)
