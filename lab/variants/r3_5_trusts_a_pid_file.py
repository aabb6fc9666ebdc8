"""Wrong on purpose (R3.5): a directory is taken if the process that wrote its lock file is another one and alive, as without a lock
that the system keeps.  Two openers in one process both get it."""

from __future__ import annotations

import os
from pathlib import Path

from stele.datanode.log.lock import LOCK_NAME
from stele.services.errors import DirectoryBusy


class PidFile:
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
