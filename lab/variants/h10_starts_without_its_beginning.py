"""Wrong on purpose (H10): a log that begins behind 1 is opened although no snapshot holds what was before."""

from __future__ import annotations

from pathlib import Path

from stele.datanode.log import FileSystem, SegmentLog, SnapshotFiles, TermFile
from stele.datanode.storage import GroupStorage


def open_group(fs: FileSystem, folder: Path, segment_bytes: int) -> GroupStorage:
    log = SegmentLog(folder, fs, segment_bytes, disk_reserve_bytes=0)
    return GroupStorage(log, TermFile(folder, fs), SnapshotFiles(folder, fs), False, folder, fs, log.close)
