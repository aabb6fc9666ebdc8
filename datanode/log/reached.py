"""Up to where a log was synced at some time, in a small file beside it: a log that ends before that has lost what it promised (R4.5).

Guarantee: whatever a crash leaves, the log was synced once up to the index that the file holds, and nothing has cut it since; where it
holds none that checks, nothing is known.  How new that index is, is not promised: ``note`` does not sync, so it costs next to nothing,
and a power loss may bring an older one back.  A lower bound that is old is still one.

What it cannot show: entries that were lost before they were noted, and a folder that was put back whole from an older copy, this file
with it.  Those a leader notices that remembers what it was acknowledged (services/raft/progress.py).
"""

from __future__ import annotations

import struct
import threading
from contextlib import suppress
from pathlib import Path

from crc32c import crc32c

from stele.services.files import FileSystem

REACHED_NAME = "reached"
_MAGIC = b"STRE"
_VERSION = 1
_CONTENT = struct.Struct(">4sHHQ")
_CRC = struct.Struct(">I")
_BYTES = _CONTENT.size + _CRC.size


class ReachedFile:
    """The log says ``synced`` and ``cut``; ``note`` is called now and then, from any thread.  Errors of the disk are OSError."""

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self._path = directory / REACHED_NAME
        self._fs = fs
        self._guard = threading.Lock()
        self._closed = False
        self._noted = 0  # what the file holds
        self._synced = 0

    def open(self, last_index: int) -> None:
        """The log was opened and ends at ``last_index``, durably."""
        self._noted, self._synced = read_reached(self._path, self._fs), last_index

    @property
    def is_ahead(self) -> bool:
        """Entries that were synced once, and were not cut off since, are not in the log."""
        return self._noted > self._synced

    def synced(self, index: int) -> None:
        """The log is synced up to ``index``."""
        self._synced = index

    def cut(self, index: int) -> None:
        """The log is to end at ``index`` at most: durable when this returns, BEFORE it is cut.  What goes on purpose never looks lost."""
        with self._guard:
            self._synced = min(self._synced, index)
            if self._noted > index:
                self._write(index, sync=True)

    def note(self) -> None:
        """Writes down how far the log is synced.  A disk in trouble changes nothing: the bound stays the older one."""
        with self._guard, suppress(OSError):
            if self._synced > self._noted and not self._closed:
                self._write(self._synced, sync=False)

    def forget_lost(self) -> None:
        """The log is whole as it is; durable when this returns."""
        with self._guard:
            if self.is_ahead:
                self._write(self._synced, sync=True)

    def close(self) -> None:
        """Nothing is noted any more: the folder may be another log's by and by."""
        with self._guard:
            self._closed = True

    def _write(self, index: int, sync: bool) -> None:
        content = _CONTENT.pack(_MAGIC, _VERSION, 0, index)
        try:
            file = self._fs.open(self._path)
        except FileNotFoundError:
            file = self._fs.create(self._path)
        try:
            file.pwrite([content + _CRC.pack(crc32c(content))], 0)  # in place, one sector: whole, or it does not check
            if sync:
                file.fdatasync()
        finally:
            file.close()
        self._noted = index


def read_reached(path: Path, fs: FileSystem) -> int:
    """The index that the file at ``path`` holds; 0 where there is none that checks.  OSError."""
    try:
        file = fs.open(path)
    except FileNotFoundError:
        return 0
    try:
        content = file.pread(_BYTES, 0)
    finally:
        file.close()
    if len(content) != _BYTES:
        return 0
    body, (crc,) = content[: _CONTENT.size], _CRC.unpack_from(content, _CONTENT.size)
    magic, version, _, index = _CONTENT.unpack(body)
    return int(index) if crc32c(body) == crc and magic == _MAGIC and version == _VERSION else 0
