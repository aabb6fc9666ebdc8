"""Entries and logs that the tests of stele.datanode.log share."""

from __future__ import annotations

from pathlib import Path

from stele.datanode.log import SegmentLog
from stele.services.files import FileSystem
from stele.services.raft.storage import Entry

FOLDER = Path("/groups/1")


def entry(index: int, term: int = 1, size: int = 40, kind: int = 0) -> Entry:
    """The entry of that index and term: every test can tell its right content."""
    text = f"{index}/{term}:".encode()
    return Entry(index, term, kind, (text * (size // len(text) + 1))[:size])


def entries(first: int, last: int, term: int = 1, size: int = 40) -> list[Entry]:
    return [entry(index, term, size) for index in range(first, last + 1)]


def open_log(
    fs: FileSystem, segment_bytes: int = 4096, log_type: type[SegmentLog] = SegmentLog, reserve: int = 0
) -> SegmentLog:
    seeds = iter(range(1, 1 << 31))
    return log_type(
        FOLDER, fs, segment_bytes, disk_reserve_bytes=reserve, new_seed=lambda: next(seeds) * 2654435761 % 2**32
    )


def everything(log: SegmentLog) -> list[Entry]:
    """All entries, each checked; the log's own account agrees."""
    log.validate()
    found: list[Entry] = []
    while len(found) <= log.last_index - log.first_index:
        found += log.read(log.first_index + len(found), log.last_index, 1 << 40)
    assert [e.index for e in found] == list(range(log.first_index, log.last_index + 1))
    for e in found:
        assert log.term_at(e.index) == e.term
    return found
