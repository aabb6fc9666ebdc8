"""Snapshots and whole group folders that the tests of stele.datanode.log and stele.datanode.storage share."""

from __future__ import annotations

from pathlib import Path

from crc32c import crc32c

from stele.datanode.storage import GroupStorage, opener
from stele.services.files import FileSystem
from stele.services.raft.storage import Members, Snapshot
from tests.support.disks import SimulatedDisk
from tests.unit.log.logs import FOLDER

SEGMENT_BYTES = 1000


def state_of(index: int, term: int = 1, size: int = 700) -> bytes:
    """The state of that index and term: every test can tell its right content."""
    text = f"state {index}/{term}:".encode()
    return (text * (size // len(text) + 1))[:size]


def snapshot_of(index: int, term: int = 1, size: int = 700) -> Snapshot:
    state = state_of(index, term, size)
    members = Members((1, 2, 3 + index % 5), (9,) if index % 2 else ())
    return Snapshot(index, term, members, index * 10, 1_700_000_000_000 + index, size, crc32c(state))


class Unlocked:
    """The lock of a folder that only one process can reach."""

    def __init__(self, folder: Path) -> None:
        """Takes nothing."""

    def check_in_place(self) -> None:
        """Nobody else changes it."""

    def release(self) -> None:
        """Gives nothing back."""


def open_group(fs: FileSystem, segment_bytes: int = SEGMENT_BYTES) -> GroupStorage:
    return opener(segment_bytes, 0, fs, Unlocked)(FOLDER)


def stage_all(storage: GroupStorage, snapshot: Snapshot, chunk_bytes: int = 300) -> None:
    """The whole of ``snapshot`` as if it came from another store."""
    state = state_of(snapshot.index, snapshot.term, snapshot.size)
    snapshots = storage.snapshots
    while (at := snapshots.staged(snapshot)) < snapshot.size:
        snapshots.stage(snapshot, at, state[at : at + chunk_bytes])


def install(storage: GroupStorage, snapshot: Snapshot) -> None:
    """As a follower does it: checked, named, then the log is reset."""
    storage.snapshots.check_staged(snapshot)
    storage.snapshots.install_staged(snapshot)
    storage.log.reset(snapshot.index, snapshot.term)


def set_bytes(disk: SimulatedDisk, path: Path, at: int, content: bytes) -> None:
    def change(stored: bytearray) -> None:
        stored[at : at + len(content)] = content

    disk.damage(path, change)


def flip(disk: SimulatedDisk, path: Path, at: int, mask: int = 0x10) -> None:
    set_bytes(disk, path, at, bytes([disk.content(path)[at] ^ mask]))


def cut(disk: SimulatedDisk, path: Path, size: int) -> None:
    disk.damage(path, lambda content: content.__delitem__(slice(size, None)))
