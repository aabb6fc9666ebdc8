"""A disk that forgets: stele.datanode.log.FileSystem in memory, with crashes and faults.

What it models, as strictly as POSIX allows:

* A file's writes and truncations are durable after ``fdatasync`` of that file.  At a power loss any prefix of those since then
  survives; of the write where the prefix ends, a torn part may: its beginning, its beginning and zeros or garbage to its end, or
  some of its sectors (the others read as what was there before, or zeros).
* Names (create, rename, unlink) are durable after ``fsync_dir``.  At a power loss any prefix of a folder's changes since then
  survives.  ``fdatasync`` of a file does not make its name durable.
* After an ``fdatasync`` that raised, what it covered is readable but never becomes durable, and the next one succeeds.
* ``kill`` loses nothing: the system's cache outlives a process.  It is still not durable.

Deterministic: the only randomness is the ``random.Random`` given to ``crash``; no threads, no clock.  Slowness is added up in
``busy_s`` for a simulator to spend (``take_busy_s``).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stele.services.files import File

SECTOR_BYTES = 512
Operation = Literal["create", "open", "pread", "pwrite", "truncate", "fdatasync", "rename", "unlink", "fsync_dir"]
CHANGES: frozenset[Operation] = frozenset(
    {"create", "pwrite", "truncate", "fdatasync", "rename", "unlink", "fsync_dir"}
)


UNALTERED = 1 << 62


class PowerLost(Exception):
    """The power goes at this operation; the disk does nothing more until ``crash``.  Not an OSError: no program sees it."""


@dataclass(slots=True)
class _Change:
    """A write (``content``) or a truncation (``content`` None) of a file."""

    offset: int
    content: bytes | None

    def apply(self, target: bytearray) -> None:
        if self.content is None:
            if len(target) > self.offset:
                del target[self.offset :]
            else:
                target.extend(bytes(self.offset - len(target)))
            return
        if len(target) < self.offset:
            target.extend(bytes(self.offset - len(target)))
        target[self.offset : self.offset + len(self.content)] = self.content


@dataclass(slots=True, eq=False)
class _Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Change] = field(default_factory=list)
    altered_at: int = 0
    """From where on ``durable`` may be another one than whoever reads it by and by has seen; that one sets it to UNALTERED."""
    st_dev = 0

    @property
    def st_ino(self) -> int:
        return id(self)

    def change(self, change: _Change) -> None:
        change.apply(self.cached)
        self.pending.append(change)

    def settle(self, change: _Change) -> None:
        """``change`` is durable."""
        self.altered_at = min(self.altered_at, change.offset)
        change.apply(self.durable)


@dataclass(slots=True)
class _Fault:
    operation: Operation
    errno: int
    name: str
    skip: int
    times: int


@dataclass(slots=True)
class _NameChange:
    """``name`` now stands for ``inode`` (None: for nothing)."""

    names: dict[str, _Inode | None]


@dataclass(slots=True, eq=False)
class _Folder:
    cached: dict[str, _Inode] = field(default_factory=dict)
    durable: dict[str, _Inode] = field(default_factory=dict)
    pending: list[_NameChange] = field(default_factory=list)
    st_dev = 0

    @property
    def st_ino(self) -> int:
        return id(self)

    def change(self, names: dict[str, _Inode | None]) -> None:
        _rename(self.cached, names)
        self.pending.append(_NameChange(names))


def _rename(target: dict[str, _Inode], names: dict[str, _Inode | None]) -> None:
    for name, inode in names.items():
        if inode is None:
            target.pop(name, None)
        else:
            target[name] = inode


def _split(path: Path) -> tuple[str, str]:
    """Folder and name; a path's own ``parent`` costs more than all the rest."""
    folder, _, name = str(path).rpartition("/")
    return folder or "/", name


def _nothing() -> None:
    """What most operations still have to do once they are done."""


class SimulatedDisk:
    """A FileSystem.  ``capacity_bytes`` bounds what all files hold together; reaching it is ENOSPC after a partial write."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self.busy_s = 0.0
        self.write_s = 0.0
        self.sync_s = 0.0
        self.operations = 0
        """How many changing operations were asked for: the points at which ``lose_power_after`` can strike."""
        self.trace: list[tuple[Operation, str]] = []
        self._folders: dict[str, _Folder] = {}
        self._faults: list[_Fault] = []
        self._generation = 0
        self._power_left: int | None = None
        self._dark = False

    # --- faults -----------------------------------------------------------------------------------------------------

    def fail(
        self, operation: Operation, number: int = errno.EIO, *, name: str = "", skip: int = 0, times: int = 1
    ) -> None:
        """The next ``times`` such operations on files whose path contains ``name`` fail, after ``skip`` that do not.

        A failing pwrite writes half of its bytes; a failing fdatasync loses what it covered.
        """
        self._faults.append(_Fault(operation, number, name, skip, times))

    def heal(self) -> None:
        """No more injected faults, no slowness."""
        self._faults.clear()
        self.write_s = self.sync_s = 0.0

    def slow(self, *, write_s: float = 0.0, sync_s: float = 0.0) -> None:
        """Every write and sync adds so much to ``busy_s``."""
        self.write_s, self.sync_s = write_s, sync_s

    def take_busy_s(self) -> float:
        busy_s, self.busy_s = self.busy_s, 0.0
        return busy_s

    def lose_power_after(self, operations: int) -> None:
        """The changing operation after the next ``operations`` ones raises PowerLost, and so does everything until ``crash``."""
        self._power_left = operations

    @property
    def dark(self) -> bool:
        """The power is gone: nothing works until ``crash`` or ``kill``."""
        return self._dark

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For whoever looks at the files from outside: what is in the cache is seen although the power is gone."""
        dark, self._dark = self._dark, False
        try:
            yield
        finally:
            self._dark = dark

    def kill(self) -> None:
        """The process dies: its open files are gone, what it wrote is in the cache."""
        self._generation += 1
        self._power_left = None
        self._dark = False

    def crash(self, rng: random.Random) -> None:
        """The power goes and comes back: unsynced changes survive as far as ``rng`` decides."""
        self._generation += 1
        self._power_left = None
        self._dark = False
        for _, folder in sorted(self._folders.items()):
            for change in folder.pending[: rng.randint(0, len(folder.pending))]:
                _rename(folder.durable, change.names)
            folder.pending.clear()
            folder.cached = dict(folder.durable)
        seen: set[int] = set()
        for _, folder in sorted(self._folders.items()):
            for _, inode in sorted(folder.cached.items()):
                if id(inode) not in seen:
                    seen.add(id(inode))
                    _forget(inode, rng)

    def damage(self, path: Path, change: Callable[[bytearray], None]) -> None:
        """Bytes of a file change under everybody, durably."""
        inode = self._inode(path)
        change(inode.cached)
        inode.durable[:] = inode.cached
        inode.altered_at = 0
        inode.pending.clear()

    def has_file(self, path: Path) -> bool:
        folder, name = _split(path)
        return folder in self._folders and name in self._folders[folder].cached

    def has_folder(self, path: Path) -> bool:
        return str(path) in self._folders

    def content(self, path: Path) -> bytes:
        return bytes(self._inode(path).cached)

    def durable(self, directory: Path) -> dict[str, _Inode]:
        """The names in a folder, as they would be left now, were the power lost."""
        folder = self._folders.get(str(directory))
        return folder.durable if folder is not None else {}

    def used_bytes(self) -> int:
        inodes = {id(inode): inode for folder in self._folders.values() for inode in folder.cached.values()}
        return sum(len(inode.cached) for inode in inodes.values())

    # --- FileSystem -------------------------------------------------------------------------------------------------

    def makedirs(self, directory: Path) -> None:
        if self._dark:
            raise PowerLost
        self._folders.setdefault(str(directory), _Folder())

    def listdir(self, directory: Path) -> list[str]:
        if self._dark:
            raise PowerLost
        return sorted(self._folder(directory).cached)

    def create(self, path: Path) -> File:
        after = self._begin("create", path)
        directory, name = _split(path)
        folder = self._folder(directory)
        if name in folder.cached:
            folder.cached[name].change(_Change(0, None))
        else:
            folder.change({name: _Inode()})
        after()
        return SimulatedFile(self, path, folder.cached[name], self._generation)

    def open(self, path: Path) -> File:
        self._begin("open", path)
        return SimulatedFile(self, path, self._inode(path), self._generation)

    def rename(self, source: Path, target: Path) -> None:
        (directory, before), (other, name) = _split(source), _split(target)
        assert directory == other, "renames stay within their folder"
        after = self._begin("rename", target)
        inode = self._inode(source)
        self._folder(directory).change({before: None, name: inode})
        after()

    def unlink(self, path: Path) -> None:
        after = self._begin("unlink", path)
        self._inode(path)
        directory, name = _split(path)
        self._folder(directory).change({name: None})
        after()

    def fsync_dir(self, directory: Path) -> None:
        after = self._begin("fsync_dir", directory)
        folder = self._folder(directory)
        self.busy_s += self.sync_s
        folder.durable = dict(folder.cached)
        folder.pending.clear()
        after()

    def free_bytes(self, directory: Path) -> int:
        if self.capacity_bytes == 1 << 40:
            return self.capacity_bytes
        return max(0, self.capacity_bytes - self.used_bytes())  # the half of a write that failed may be over

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin(self, operation: Operation, path: Path, on_fault: Callable[[], None] = _nothing) -> Callable[[], None]:
        """Raises what is to go wrong.  The caller carries the operation out, then calls the result, which may lose the power."""
        if self._dark:
            raise PowerLost
        self.trace.append((operation, str(path).rpartition("/")[2]))
        for fault in self._faults:
            if fault.operation == operation and fault.name in str(path) and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                on_fault()
                raise OSError(fault.errno, os.strerror(fault.errno), str(path))
        if operation not in CHANGES:
            return _nothing
        self.operations += 1
        if self._power_left is None:
            return _nothing
        self._power_left -= 1
        if self._power_left >= 0:
            return _nothing
        self._dark = True
        if operation in ("fdatasync", "fsync_dir"):
            raise PowerLost
        return self._go_dark

    def _go_dark(self) -> None:
        raise PowerLost

    def _folder(self, directory: Path | str) -> _Folder:
        try:
            return self._folders[str(directory)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory)) from None

    def _inode(self, path: Path) -> _Inode:
        directory, name = _split(path)
        try:
            return self._folder(directory).cached[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None


class SimulatedFile:
    """A file opened before a crash or kill is dead: every call is EBADF."""

    def __init__(self, disk: SimulatedDisk, path: Path, inode: _Inode, generation: int) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._generation = generation
        self._closed = False

    def size(self) -> int:
        self._check()
        return len(self._inode.cached)

    def pread(self, length: int, offset: int) -> bytes:
        self._check()
        self._disk._begin("pread", self._path)
        return bytes(self._inode.cached[offset : offset + length])

    def pwrite(self, buffers: Sequence[bytes], offset: int) -> None:
        self._check()
        content = b"".join(buffers)
        disk = self._disk
        disk.busy_s += disk.write_s
        half = content[: len(content) // 2]
        after = disk._begin("pwrite", self._path, lambda: self._inode.change(_Change(offset, half)))
        room = disk.capacity_bytes - disk.used_bytes() if disk.capacity_bytes < 1 << 40 else len(content)
        if max(0, offset + len(content) - len(self._inode.cached)) > room:
            fits = max(0, len(self._inode.cached) + room - offset)
            self._inode.change(_Change(offset, content[:fits]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._inode.change(_Change(offset, content))
        after()

    def truncate(self, size: int) -> None:
        self._check()
        after = self._disk._begin("truncate", self._path)
        self._inode.change(_Change(size, None))
        after()

    def fdatasync(self) -> None:
        self._check()
        disk, inode = self._disk, self._inode
        disk.busy_s += disk.sync_s
        disk._begin("fdatasync", self._path, inode.pending.clear)
        for change in inode.pending:
            inode.settle(change)
        inode.pending.clear()

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._disk._dark:
            raise PowerLost
        if self._closed or self._generation != self._disk._generation:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))


def _forget(inode: _Inode, rng: random.Random) -> None:
    survivors = rng.randint(0, len(inode.pending))
    for change in inode.pending[:survivors]:
        inode.settle(change)
    torn = inode.pending[survivors : survivors + 1]
    if torn and torn[0].content and rng.random() < 0.75:
        inode.altered_at = min(inode.altered_at, torn[0].offset)
        _tear(inode.durable, torn[0].offset, torn[0].content, rng)
    inode.pending.clear()
    inode.cached = bytearray(inode.durable)


def _tear(target: bytearray, offset: int, content: bytes, rng: random.Random) -> None:
    """What reaches ``target`` of a write that was under way."""
    size = len(content)
    kept = rng.randint(0, size)
    match rng.choice(("beginning", "zeros", "garbage", "sectors")):
        case "beginning":
            _Change(offset, content[:kept]).apply(target)
        case "zeros":
            _Change(offset, content[:kept] + bytes(size - kept)).apply(target)
        case "garbage":
            _Change(offset, content[:kept] + rng.randbytes(size - kept)).apply(target)
        case _:
            at = 0
            while at < size:
                end = min(size, at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES)
                if rng.random() < 0.5:
                    _Change(offset + at, content[at:end]).apply(target)
                at = end
