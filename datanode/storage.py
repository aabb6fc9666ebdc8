"""A group's folder, opened: lock, log, snapshots, term and vote.

Guarantee: what ``opener`` opens is one history: the newest snapshot, if there is one, and the log behind it, under a term that is not
older than either (H7, H10).  What a crash interrupted is finished; damage is LogDamaged, and stays where it is.  It writes only while the
folder is the one that was opened (in_place.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from stele.datanode.in_place import FilesInPlace, Synced
from stele.datanode.log import SegmentLog, SnapshotFiles, TermFile, check_term
from stele.datanode.log.reached import ReachedFile
from stele.datanode.log.segments import base_of
from stele.datanode.log.start_point import StartPoint, decide
from stele.services.directory_lock import DirectoryLock
from stele.services.errors import GroupDirectoryBusy, LogDamaged, StorageFailed
from stele.services.files import OS_FILES, FileSystem
from stele.services.raft.storage import LogStorage, SnapshotStorage, TermStorage

RECOVERING_NAME = "recovering"

log = structlog.get_logger()


class Lock(Protocol):
    """What keeps a folder for one opener."""

    def check_in_place(self) -> None:
        """OSError where the folder's path leads to another one by now, or nowhere."""
        ...

    def release(self) -> None: ...


def lock_group(folder: Path) -> Lock:
    """The lock of the operating system.  GroupDirectoryBusy."""
    return DirectoryLock(folder, GroupDirectoryBusy)


@dataclass(slots=True)
class GroupStorage:
    """What a replica writes to, under the folder's exclusive lock (R3.5)."""

    log: LogStorage
    terms: TermStorage
    snapshots: SnapshotStorage
    recovering: bool
    _reached: ReachedFile
    _folder: Path
    _files: FileSystem
    _close: Callable[[], None]

    def note_synced(self) -> None:
        """Writes down, from any thread and without a sync, how far the log is synced."""
        self._reached.note()

    def lost(self) -> None:
        """The log lacks what it had promised; durable when this returns."""
        try:
            self._files.create(self._folder / RECOVERING_NAME).close()
            self._files.fsync_dir(self._folder)
        except OSError as e:
            raise StorageFailed(f"{self._folder}: {e.strerror or e}", path=self._folder, errno=e.errno) from e
        self.recovering = True

    def recovered(self) -> None:
        """The log is whole again; durable when this returns."""
        try:
            self._reached.forget_lost()
            with suppress(FileNotFoundError):
                self._files.unlink(self._folder / RECOVERING_NAME)
            self._files.fsync_dir(self._folder)
        except OSError as e:
            raise StorageFailed(f"{self._folder}: {e.strerror or e}", path=self._folder, errno=e.errno) from e
        self.recovering = False

    def close(self) -> None:
        self.note_synced()
        self._close()


def opener(
    segment_bytes: int,
    disk_reserve_bytes: int,
    fs: FileSystem | None = None,
    lock: Callable[[Path], Lock] = lock_group,
    synced: Synced = lambda took_s: None,
) -> Callable[[Path], GroupStorage]:
    """For the Raft registry: opens a folder, recovering its log.  GroupDirectoryBusy, LogDamaged, StorageFailed,
    DiskFull.  ``lock`` is replaced only where ``fs`` is no file system that two processes could share."""
    files_of_the_system = fs or OS_FILES

    def open_group(folder: Path) -> GroupStorage:
        held = lock(folder)
        try:
            return _open(folder, held)
        except BaseException:
            held.release()
            raise

    def _open(folder: Path, held: Lock) -> GroupStorage:
        files = FilesInPlace(files_of_the_system, held.check_in_place, synced)
        terms = TermFile(folder, files)
        term, _ = terms.load()
        names = files.listdir(folder)
        recovering = RECOVERING_NAME in names
        if term and not recovering and not any(base_of(name) is not None for name in names):
            # The log is made before the first term is stored: an empty one in its place would deny what it stood for.
            raise LogDamaged(f"{folder}: the log is gone", path=folder, offset=0)
        snapshots = SnapshotFiles(folder, files, disk_reserve_bytes)
        entries = SegmentLog(folder, files, segment_bytes, disk_reserve_bytes)

        def close() -> None:
            try:
                entries.close()
                snapshots.close()
            finally:
                held.release()

        try:
            _settle(folder, term, entries, snapshots)
            storage = GroupStorage(entries, terms, snapshots, recovering, entries.reached, folder, files, close)
            if entries.reached.is_ahead and not recovering:
                log.error("log_tail_lost", path=str(folder), last_index=entries.last_index)
                storage.lost()  # BEFORE it is filled up again: half filled, it would look whole to the next opening
        except BaseException:
            entries.close()
            raise
        return storage

    return open_group


def _settle(folder: Path, term: int, entries: SegmentLog, snapshots: SnapshotFiles) -> None:
    """What the files cannot tell one by one: term, snapshots and log are one history.  What a crash interrupted is finished."""
    start_point, damaged = _whole_start_point(folder, entries, snapshots)
    start = start_point.snapshot
    check_term(folder, term, max(entries.term_at(entries.last_index), start.term if start else 0))
    if start is not None and start_point.finish_reset:
        log.info("install_finished", path=str(folder), index=start.index, term=start.term)
        entries.reset(start.index, start.term)
    for index in damaged:
        snapshots.set_aside(index)
    snapshots.drop(start_point.remove)


def _whole_start_point(folder: Path, entries: SegmentLog, snapshots: SnapshotFiles) -> tuple[StartPoint, set[int]]:
    """What to start from, its state checked BEFORE anything is done on its account; and which snapshots turned out damaged."""
    whole, damaged = list(snapshots.headers), set(snapshots.damaged)
    while True:
        start_point = decide(entries, whole, sorted(damaged), folder)
        if start_point.snapshot is None:
            return start_point, damaged
        index = start_point.snapshot.index
        try:
            snapshots.check(index)
        except LogDamaged as e:
            log.warning("snapshot_damaged", path=e.facts["path"], problem=str(e))
            damaged.add(index)
            whole = [header for header in whole if header.snapshot.index != index]
        else:
            return start_point, damaged
