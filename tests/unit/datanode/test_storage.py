"""A group's folder refuses what its files contradict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog, TermFile
from stele.datanode.storage import Lock, lock_group, opener
from stele.services.directory_lock import DirectoryLock
from stele.services.errors import GroupDirectoryBusy, LogDamaged, StorageFailed
from stele.services.raft.storage import Entry
from tests.support.both_ways import holds_and_mutant_fails, promise

open_group = opener(1 << 20, 0)


def test_a_new_folder_opens_empty(tmp_path: Path) -> None:
    storage = open_group(tmp_path)
    assert storage.log.last_index == 0
    assert storage.terms.load() == (0, 0)
    storage.close()


def test_r3_5_a_second_opener_is_refused(tmp_path: Path) -> None:
    storage = open_group(tmp_path)
    with pytest.raises(GroupDirectoryBusy):
        open_group(tmp_path)
    storage.close()
    open_group(tmp_path).close()


@pytest.mark.parametrize("becomes", ["gone", "empty", "a copy"])
async def test_r3_8_what_is_synced_is_where_the_folders_path_leads(tmp_path: Path, becomes: str) -> None:
    """The files that are open go on to exist, and nobody would find what is written to them."""

    async def scenario(lock: Callable[[Path], Lock]) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "7"
        folder.mkdir(parents=True)
        storage = opener(1 << 20, 0, lock=lock)(folder)
        try:
            storage.terms.store(1, 1)
            storage.log.append([Entry(1, 1, 0, b"a")])
            storage.log.sync()
            if becomes == "a copy":
                shutil.copytree(folder, folder.with_name("copy"))
            folder.rename(folder.with_name("away"))
            if becomes == "empty":
                folder.mkdir()
            elif becomes == "a copy":
                folder.with_name("copy").rename(folder)
            storage.log.append([Entry(2, 1, 0, b"b")])
            with promise("what is synced is where the folder's path leads"):
                with pytest.raises(StorageFailed):
                    storage.log.sync()
                with pytest.raises(StorageFailed):
                    storage.terms.store(2, 1)
                assert TermFile(folder.with_name("away")).load() == (1, 1)
                if becomes == "a copy":
                    assert TermFile(folder).load() == (1, 1)
        finally:
            with suppress(StorageFailed):
                storage.close()

    def without_a_look(kind: type[DirectoryLock]) -> Callable[[Path], Lock]:
        return lambda folder: kind(folder, GroupDirectoryBusy)

    await holds_and_mutant_fails(scenario, lock_group, "groups.LooksAtNoPath", without_a_look)


def test_h7_a_log_ahead_of_its_term_file_is_refused(tmp_path: Path) -> None:
    """The term file is written first: if it is behind, a vote may have been forgotten."""
    log = SegmentLog(tmp_path)
    log.append([Entry(1, 0, 1, b""), Entry(2, 7, 1, b"")])
    log.sync()
    log.close()
    TermFile(tmp_path).store(6, 0)
    with pytest.raises(LogDamaged):
        open_group(tmp_path)
    TermFile(tmp_path).store(7, 0)
    open_group(tmp_path).close()


def test_a_log_without_its_beginning_is_refused(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=4096)
    for index in range(1, 40):
        log.append([Entry(index, 0, 0, b"x" * 1000)])
    log.sync()
    assert log.segment_count > 2
    log.drop_before(log.last_index)
    log.close()
    with pytest.raises(LogDamaged):
        open_group(tmp_path)
