"""Files of a folder that is still the one that was opened.

Guarantee: what a replica is told is durable is where its folder's path leads: a folder that was removed, moved away, or over which another
one was mounted or put while it was open, is an error of every sync from then on, and nothing is changed in what stands in its place.

Not promised: that what was written before the folder went is found where it went.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stele.services.files import File, FileSystem

InPlaceCheck = Callable[[], None]
"""OSError where the folder is not the one that was opened."""


class FilesInPlace:
    """A FileSystem for one folder."""

    def __init__(self, files: FileSystem, check: InPlaceCheck) -> None:
        self._files, self._check = files, check
        self.makedirs, self.listdir, self.free_bytes = files.makedirs, files.listdir, files.free_bytes

    def create(self, path: Path) -> File:
        self._check()
        return FileInPlace(self._files.create(path), self._check)

    def open(self, path: Path) -> File:
        self._check()
        return FileInPlace(self._files.open(path), self._check)

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

    __slots__ = ("_check", "_file", "close", "pread", "pwrite", "size", "truncate")

    def __init__(self, file: File, check: InPlaceCheck) -> None:
        self._file, self._check = file, check
        self.size, self.pread, self.pwrite = file.size, file.pread, file.pwrite
        self.truncate, self.close = file.truncate, file.close

    def fdatasync(self) -> None:
        self._file.fdatasync()
        self._check()  # AFTER, as above
