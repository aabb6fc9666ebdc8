"""The snapshots of a replica in files of its folder; SnapshotStorage of services/raft/storage.py.

    snapshot-<index, 20 digits>.snap     incoming.part     snapshot-<index>.snap.damaged

Guarantees:

* A file under a snapshot's name is whole from the moment it has that name: written aside, synced, renamed, folder synced (H8).
* A state leaves ``read``, ``open`` and ``check_staged`` only if its size and CRC are right.
* No length that a file claims is believed before the file is known to be that long.

A transfer under way is a snapshot's file (snapshot_format.py) that grows under the name ``incoming.part``; installing it is a rename.

Opening reads headers only.  Damaged files are reported in ``damaged`` and stay where they are until ``set_aside``: whether a replica
can do without them is not to be seen from here (start_point.py).
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from crc32c import crc32c

from stele.datanode.log.log import NO_SPACE
from stele.datanode.log.segments import DAMAGED_SUFFIX
from stele.datanode.log.snapshot_format import (
    HEADER_BYTES_MAX,
    SnapshotHeader,
    decode_header,
    index_of,
    snapshot_name,
)
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from stele.services.files import ASIDE_SUFFIX, File, FileSystem
from stele.services.raft.storage import Members, Snapshot

_CHUNK_BYTES = 1024 * 1024
PART_NAME = "incoming.part"

log = structlog.get_logger()


@dataclass(slots=True)
class _Staging:
    """The transfer under way: ``staged`` bytes of the state stand in ``file``."""

    header: SnapshotHeader
    file: File
    staged: int
    checked: bool = False


class SnapshotFiles:
    """One thread at a time per method that changes something is let in; readers are not kept waiting."""

    def __init__(self, directory: Path, fs: FileSystem, disk_reserve_bytes: int = 0) -> None:
        self._directory = directory
        self._fs = fs
        self._disk_reserve_bytes = disk_reserve_bytes
        self._changing = threading.RLock()
        self._failed: str | None = None
        self._staging: _Staging | None = None
        self._headers: tuple[SnapshotHeader, ...] = ()
        self.damaged: tuple[int, ...] = ()
        """Indexes of the files that are not whole, lowest first."""
        try:
            self._load()
        except OSError as e:
            raise self._fail("open", e) from e

    def _load(self) -> None:
        self._fs.makedirs(self._directory)
        found: list[SnapshotHeader] = []
        damaged: list[int] = []
        for name in self._fs.listdir(self._directory):
            index = index_of(name)
            if index is not None:
                try:
                    found.append(self._read_header(index))
                except LogDamaged as e:
                    log.warning("snapshot_damaged", path=e.facts["path"], problem=str(e))
                    damaged.append(index)
            elif index_of(name.removesuffix(ASIDE_SUFFIX)) is not None:
                self._fs.unlink(self._directory / name)
        if found or damaged:
            # The names found may be in the system's cache only; from here on they count as durable.
            self._fs.fsync_dir(self._directory)
        self._headers = tuple(sorted(found, key=lambda header: header.snapshot.index))
        self.damaged = tuple(sorted(damaged))

    def _read_header(self, index: int) -> SnapshotHeader:
        return read_header(self._path(index), self._fs)

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(header.snapshot for header in self._headers)

    @property
    def headers(self) -> tuple[SnapshotHeader, ...]:
        """Oldest first, with where they came from."""
        return self._headers

    def read(self, index: int) -> bytes:
        source = self._source(index)
        try:
            state = source.read(0, source.snapshot.size)
            source.check(crc32c(state), len(state))
            return state
        finally:
            source.close()

    def open(self, index: int) -> FileSource:
        source = self._source(index)
        try:
            source.check(*source.sum())
        except BaseException:
            source.close()
            raise
        return source

    def check(self, index: int) -> None:
        """LogDamaged unless the state is as it was written; memory does not grow with it."""
        self.open(index).close()

    def _source(self, index: int) -> FileSource:
        header = next((h for h in self._headers if h.snapshot.index == index), None)
        if header is None:
            raise KeyError(index)
        try:
            file = self._fs.open(self._path(index))
        except FileNotFoundError:
            raise KeyError(index) from None
        except OSError as e:
            raise _read_failed(self._path(index), e) from e
        return FileSource(header, file, self._path(index))

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, snapshot: Snapshot, state: bytes) -> None:
        if (len(state), crc32c(state)) != (snapshot.size, snapshot.crc):
            raise ValueError(f"snapshot {snapshot.index} and its state do not fit one another")
        header = SnapshotHeader(snapshot, installed=False)
        path = self._path(snapshot.index)
        aside = path.with_name(path.name + ASIDE_SUFFIX)
        with self._changing:
            self._check_usable()
            self._check_room(header.file_bytes)
            try:
                file = self._fs.create(aside)
                try:
                    file.pwrite([header.to_bytes(), state], 0)
                    file.fdatasync()
                finally:
                    file.close()
            except OSError as e:
                if e.errno in NO_SPACE:
                    with suppress(DiskFull):
                        self._remove(aside)
                    raise self._disk_full() from e
                raise self._fail("write", e) from e
            self._rename(aside, path, "write")
            others = (h for h in self._headers if h.snapshot.index != snapshot.index)
            self._headers = tuple(sorted((*others, header), key=lambda h: h.snapshot.index))

    def drop_before(self, index: int) -> None:
        self.drop({h.snapshot.index for h in self._headers if h.snapshot.index < index})

    def drop(self, indexes: Set[int]) -> None:
        """Removes these, oldest first: what a crash leaves of them is newer than what it does not."""
        with self._changing:
            self._check_usable()
            gone = [h for h in self._headers if h.snapshot.index in indexes]
            for header in gone:
                self._headers = tuple(h for h in self._headers if h is not header)
                try:
                    self._remove(self._path(header.snapshot.index))
                except DiskFull:
                    self._headers = tuple(sorted((*self._headers, header), key=lambda h: h.snapshot.index))
                    raise
            if gone:
                self._sync_folder("drop")

    def set_aside(self, index: int) -> None:
        """A damaged file gets a name under which nobody looks for it."""
        path = self._path(index)
        with self._changing:
            self._check_usable()
            self._rename(path, path.with_name(path.name + DAMAGED_SUFFIX), "set aside")
            self._headers = tuple(h for h in self._headers if h.snapshot.index != index)
            self.damaged = tuple(i for i in self.damaged if i != index)

    # --- a transfer -------------------------------------------------------------------------------------------------

    def staged(self, snapshot: Snapshot) -> int:
        with self._changing:
            self._check_usable()
            staging = self._resume(snapshot)
            return staging.staged if staging is not None else 0

    def stage(self, snapshot: Snapshot, offset: int, chunk: bytes) -> None:
        with self._changing:
            self._check_usable()
            staging = self._resume(snapshot)
            have = staging.staged if staging is not None else 0
            if offset != have or have + len(chunk) > snapshot.size:
                raise ValueError(f"{len(chunk)} bytes at {offset} do not follow {have} of {snapshot.size}")
            self._check_room(len(chunk) + HEADER_BYTES_MAX)
            try:
                staging = staging or self._begin(snapshot)
                staging.file.pwrite([chunk], staging.header.bytes + offset)
            except OSError as e:
                if e.errno not in NO_SPACE:
                    raise self._fail("stage", e) from e
                self._cut_part(staging)
                raise self._disk_full() from e
            staging.staged += len(chunk)
            staging.checked = False

    def check_staged(self, snapshot: Snapshot) -> bytes:
        with self._changing:
            self._check_usable()
            staging = self._resume(snapshot)
            if staging is None and snapshot.size == 0:
                staging = self._begin(snapshot)
            path = self._directory / PART_NAME
            if staging is None:
                raise LogDamaged(f"{path}: nothing of this snapshot is staged", path=path, offset=0)
            try:
                staging.file.fdatasync()
            except OSError as e:
                # Else a process that is restarted would find it in the system's cache, clean, and install what no disk holds.
                with suppress(StorageFailed):
                    self._remove_part()
                raise self._fail("stage", e) from e
            source = FileSource(staging.header, staging.file, path)
            state = source.read(0, min(staging.staged, snapshot.size))
            try:
                source.check(crc32c(state), len(state))
            except LogDamaged:
                self._remove_part()
                raise
            staging.checked = True
            return state

    def install_staged(self, snapshot: Snapshot) -> None:
        with self._changing:
            self._check_usable()
            if self._staging is None or self._staging.header.snapshot != snapshot or not self._staging.checked:
                self.check_staged(snapshot)
            assert self._staging is not None
            header, file = self._staging.header, self._staging.file
            self._staging = None
            file.close()
            self._rename(self._directory / PART_NAME, self._path(snapshot.index), "install")
            others = [h for h in self._headers if h.snapshot.index != snapshot.index]
            self._headers = (header,)
            with suppress(DiskFull):  # it is installed: what is left of the others goes when the folder is next opened
                for other in others:
                    self._remove(self._path(other.snapshot.index))
                self._sync_folder("install")

    def close(self) -> None:
        """Closes the file of a transfer; what is staged stays."""
        with self._changing:
            if self._staging is not None:
                self._staging.file.close()
                self._staging = None

    def _resume(self, snapshot: Snapshot) -> _Staging | None:
        """What is staged of ``snapshot``, opened again after a restart.  Of any other one, or a damaged one, it is removed."""
        wanted = SnapshotHeader(snapshot, installed=True)
        if self._staging is not None and self._staging.header == wanted:
            return self._staging
        if self._staging is None:
            self._staging = self._find_part(wanted)
        if self._staging is None or self._staging.header != wanted:
            self._remove_part()
        return self._staging

    def _find_part(self, wanted: SnapshotHeader) -> _Staging | None:
        path = self._directory / PART_NAME
        try:
            file = self._fs.open(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._fail("open", e) from e
        try:
            staged = file.size() - wanted.bytes
            if decode_header(file.pread(wanted.bytes, 0), path) == wanted and staged <= wanted.snapshot.size:
                return _Staging(wanted, file, staged)
        except LogDamaged:
            pass
        except OSError as e:
            file.close()
            raise self._fail("open", e) from e
        file.close()
        return None

    def _begin(self, snapshot: Snapshot) -> _Staging:
        header = SnapshotHeader(snapshot, installed=True)
        file = self._fs.create(self._directory / PART_NAME)
        self._staging = _Staging(header, file, 0)
        file.pwrite([header.to_bytes()], 0)
        return self._staging

    def _cut_part(self, staging: _Staging | None) -> None:
        """After a full disk: what was staged before stays, and nothing behind it."""
        if staging is None or staging.staged == 0:
            self._remove_part()
            return
        try:
            staging.file.truncate(staging.header.bytes + staging.staged)
        except OSError as e:
            raise self._fail("stage", e) from e

    def _remove_part(self) -> None:
        if self._staging is not None:
            self._staging.file.close()
            self._staging = None
        self._remove(self._directory / PART_NAME)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _path(self, index: int) -> Path:
        return self._directory / snapshot_name(index)

    def _rename(self, aside: Path, path: Path, operation: str) -> None:
        try:
            self._fs.rename(aside, path)
        except OSError as e:
            if e.errno in NO_SPACE:
                raise self._disk_full() from e
            raise self._fail(operation, e) from e
        self._sync_folder(operation)

    def _sync_folder(self, operation: str) -> None:
        try:
            self._fs.fsync_dir(self._directory)
        except OSError as e:
            raise self._fail(operation, e) from e

    def _remove(self, path: Path) -> None:
        try:
            self._fs.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as e:
            if e.errno in NO_SPACE:  # where every change takes room, as on file systems that copy on write
                raise self._disk_full() from e
            raise self._fail("remove", e) from e

    def _check_room(self, wanted: int) -> None:
        try:
            free = self._fs.free_bytes(self._directory)
        except OSError as e:
            raise self._fail("look for room", e) from e
        if free < self._disk_reserve_bytes + wanted:
            raise self._disk_full()

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StorageFailed(self._failed, path=self._directory)

    def _disk_full(self) -> DiskFull:
        reserve = self._disk_reserve_bytes
        return DiskFull(
            f"{self._directory}: no room for a snapshot; {reserve} bytes are kept free",
            path=self._directory,
            reserve_bytes=reserve,
        )

    def _fail(self, operation: str, error: OSError) -> StorageFailed:
        """Nothing is written here any more: what a failed sync covered may be lost although a later one succeeds."""
        self._failed = f"{self._directory}: {operation} of a snapshot failed: {error.strerror or error}"
        log.error("snapshots_failed", path=str(self._directory), operation=operation, errno=error.errno)
        return StorageFailed(self._failed, path=self._directory, errno=error.errno)


class FileSource:
    """SnapshotSource on an open file."""

    def __init__(self, header: SnapshotHeader, file: File, path: Path) -> None:
        self.snapshot = header.snapshot
        self._header = header
        self._file = file
        self._path = path

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.snapshot.size - offset))
        try:
            return self._file.pread(length, self._header.bytes + offset)
        except OSError as e:
            raise _read_failed(self._path, e) from e

    def close(self) -> None:
        self._file.close()

    def sum(self) -> tuple[int, int]:
        """CRC and number of the bytes that are there."""
        crc = at = 0
        while chunk := self.read(at, _CHUNK_BYTES):
            crc = crc32c(chunk, crc)
            at += len(chunk)
        return crc, at

    def check(self, crc: int, size: int) -> None:
        if (crc, size) != (self.snapshot.crc, self.snapshot.size):
            at = self._header.bytes + min(size, self.snapshot.size)
            raise LogDamaged(f"{self._path}: the snapshot's state is damaged", path=self._path, offset=at)


def read_header(path: Path, fs: FileSystem) -> SnapshotHeader:
    """The header of a file that is as long as it says.  LogDamaged, OSError."""
    file = fs.open(path)
    try:
        header = decode_header(file.pread(HEADER_BYTES_MAX, 0), path)
        size = file.size()
    finally:
        file.close()
    if header.file_bytes != size or header.snapshot.index != index_of(path.name):
        raise LogDamaged(
            f"{path}: {size} bytes, its header says {header.file_bytes} for {header.snapshot.index}",
            path=path,
            offset=min(size, header.file_bytes),
        )
    return header


def newest_members(directory: Path, fs: FileSystem) -> Members | None:
    """Those of the newest snapshot in a folder that is otherwise not to be relied on; nothing in it is changed."""
    indexes = sorted(index for name in fs.listdir(directory) if (index := index_of(name)) is not None)
    for index in reversed(indexes):
        with suppress(LogDamaged, OSError):
            return read_header(directory / snapshot_name(index), fs).snapshot.members
    return None


def _read_failed(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(f"{path}: read failed: {error.strerror or error}", path=path, errno=error.errno or errno.EIO)
