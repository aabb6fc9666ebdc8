"""The term and vote of a replica in one small file (H7).

Guarantee: when ``store`` returns, every later ``load`` gives that term and vote, whatever happens to process or power; when it
does not return, ``load`` gives the old pair or the new one.  Content that does not check raises LogDamaged: a replica that may have
forgotten a vote must not start.

The file is replaced, never written in place (services/files.py).  A ``store`` that failed leaves the object unusable, except for a
full disk, which is found before the old file is touched.
"""

from __future__ import annotations

import struct
from pathlib import Path

from crc32c import crc32c

from stele.datanode.log.log import NO_SPACE
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from stele.services.files import OS_FILES, FileSystem, replace_file

_MAGIC = b"STTV"
_VERSION = 1
_CONTENT = struct.Struct(">4sHHQQ")
_CRC = struct.Struct(">I")
TERM_NAME = "term"


def encode(term: int, voted_for: int) -> bytes:
    content = _CONTENT.pack(_MAGIC, _VERSION, 0, term, voted_for)
    return content + _CRC.pack(crc32c(content))


def decode(content: bytes, path: Path) -> tuple[int, int]:
    """``(term, voted_for)``.  LogDamaged for anything but what ``encode`` makes."""
    if len(content) != _CONTENT.size + _CRC.size:
        raise LogDamaged(
            f"{path}: a term file has {_CONTENT.size + _CRC.size} bytes, this one {len(content)}", path=path, offset=0
        )
    body, (crc,) = content[: _CONTENT.size], _CRC.unpack_from(content, _CONTENT.size)
    magic, version, flags, term, voted_for = _CONTENT.unpack(body)
    if crc32c(body) != crc or magic != _MAGIC:
        raise LogDamaged(f"{path}: the term file is damaged", path=path, offset=0)
    if version != _VERSION or flags:
        raise LogDamaged(f"{path}: term file version {version} is not known; accepted: {_VERSION}", path=path, offset=0)
    return term, voted_for


def check_term(directory: Path, term: int, newest_in_log: int) -> None:
    """A replica stores a term before it stores an entry of it.  LogDamaged if the log has a later one: a vote may be forgotten (H7)."""
    if newest_in_log > term:
        path = directory / TERM_NAME
        raise LogDamaged(f"{path}: the term is {term}, the log has entries of {newest_in_log}", path=path, offset=0)


class TermFile:
    """TermStorage (services/raft/storage.py) on a file in ``directory``."""

    def __init__(self, directory: Path, fs: FileSystem | None = None) -> None:
        self._fs: FileSystem = fs or OS_FILES
        self._directory = directory
        self._path = directory / TERM_NAME
        self._failed: str | None = None
        self._fs.makedirs(directory)

    def load(self) -> tuple[int, int]:
        try:
            file = self._fs.open(self._path)
        except FileNotFoundError:
            return (0, 0)
        except OSError as e:
            raise self._fail("open", e) from e
        try:
            content = file.pread(_CONTENT.size + _CRC.size + 1, 0)
        except OSError as e:
            raise self._fail("read", e) from e
        finally:
            file.close()
        return decode(content, self._path)

    def store(self, term: int, voted_for: int) -> None:
        if self._failed is not None:
            raise StorageFailed(self._failed, path=self._path)
        try:
            replace_file(self._path, encode(term, voted_for), self._fs)
        except OSError as e:
            if e.errno in NO_SPACE:
                raise DiskFull(f"{self._path}: no room to store the term", path=self._path) from e
            raise self._fail("write", e) from e

    def _fail(self, operation: str, error: OSError) -> StorageFailed:
        self._failed = f"{self._path}: {operation} failed: {error.strerror or error}"
        return StorageFailed(self._failed, path=self._path, errno=error.errno)
