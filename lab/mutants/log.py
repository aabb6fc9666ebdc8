"""Logs, terms and disks that forget what they promised (H7, H8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stele.datanode.log import SegmentLog, SnapshotFiles, TermFile
from stele.datanode.log.mending import SegmentMending
from stele.datanode.log.reached import ReachedFile
from stele.datanode.log.recovery import recover, scan
from stele.datanode.log.segment_list import opened
from stele.datanode.log.segments import Segment, SegmentHeader
from stele.datanode.log.terms import encode
from stele.services.errors import LogDamaged, StorageFailed
from stele.services.files import File, FileSystem
from stele.services.raft.storage import Entry


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
    """A disk whose files are never waited for: what is written is durable whenever the system likes."""

    def create(self, path: Path) -> File:
        return _UnsyncedFile(super().create(path))

    def open(self, path: Path) -> File:
        return _UnsyncedFile(super().open(path))


class ForgetsToSyncFolders(_Passing):
    """A disk whose folders are never waited for: a file is durable, its name is not."""

    def fsync_dir(self, directory: Path) -> None:
        """Returns at once."""


class CountsTheCache(SegmentLog):
    """The entries that a restarted process finds count as durable without a sync of its own."""

    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = recover(file, active.header, active.path)
        if found.frames_end < active.file_bytes:
            file.truncate(found.frames_end)
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index


class CountsCachedNames(SegmentLog):
    """The names of segments that a restarted process finds count as durable without a sync of its own."""

    def _open(self) -> None:
        segments = self._segments
        fs, segments._fs = segments._fs, ForgetsToSyncFolders(segments._fs)
        try:
            super()._open()
        finally:
            segments._fs = fs


class CutsAtDamage(SegmentLog):
    """The first bad byte ends the log, whatever stands behind it and whoever was promised it."""

    def _recover(self, active: Segment) -> None:
        file = opened(active)
        found = scan(file, active.header, active.file_bytes)
        file.truncate(found.frames_end)
        file.fdatasync()
        active.frames_end = active.file_bytes = active.synced_end = found.frames_end
        active.last_index, active.last_term, active.index = found.last_index, found.last_term, found.index


class DamageIsNoVote(TermFile):
    """A damaged term and vote are read as "never voted"."""

    def load(self) -> tuple[int, int]:
        try:
            return super().load()
        except LogDamaged:
            return (0, 0)


class WritesInPlace(TermFile):
    """The file of term and vote is written in place."""

    def store(self, term: int, voted_for: int) -> None:
        file = self._fs.create(self._path)
        file.pwrite([encode(term, voted_for)], 0)
        file.fdatasync()
        file.close()
        self._fs.fsync_dir(self._directory)


class LeavesEntries(SegmentLog):
    """After a failed sync the entries stay in the system's cache, where a restarted process takes them for stored."""

    def _sync_file(self, segment: Segment, doing: str) -> None:
        try:
            opened(segment).fdatasync()
        except OSError as e:
            raise self._fail(doing, e) from e


class LeavesATransfer(SnapshotFiles):
    """After a failed sync the part of a snapshot that was received stays, and is taken for stored."""

    def _remove_part(self) -> None:
        """Nothing."""


class SyncsAgain(SegmentLog):
    """A sync that failed is tried again, and its success is believed."""

    def sync(self) -> None:
        try:
            super().sync()
        except StorageFailed:
            self._failed = None
            super().sync()


class RemovesBeforeNaming(SegmentLog):
    """A reset removes the old segments first and names the new one afterwards: in between there is no log at all."""

    def reset(self, index: int, term: int) -> None:
        for segment in reversed(self._segments.all):
            self._fs.unlink(segment.path)
            self._fs.fsync_dir(self._directory)
        new = self._segments.create(SegmentHeader(index + 1, self._new_seed(), previous_term=term))
        self._segments.all = [new]


class TruncatesOldestFirst(SegmentLog):
    """A truncation begins with the older bytes, so that a crash in between leaves a hole instead of a prefix."""

    def truncate_from(self, index: int) -> None:
        if index > self.last_index:
            return
        keep = self._segments.find(index)
        for segment in self._segments.all:
            if segment.base > keep.base:
                self._fs.unlink(segment.path)
                self._fs.fsync_dir(self._directory)
        self._segments.all = [segment for segment in self._segments.all if segment.base <= keep.base]
        super().truncate_from(index)


class CutsWithoutAWord(ReachedFile):
    """A log is cut on purpose, and the file beside it says as before how far it reached."""

    def cut(self, index: int) -> None:
        self._synced = min(self._synced, index)


class NeverLooksBack(ReachedFile):
    """A log is taken for whole wherever it ends."""

    @property
    def is_ahead(self) -> bool:
        return False


class MendsWithAnything(SegmentMending):
    """What takes the place of a damaged part of a log need not be what stood there."""

    def _check_next(self, entry: Entry) -> None: ...

    def _check_whole(self) -> None: ...
