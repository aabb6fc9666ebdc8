"""Whether a store's folder is still the one that it was started on, looked at every two seconds.

Guarantee: a volume that is mounted over the folder, or a folder that is put in its place, ends every replica, idle ones too, with one line
in the log and the same words in their listings, and nothing in it is taken for theirs, or for missing; once the former folder is back,
they are opened again (datanode/reopening.py).  What is written meanwhile is not acknowledged (datanode/in_place.py).
"""

from __future__ import annotations

import asyncio

import structlog

from stele.datanode.store import Store
from stele.services.errors import StorageFailed

CHECK_S = 2.0

log = structlog.get_logger()


class FolderWatch:
    """``await FolderWatch(store).run()`` for as long as the store is to be looked after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._problem = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self.look()

    async def look(self) -> None:
        try:
            problem = await asyncio.to_thread(self._store.directory.replaced)
        except StorageFailed:  # trouble in passing: whoever writes meets it
            return
        if problem and not self._problem:
            log.error("store_folder_replaced", problem=problem)
        elif self._problem and not problem:
            log.info("store_folder_back", path=str(self._store.directory.path))
        self._problem = problem
        if problem:
            for group in self._store.registry.groups():
                group.directory_replaced(problem)
