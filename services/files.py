"""What the product asks of a file system, and the operating system's.

Guarantees that logs, snapshots and small files build on, and that every implementation owes:

* ``pwrite`` and ``truncate`` are visible to every reader at once and durable after ``fdatasync`` of that file, not before;
* ``create``, ``rename`` and ``unlink`` are visible at once and durable after ``fsync_dir`` of the folder, not before;
* ``fdatasync`` that raised says nothing about later calls: what it covered may be lost although the next one succeeds.

Errors are OSError.  A failed ``pwrite`` may have written any part.

:func:`replace_file` is how a small file is changed, whatever it holds: a term, an identity, the state of a local cluster.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_IOV_MAX = 512
_JOIN_BELOW_BYTES = 4096
"""Buffers that are smaller than this on average are joined: copying is cheaper than a long vector."""


ASIDE_SUFFIX = ".new"
"""Of a file that is written beside the one it will replace; what a crash leaves under such a name is worth nothing."""


class File(Protocol):
    """One open file.  ``pread`` may run in several threads at once, and beside a ``pwrite``."""

    def size(self) -> int: ...

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``; fewer only where the file ends."""
        ...

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        """All of ``buffers``, one behind the other, from ``offset`` on."""
        ...

    def truncate(self, size: int) -> None: ...

    def fdatasync(self) -> None: ...

    def close(self) -> None: ...


class FileSystem(Protocol):
    """Files and folders."""

    def makedirs(self, directory: Path) -> None:
        """The folder exists, durably, when this returns."""
        ...

    def listdir(self, directory: Path) -> list[str]: ...

    def create(self, path: Path) -> File:
        """A new empty file, open for reading and writing; what had that name is emptied."""
        ...

    def open(self, path: Path) -> File:
        """An existing file, for reading and writing; FileNotFoundError."""
        ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def fsync_dir(self, directory: Path) -> None: ...

    def free_bytes(self, directory: Path) -> int:
        """What an ordinary user may still write there."""
        ...


class OsFile:
    """A file of the operating system."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def pread(self, length: int, offset: int) -> bytes:
        got = os.pread(self._fd, length, offset)
        if len(got) == length or not got:
            return got
        parts = [got]
        have = len(got)
        while have < length:
            more = os.pread(self._fd, length - have, offset + have)
            if not more:
                break
            parts.append(more)
            have += len(more)
        return b"".join(parts)

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        total = sum(map(len, buffers))
        if len(buffers) > _IOV_MAX or total < _JOIN_BELOW_BYTES * len(buffers):
            buffers = (b"".join(buffers),)
        written = os.pwritev(self._fd, buffers, offset)
        if written == total:
            return
        left = memoryview(b"".join(buffers))[written:]
        while left:
            offset += written
            written = os.pwrite(self._fd, left, offset)
            left = left[written:]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def fdatasync(self) -> None:
        _sync_data(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsFileSystem:
    """The operating system's files."""

    def makedirs(self, directory: Path) -> None:
        missing: list[Path] = []
        path = directory
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self.fsync_dir(path.parent)

    def listdir(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    def create(self, path: Path) -> File:
        return OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))

    def open(self, path: Path) -> File:
        return OsFile(os.open(path, os.O_RDWR))

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def fsync_dir(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, directory: Path) -> int:
        stat = os.statvfs(directory)
        return stat.f_bavail * stat.f_frsize


OS_FILES = OsFileSystem()


def is_gone(path: Path) -> bool:
    """Whether ``path`` is certainly not there.  Any other trouble than that (EIO, EACCES) says nothing of it, and is no absence."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def move_folder(source: Path, target: Path) -> None:
    """The folder stands at ``target``, durably, when this returns; after a crash at any moment at one of both.  OSError: at either."""
    OS_FILES.rename(source, target)
    OS_FILES.fsync_dir(target.parent)  # BEFORE the other: else it could be at neither
    OS_FILES.fsync_dir(source.parent)


def inode_of(path: Path) -> tuple[int, int]:
    """What tells the folder or file that ``path`` leads to from any other that is there at the same time.  OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino


def replace_file(path: Path, content: bytes, fs: FileSystem = OS_FILES) -> None:
    """``path`` holds ``content``, durably, when this returns; after a crash at any moment it is the old file or the new one, whole.

    OSError.  ENOSPC and EDQUOT mean that the old file stands; after any other error it may be either.  One writer at a time.
    """
    aside = path.with_name(path.name + ASIDE_SUFFIX)
    file = fs.create(aside)
    try:
        file.pwrite([content], 0)
        file.fdatasync()  # BEFORE the rename: else a power loss can leave the new name on a file without its bytes
    finally:
        file.close()
    fs.rename(aside, path)
    try:
        fs.fsync_dir(path.parent)  # BEFORE returning: until then a power loss brings the old file back
    except OSError as e:
        # Also where the system calls it a full disk: the new file is in place, so this is no error that nothing was done on.
        raise OSError(errno.EIO, f"sync of the folder: {e.strerror or e}") from e


def _sync_data(fd: int) -> None:
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:  # macOS: fsync leaves the bytes in the drive's cache
        fcntl.fcntl(fd, full_sync)
    else:
        os.fdatasync(fd)
