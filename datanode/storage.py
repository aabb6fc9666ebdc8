"""A group's folder, opened: lock, log, term and vote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datanode.log import DirectoryLock, FileSystem, OsFileSystem, SegmentLog, TermFile, check_term
from services.errors import GroupDirectoryBusy, LogDamaged
from services.raft.storage import LogStorage, TermStorage

RECOVERING_NAME = "recovering"


@dataclass(slots=True)
class GroupStorage:
    """What a replica writes to, under the folder's exclusive lock (R3.5)."""

    log: LogStorage
    terms: TermStorage
    lock: DirectoryLock
    marker: Path  # there while the log comes back from the peers (R4.5)
    recovering: bool

    def recovered(self) -> None:
        """The log is whole again; durable when this returns."""
        self.marker.unlink(missing_ok=True)
        OsFileSystem().fsync_dir(self.marker.parent)

    def close(self) -> None:
        try:
            self.log.close()
        finally:
            self.lock.release()


def opener(
    segment_bytes: int, entry_bytes_max: int, disk_reserve_bytes: int, fs: FileSystem | None = None
) -> Callable[[Path], GroupStorage]:
    """For the Raft registry: opens a folder, recovering its log.  GroupDirectoryBusy, LogDamaged, StorageFailed,
    DiskFull."""
    files = fs or OsFileSystem()

    def open_group(folder: Path) -> GroupStorage:
        lock = DirectoryLock(folder, GroupDirectoryBusy)
        try:
            terms = TermFile(folder, files)
            term, _ = terms.load()
            log = SegmentLog(folder, files, segment_bytes, entry_bytes_max, disk_reserve_bytes)
            _check(folder, term, log)
        except BaseException:
            lock.release()
            raise
        marker = folder / RECOVERING_NAME
        return GroupStorage(log, terms, lock, marker, marker.exists())

    return open_group


def _check(folder: Path, term: int, log: SegmentLog) -> None:
    """What the files cannot tell one by one: the log is not ahead of the term file (H7), and its beginning is there."""
    try:
        check_term(folder, term, log.term_at(log.last_index))
        if log.first_index != 1:
            raise LogDamaged(f"the log in {folder} begins at entry {log.first_index}, not 1", path=folder, offset=0)
    except BaseException:
        log.close()
        raise
