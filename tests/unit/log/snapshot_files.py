"""Snapshots to write, transfer and look at again."""

from __future__ import annotations

from pathlib import Path

from stele.datanode.log import SnapshotFiles
from stele.datanode.log.snapshot_format import snapshot_name
from stele.services.files import FileSystem
from stele.services.raft.storage import Snapshot, SnapshotStorage
from tests.support.disks import SimulatedDisk
from tests.unit.log.groups import snapshot_of, state_of
from tests.unit.log.logs import FOLDER

A, B, C = snapshot_of(10), snapshot_of(20, 2), snapshot_of(30, 2, size=0)
PART = FOLDER / "incoming.part"


def path_of(snapshot: Snapshot) -> Path:
    return FOLDER / snapshot_name(snapshot.index)


def bytes_of(snapshot: Snapshot) -> bytes:
    return state_of(snapshot.index, snapshot.term, snapshot.size)


def files(disk: FileSystem, reserve: int = 0) -> SnapshotFiles:
    return SnapshotFiles(FOLDER, disk, reserve)


def written(*snapshots: Snapshot) -> SimulatedDisk:
    disk = SimulatedDisk()
    storage = files(disk)
    for snapshot in snapshots:
        storage.write(snapshot, bytes_of(snapshot))
    return disk


def stage(storage: SnapshotStorage, snapshot: Snapshot, until: int | None = None, chunk_bytes: int = 100) -> None:
    state = bytes_of(snapshot)[:until]
    while (at := storage.staged(snapshot)) < len(state):
        storage.stage(snapshot, at, state[at : at + chunk_bytes])
