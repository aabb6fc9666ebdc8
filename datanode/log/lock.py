"""The exclusive lock of a directory (R3.5).

Guarantee: while a DirectoryLock is held, no other opener, in this process or another, gets one for the same directory.  It is
released by ``release``, or by the system when the process ends in whatever way; a file left behind locks nothing.

A node locks its data directory (DirectoryBusy) and each group's directory (GroupDirectoryBusy) before it opens a file in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from stele.services.errors import DirectoryBusy

LOCK_NAME = "lock"


class DirectoryLock:
    """Held from construction on.  Raises ``busy`` (facts ``path``, ``owner``: the holder's process id) if another holds it."""

    def __init__(self, directory: Path, busy: type[DirectoryBusy] = DirectoryBusy) -> None:
        self._fd = -1
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            by = f"process {owner}" if owner else "another process"
            raise busy(f"{directory} is in use by {by}", path=directory, owner=owner) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that is being started may still share the open file
            os.close(fd)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
