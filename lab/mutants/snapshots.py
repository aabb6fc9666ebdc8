"""Snapshots that are written, named, believed or made room for in the wrong order (H8, H10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stele.datanode.log import SegmentLog, SnapshotFiles, TermFile, start_point
from stele.datanode.log.snapshot_format import HEADER_BYTES_MAX, SnapshotHeader, decode_header
from stele.datanode.storage import GroupStorage
from stele.services.files import FileSystem
from stele.services.raft.journal import Journal
from stele.services.raft.snapshotting import Snapshotting
from stele.services.raft.storage import LogStorage, OpenStorage, Snapshot


class NamesBeforeSyncing(SnapshotFiles):
    """A snapshot gets its name first and is synced afterwards, so that a crash in between leaves a name on nothing."""

    def write(self, snapshot: Snapshot, state: bytes) -> None:
        header = SnapshotHeader(snapshot, installed=False)
        path = self._path(snapshot.index)
        aside = path.with_name(path.name + ".new")
        file = self._fs.create(aside)
        file.pwrite([header.to_bytes(), state], 0)
        self._fs.rename(aside, path)
        self._fs.fsync_dir(self._directory)
        file.fdatasync()
        file.close()
        self._headers = tuple(sorted((*self._headers, header), key=lambda h: h.snapshot.index))


def drops_before_the_snapshot(storage: OpenStorage, snapshot: Snapshot, state: bytes) -> None:
    """Segments are dropped before the snapshot that covers them is durable."""
    storage.log.drop_before(snapshot.index + 1)
    storage.snapshots.write(snapshot, state)
    storage.snapshots.drop_before(snapshot.index)


def resets_before_installing(storage: OpenStorage, snapshot: Snapshot) -> None:
    """An install resets the log first and gives the snapshot its name afterwards: in between there is neither."""
    storage.snapshots.check_staged(snapshot)
    storage.log.reset(snapshot.index, snapshot.term)
    storage.snapshots.install_staged(snapshot)


class ResetsFirst(Journal):
    """The log is emptied before the snapshot that stands for it is durable."""

    def install(self, snapshot: Snapshot) -> None:
        super().install(snapshot)
        self._changes[-1], self._changes[-2] = self._changes[-2], self._changes[-1]


class AcceptsACutSnapshot(SnapshotFiles):
    """A snapshot's header is believed although the file is shorter than it says."""

    def _read_header(self, index: int) -> SnapshotHeader:
        path = self._path(index)
        file = self._fs.open(path)
        try:
            return decode_header(file.pread(HEADER_BYTES_MAX, 0), path)
        finally:
            file.close()


def resets_for_its_own(
    log: LogStorage, whole: Sequence[SnapshotHeader], damaged: Sequence[int], folder: Path
) -> start_point.StartPoint:
    """The log is reset behind a snapshot of the replica's own that is ahead of it, and its messages are gone."""
    return start_point.decide(log, [replace(header, installed=True) for header in whole], damaged, folder)


class SnapshotsBeforeTheSync(Snapshotting):
    """A snapshot is written although the entries that it stands for are not synced here: a majority of others has
    them, this log may lose them."""

    async def _until_synced(self, index: int) -> None:
        """Does not wait."""


def starts_without_its_beginning(fs: FileSystem, folder: Path, segment_bytes: int) -> GroupStorage:
    """A log that begins behind 1 is opened although no snapshot holds what was before."""
    log = SegmentLog(folder, fs, segment_bytes, disk_reserve_bytes=0)
    return GroupStorage(log, TermFile(folder, fs), SnapshotFiles(folder, fs), False, log.reached, folder, fs, log.close)
