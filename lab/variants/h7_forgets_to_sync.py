"""Wrong on purpose (H7): disks that are never waited for: ``sync`` returns before the bytes, or their names, are durable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stele.datanode.log.files import File, FileSystem


class _UnsyncedFile:
    def __init__(self, file: File) -> None:
        self._file = file

    def size(self) -> int:
        return self._file.size()

    def pread(self, length: int, offset: int) -> bytes:
        return self._file.pread(length, offset)

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        self._file.pwrite(buffers, offset)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def fdatasync(self) -> None:
        """Returns at once."""

    def close(self) -> None:
        self._file.close()


class _Passing:
    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    def makedirs(self, directory: Path) -> None:
        self._fs.makedirs(directory)

    def listdir(self, directory: Path) -> list[str]:
        return self._fs.listdir(directory)

    def create(self, path: Path) -> File:
        return self._fs.create(path)

    def open(self, path: Path) -> File:
        return self._fs.open(path)

    def rename(self, source: Path, target: Path) -> None:
        self._fs.rename(source, target)

    def unlink(self, path: Path) -> None:
        self._fs.unlink(path)

    def fsync_dir(self, directory: Path) -> None:
        self._fs.fsync_dir(directory)

    def free_bytes(self, directory: Path) -> int:
        return self._fs.free_bytes(directory)


class ForgetsToSyncFiles(_Passing):
    """What is written is durable whenever the system likes."""

    def create(self, path: Path) -> File:
        return _UnsyncedFile(super().create(path))

    def open(self, path: Path) -> File:
        return _UnsyncedFile(super().open(path))


class ForgetsToSyncFolders(_Passing):
    """A file is durable, its name is not."""

    def fsync_dir(self, directory: Path) -> None:
        """Returns at once."""
