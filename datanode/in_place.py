"""Files of a folder that is still the one that was opened.

Guarantee: what a replica is told is durable is where its folder's path leads: a folder that was removed, moved away, or over which another
one was mounted or put while it was open, is an error of every sync from then on, and nothing is changed in what stands in its place.

Not promised: that what was written before the folder went is found where it went.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from stele.services.files import File, FileSystem

InPlaceCheck = Callable[[], None]
"""OSError where the folder is not the one that was opened."""
Synced = Callable[[float], None]
"""Told of each sync of a file how many seconds it took, on the thread that asked for it."""


class FilesInPlace:
    """A FileSystem for one folder."""

    def __init__(self, files: FileSystem, check: InPlaceCheck, synced: Synced = lambda took_s: None) -> None:
        self._files, self._check, self._synced = files, check, synced
        self.makedirs, self.listdir, self.free_bytes = files.makedirs, files.listdir, files.free_bytes

    def create(self, path: Path) -> File:
        self._check()
        return FileInPlace(self._files.create(path), self._check, self._synced)

    def open(self, path: Path) -> File:
        self._check()
        return FileInPlace(self._files.open(path), self._check, self._synced)

    def rename(self, source: Path, target: Path) -> None:
        self._check()
        self._files.rename(source, target)

    def unlink(self, path: Path) -> None:
        self._check()
        self._files.unlink(path)

    def fsync_dir(self, directory: Path) -> None:
        self._files.fsync_dir(directory)
        self._check()  # AFTER: what was synced before the folder went is told of only if it still counts


class FileInPlace:
    """A File of such a folder."""

    __slots__ = ("_check", "_file", "_synced", "close", "pread", "pwrite", "size", "truncate")

    def __init__(self, file: File, check: InPlaceCheck, synced: Synced) -> None:
        self._file, self._check, self._synced = file, check, synced
        self.size, self.pread, self.pwrite = file.size, file.pread, file.pwrite
        self.truncate, self.close = file.truncate, file.close

    def fdatasync(self) -> None:
        began_s = time.monotonic()
        self._file.fdatasync()
        self._synced(time.monotonic() - began_s)
        self._check()  # AFTER, as above
