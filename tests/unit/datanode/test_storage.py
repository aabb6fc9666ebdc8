"""A group's folder refuses what its files contradict."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog, TermFile
from stele.datanode.storage import opener
from stele.services.errors import GroupDirectoryBusy, LogDamaged
from stele.services.raft.storage import Entry

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
