"""Replicas whose disk does not answer: neither failed nor well.

Guarantee: a write or sync that is not answered within ``SILENT_S`` is a problem of its replica, in its report for as long as it lasts; the
store logs once that it begins and once that it is over, however many replicas wait.  Nothing is ended by it: others lead and go on, and
what was not synced was promised to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from stele.services.raft.registry import Registry

SILENT_S = 3.0
LOOK_INTERVAL_S = 1.0

log = structlog.get_logger()


class Silence:
    """``changed(group)`` is called when what :meth:`problem` says of a group is another."""

    def __init__(self, registry: Registry, changed: Callable[[int], None]) -> None:
        self._registry = registry
        self._changed = changed
        self._silent: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many replicas wait for the disk."""
        return len(self._silent)

    def problem(self, group: int) -> str:
        """One line while the disk does not answer that replica; else empty."""
        return f"its disk has not answered for more than {SILENT_S:g} s" if group in self._silent else ""

    def look(self) -> None:
        silent = {g.group_id for g in self._registry.groups() if g.awaits_disk_s > SILENT_S}
        was, self._silent = self._silent, silent
        if silent and not was:
            log.error("disk_silent", replicas=len(silent), path=str(self._registry.root), for_more_than_s=SILENT_S)
        elif was and not silent:
            log.warning("disk_answers", replicas=len(was), path=str(self._registry.root))
        for group in sorted(silent ^ was):
            self._changed(group)

    async def watch(self) -> None:
        """Looks for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_INTERVAL_S)
