"""The exclusive lock of a directory (R3.5).

Guarantee: while a DirectoryLock is held, no other opener, in this process or another, gets one for the same directory: it is refused at
once, or after the time it was given, and told whose it is.  The lock is released by ``release``, or by the system when the process
ends in whatever way; a file left behind locks nothing.

A datanode locks its data directory (DirectoryBusy) and each group's directory (GroupDirectoryBusy) before it opens a file in it; a command
that changes a local cluster locks the cluster's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from stele.services.errors import DirectoryBusy
from stele.services.files import inode_of

LOCK_NAME = "lock"
POLL_S = 0.02
OWNER_BYTES_MAX = 32


class DirectoryLock:
    """Held from construction on.  Raises ``busy`` (facts ``path``, ``owner``: the holder's process id) if another holds it."""

    def __init__(self, directory: Path, busy: type[DirectoryBusy] = DirectoryBusy, within_s: float = 0.0) -> None:
        if not directory.is_dir():  # the library would make one, and a mistyped path an empty store
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        path = directory / LOCK_NAME
        self._path, self._fd = path, -1
        self._lock = FileLock(
            path,
            timeout=within_s,
            poll_interval=POLL_S,
            thread_local=False,  # opened and closed on whichever thread is free
            preserve_lock_file=True,  # and never in its place a file that a dead process leaves locked
            on_acquired=self._acquired,
        )
        try:
            self._lock.acquire()
        except Timeout:
            owner = _read_owner(path)
            by = f"process {owner}" if owner else "another process"
            raise busy(f"{directory} is in use by {by}", path=directory, owner=owner) from None

    def check_in_place(self) -> None:
        """OSError (ESTALE): the directory's path does not lead to what was locked any more.  It was removed or moved away, or another one
        was mounted over it or put in its place."""
        held = os.fstat(self._fd)
        try:
            found = inode_of(self._path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found != (held.st_dev, held.st_ino):
            raise OSError(errno.ESTALE, "it is not the folder any more that was opened", str(self._path.parent))

    def release(self) -> None:
        self._fd = -1
        self._lock.release()

    def _acquired(self, fd: int) -> None:
        self._fd = fd
        _write_owner(fd)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _write_owner(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _read_owner(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(OWNER_BYTES_MAX).decode("ascii", "replace").strip()
