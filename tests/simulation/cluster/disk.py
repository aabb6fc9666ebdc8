"""A store's whole disk: folders within folders on the simulated disk, and the paths by which the product reaches it.

Beyond tests/support/disks.py it models names of folders: a folder that was made, renamed or moved is durable after ``fsync_dir`` of the
folder that it is in, and a move between two folders happens in both or in neither.  What ``FileSystem.makedirs`` made is durable
at once, as it promises.

``volume.path`` is given to the product where it takes a ``Path``.  What the product asks of the operating system besides
(``os.rename``, ``shutil.rmtree``, locks, free space) is led here by the path's type, see ``_Os``; a use that is not led here fails,
since such a path is no path of this machine.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PosixPath
from types import ModuleType
from typing import Any

import stele.datanode.directory as directory_module
import stele.datanode.storage as storage_module
import stele.datanode.trash as trash_module
import stele.services.files as files_module
import stele.services.raft.registry as registry_module
from stele.datanode.role import Parts
from stele.services.directory_lock import LOCK_NAME, DirectoryLock
from stele.services.errors import DirectoryBusy
from stele.services.files import OS_FILES
from tests.support.disks import PowerLost, SimulatedDisk, _Folder, _forget, _Inode, _NameChange

ROOT = "/simulated"


class Volume(SimulatedDisk):
    """The disk of one machine.  ``read_only``: every change is EROFS."""

    def __init__(self, name: str = "disk", capacity_bytes: int = 1 << 40) -> None:
        super().__init__(capacity_bytes)
        self.read_only = False
        self._root = _Folder()
        self._found: dict[str, _Folder] = {}
        self._locks: dict[str, int] = {}
        self.leaves: Callable[[Path, Path | None], object] = lambda _path, _to: (
            None
        )  # a folder is moved, or removed (None)
        cls: type[VolumePath] = type("Path", (VolumePath,), {"volume": self})
        self.path: Path = cls(f"{ROOT}/{name}")
        self.makedirs(self.path)

    # --- what happens to it -------------------------------------------------------------------------------------------

    def lose(self, path: Path) -> None:
        """A folder or a file is gone, durably."""
        directory, name = _split(path)
        folder = self._folder(directory)
        folder.cached.pop(name, None)
        folder.durable.pop(name, None)
        for change in folder.pending:
            change.names.pop(name, None)
        self._found.clear()

    def backup(self) -> Any:
        """What is on it durably now, for ``bring_back``."""
        return _copied(self._root, {})

    def bring_back(self, backup: Any) -> None:
        """The volume as it was: everything since is gone.  No process may run on it."""
        self._root = _copied(backup, {})
        self._found.clear()

    def durable_files(self, path: Path) -> list[bytearray]:
        """What would be left now of all files in or below ``path``, were the power lost."""
        entry: Any = self._root
        for name in _names(str(path)):
            entry = entry.durable.get(name) if isinstance(entry, _Folder) else None
        found, pending = [], [entry]
        while pending:
            entry = pending.pop()
            if isinstance(entry, _Folder):
                pending += entry.durable.values()
            elif entry is not None:
                found.append(entry.durable)
        return found

    def crash(self, rng: random.Random) -> None:
        self._generation += 1
        self._power_left = None
        self._dark = False
        folders = list(_folders(self._root))
        kept = {id(folder): rng.randint(0, len(folder.pending)) for folder in folders}
        settled = False
        while not settled:  # a move is in both folders or in neither
            settled = True
            for folder in folders:
                for place, change in enumerate(folder.pending):
                    other = getattr(change, "other", None)
                    if other is None or id(other) not in kept:
                        continue
                    there = next((i for i, c in enumerate(other.pending) if c is change.twin), -1)
                    if there >= 0 and place >= kept[id(folder)] and there < kept[id(other)]:
                        kept[id(other)] = there
                        settled = False
        for folder in folders:
            for change in folder.pending[: kept[id(folder)]]:
                _apply(folder.durable, change)
            folder.pending.clear()
        self._found.clear()
        seen: set[int] = set()
        for folder in folders:
            folder.cached = dict(folder.durable)
        for folder in _folders(self._root):
            for _, inode in sorted(folder.cached.items()):
                if isinstance(inode, _Inode) and id(inode) not in seen:
                    seen.add(id(inode))
                    _forget(inode, rng)

    # --- names ----------------------------------------------------------------------------------------------------------

    def has_file(self, path: Path) -> bool:
        return isinstance(self._entry(path), _Inode)

    def has_folder(self, path: Path) -> bool:
        return isinstance(self._entry(path), _Folder)

    def used_bytes(self) -> int:
        inodes = {
            id(inode): len(inode.cached)
            for folder in _folders(self._root)
            for inode in folder.cached.values()
            if isinstance(inode, _Inode)
        }
        return sum(inodes.values())

    def makedirs(self, directory: Path) -> None:
        if self._dark:
            raise PowerLost
        folder = self._root
        for name in _names(str(directory)):
            entry = folder.cached.get(name)
            if entry is None:
                self._check_writable(directory)
                entry = folder.cached[name] = folder.durable[name] = _Folder()  # type: ignore[assignment]
            elif folder.durable.get(name) is not entry:
                folder.durable[name] = entry
            folder = entry  # type: ignore[assignment]

    def mkdir(self, path: Path, parents: bool, exist_ok: bool) -> None:
        entry = self._entry(path)
        if isinstance(entry, _Folder) and exist_ok:
            return
        if entry is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        directory, name = _split(path)
        if parents and not self.has_folder(path.parent):
            self.mkdir(path.parent, True, True)
        after = self._begin("create", path)
        self._folder(directory).change({name: _Folder()})  # type: ignore[dict-item]
        after()

    def rename(self, source: Path, target: Path) -> None:
        (directory, before), (other, name) = _split(source), _split(target)
        after = self._begin("rename", target)
        entry = self._entry(source)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        there = self._entry(target)
        if isinstance(there, _Folder) and there.cached:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        if isinstance(entry, _Folder):
            self.leaves(source, target)
        if directory == other:
            self._folder(directory).change({before: None, name: entry})
        else:
            self._move(self._folder(directory), before, self._folder(other), name, entry)
        self._found.clear()
        after()

    def rmtree(self, path: Path) -> None:
        self.leaves(path, None)
        for child in self.listdir(path):
            if self.has_folder(path / child):
                self.rmtree(path / child)
            else:
                self.unlink(path / child)
        after = self._begin("unlink", path)
        directory, name = _split(path)
        self._folder(directory).change({name: None})
        self._found.clear()
        after()

    def fsync_dir(self, directory: Path) -> None:
        after = self._begin("fsync_dir", directory)
        self.busy_s += self.sync_s
        self._commit(self._folder(directory))
        after()

    # --- the one process ------------------------------------------------------------------------------------------------

    def lock(self, path: Path, busy: type[DirectoryBusy]) -> None:
        """Held until it is released or its process ends."""
        if not self.has_folder(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if self._locks.get(str(path)) == self._generation:
            raise busy(f"{path} is in use by another process", path=path, owner="")
        if not self.has_file(path / LOCK_NAME):
            self.create(path / LOCK_NAME).close()
        self._locks[str(path)] = self._generation

    def unlock(self, path: Path, generation: int) -> None:
        if self._locks.get(str(path)) == generation:
            del self._locks[str(path)]

    @property
    def generation(self) -> int:
        """Counts its processes: what one of them held the next one does not."""
        return self._generation

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _begin(self, operation: Any, path: Path, *rest: Any) -> Callable[[], None]:
        if operation not in ("open", "pread"):
            self._check_writable(path)
        after = super()._begin(operation, path, *rest)
        self.trace.clear()  # of a whole cluster it would be long
        return after

    def _check_writable(self, path: Path) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def asked(self, operation: str, path: Path) -> None:
        """A look at a name: ``fail("listdir")`` and ``fail("stat")`` act on it."""
        if self._dark:
            raise PowerLost
        if self._faults:
            super()._begin(operation, path)  # type: ignore[arg-type]

    def listdir(self, directory: Path) -> list[str]:
        self.asked("listdir", directory)
        return self.names(directory)

    def names(self, directory: Path) -> list[str]:
        """As whoever stands beside the machine sees them: no fault acts on it."""
        return sorted(self._folder(directory).cached)

    def _move(self, source: _Folder, before: str, target: _Folder, name: str, entry: Any) -> None:
        out, into = _Move({before: None}, target), _Move({name: entry}, source)
        out.twin, into.twin = into, out
        source.cached.pop(before)
        target.cached[name] = entry
        source.pending.append(out)
        target.pending.append(into)

    def _commit(self, folder: _Folder, last: _NameChange | None = None) -> None:
        """The changes of names in ``folder``, up to ``last``, become durable, and with each move what came before it elsewhere."""
        while folder.pending:
            change = folder.pending.pop(0)
            _apply(folder.durable, change)
            if isinstance(change, _Move) and change.twin in change.other.pending:
                self._commit(change.other, change.twin)
            if change is last:
                return

    def _entry(self, path: Path) -> Any:
        if self._dark:
            raise PowerLost
        directory, name = _split(path)
        try:
            return self._folder(directory).cached.get(name)
        except FileNotFoundError:
            return None

    def _folder(self, directory: Path | str) -> _Folder:
        text = str(directory)
        folder = self._found.get(text)
        if folder is None:
            folder = self._root
            for name in _names(text):
                entry = folder.cached.get(name)
                if not isinstance(entry, _Folder):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
                folder = entry
            self._found[text] = folder
        return folder

    def _inode(self, path: Path) -> _Inode:
        entry = self._entry(path)
        if not isinstance(entry, _Inode):
            number = errno.ENOENT if entry is None else errno.EISDIR
            raise OSError(number, os.strerror(number), str(path))
        return entry


class _Move(_NameChange):
    """Half of a move from one folder to another."""

    def __init__(self, names: dict[str, Any], other: _Folder) -> None:
        super().__init__(names)
        self.other = other
        self.twin: _Move = self


def _apply(target: dict[str, Any], change: _NameChange) -> None:
    for name, entry in change.names.items():
        if entry is None:
            target.pop(name, None)
        else:
            target[name] = entry


def _folders(root: _Folder) -> Iterator[_Folder]:
    """Every folder that is, or would be after a crash, in a fixed order; each once."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        if id(folder) in seen:
            continue
        seen.add(id(folder))
        yield folder
        for entries in (folder.cached, folder.durable):
            pending += [entry for _, entry in sorted(entries.items()) if isinstance(entry, _Folder)]


def _copied(entry: Any, known: dict[int, Any]) -> Any:
    if id(entry) in known:
        return known[id(entry)]
    if isinstance(entry, _Inode):
        copy: Any = _Inode(bytearray(entry.durable), bytearray(entry.durable))
    else:
        names = {name: _copied(child, known) for name, child in entry.durable.items()}
        copy = _Folder(dict(names), dict(names))
    known[id(entry)] = copy
    return copy


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _split(path: Path) -> tuple[str, str]:
    folder, _, name = str(path).rpartition("/")
    return folder or "/", name


# --- paths --------------------------------------------------------------------------------------------------------------


class VolumePath(PosixPath):
    """A path on a ``Volume``; one class for each of them, so that what the product derives from a path stays there."""

    volume: Volume

    def __fspath__(self) -> str:
        raise AssertionError(f"{self} was given to the operating system")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self.volume.mkdir(self, parents, exist_ok)

    def exists(self) -> bool:
        return self._stat() is not None

    def is_dir(self) -> bool:
        return isinstance(self._stat(), _Folder)

    def is_file(self) -> bool:
        return isinstance(self._stat(), _Inode)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        entry = self._stat()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return entry

    def _stat(self) -> Any:
        self.volume.asked("stat", self)
        return self.volume._entry(self)

    def iterdir(self) -> Iterator[Path]:  # type: ignore[override]
        for name in self.volume.listdir(self):
            yield self / name

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        if not self.volume.has_file(self):
            self.volume.create(self).close()

    def read_bytes(self) -> bytes:
        file = self.volume.open(self)
        return file.pread(file.size(), 0)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode()

    def write_text(self, text: str, *_: Any, **__: Any) -> int:
        file = self.volume.create(self)
        file.pwrite([text.encode()], 0)
        return len(text)

    def rename(self, target: Any) -> Any:
        self.volume.rename(self, target)
        return target

    replace = rename

    def unlink(self, missing_ok: bool = False) -> None:
        if not (missing_ok and not self.volume.has_file(self)):
            self.volume.unlink(self)

    def rmdir(self) -> None:
        self.volume.rmtree(self)


class VolumeLock:
    """As a DirectoryLock, on a volume."""

    def __init__(self, directory: VolumePath, busy: type[DirectoryBusy] = DirectoryBusy, within_s: float = 0.0) -> None:
        self._path, self._volume = directory, directory.volume
        self._volume.lock(directory, busy)
        self._generation = self._volume.generation

    def check_in_place(self) -> None:
        """Nothing is put over a folder of a volume."""

    def release(self) -> None:
        self._volume.unlock(self._path, self._generation)


# --- what the product asks of the operating system --------------------------------------------------------------------


class _Led:
    """A module of the standard library, some of whose functions are led to a volume where they are given a path on one."""

    def __init__(self, module: ModuleType, led: dict[str, Callable[..., Any]]) -> None:
        self._module, self._led = module, led

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        led = self._led.get(name)
        if led is None:
            return real

        def call(path: Any, *rest: Any, **named: Any) -> Any:
            return led(path, *rest, **named) if isinstance(path, VolumePath) else real(path, *rest, **named)

        return call


class _Space:
    f_frsize = 1

    def __init__(self, free_bytes: int) -> None:
        self.f_bavail = free_bytes


def _rmtree(path: VolumePath, ignore_errors: bool = False) -> None:
    try:
        path.volume.rmtree(path)
    except OSError:
        if not ignore_errors:
            raise


_Os = _Led(
    os,
    {
        "rename": lambda source, target: source.volume.rename(source, target),
        "replace": lambda source, target: source.volume.rename(source, target),
        "listdir": lambda path: path.volume.listdir(path),
        "unlink": lambda path: path.volume.unlink(path),
        "statvfs": lambda path: _Space(path.volume.free_bytes(path)),
        "stat": lambda path: path.stat(),
        "lstat": lambda path: path.stat(),
        "mkdir": lambda path, mode=0o777: path.volume.mkdir(path, False, False),
    },
)
_Shutil = _Led(shutil, {"rmtree": _rmtree})


def _lock(directory: Path, *rest: Any, **named: Any) -> Any:
    kind = VolumeLock if isinstance(directory, VolumePath) else DirectoryLock
    return kind(directory, *rest, **named)


def _lead_here() -> None:
    for module in (directory_module, storage_module, registry_module, files_module, trash_module):
        for name, stand_in in (("os", _Os), ("shutil", _Shutil), ("DirectoryLock", _lock)):
            if hasattr(module, name):
                setattr(module, name, stand_in)
    for name in ("makedirs", "listdir", "create", "open", "unlink", "fsync_dir", "free_bytes", "rename"):
        setattr(OS_FILES, name, _led_file(name, getattr(OS_FILES, name)))


def _led_file(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Path, *rest: Path) -> Any:
        return getattr(path.volume, name)(path, *rest) if isinstance(path, VolumePath) else real(path, *rest)

    return call


_lead_here()


def datanode_parts(volume: Volume, rng: random.Random) -> Parts:
    """For a ``Datanode`` whose data directory is on ``volume``, whatever its configuration names."""
    return Parts(
        directory=lambda _path: directory_module.DataDirectory(volume.path),
        file_system=volume,
        free_bytes=lambda: volume.free_bytes(volume.path),
        rng=rng,
    )
