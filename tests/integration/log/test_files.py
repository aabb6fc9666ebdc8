"""The log on the operating system's files."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog, TermFile
from stele.services import files as files_module
from stele.services.errors import DiskFull, StorageFailed
from stele.services.files import OsFileSystem
from tests.unit.log.logs import entries, entry, everything


def test_a_log_with_default_settings(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "groups" / "7")
    log.append(entries(1, 1000, size=1000))
    log.sync()
    log.truncate_from(501)
    log.append(entries(501, 600, term=2))
    log.close()
    again = SegmentLog(tmp_path / "groups" / "7")
    assert everything(again) == entries(1, 500, size=1000) + entries(501, 600, term=2)
    again.close()


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        log = SegmentLog(tmp_path, segment_bytes=2000, disk_reserve_bytes=0)
        for start in range(log.last_index + 1, log.last_index + 200, 10):
            log.append(entries(start, start + 9))
        everything(log)
        log.truncate_from(log.last_index - 50)
        log.drop_before(log.last_index - 100)
        assert len(os.listdir("/proc/self/fd")) <= before + 5
        log.close()
        terms = TermFile(tmp_path)
        terms.store(1, 1)
        terms.load()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write fewer bytes than asked."""
    log = SegmentLog(tmp_path)
    real_pwritev, real_pwrite = os.pwritev, os.pwrite
    monkeypatch.setattr(
        files_module.os, "pwritev", lambda fd, buffers, at: real_pwrite(fd, b"".join(buffers)[:100], at)
    )
    monkeypatch.setattr(files_module.os, "pwrite", lambda fd, content, at: real_pwrite(fd, bytes(content)[:333], at))
    log.append([entry(1, size=50_000), entry(2, size=10)])
    monkeypatch.setattr(files_module.os, "pwritev", real_pwritev)
    log.append([entry(3, size=20_000)])
    assert everything(log) == [entry(1, size=50_000), entry(2, size=10), entry(3, size=20_000)]
    log.close()


def test_a_missing_file_system_reserve_is_a_full_disk(tmp_path: Path) -> None:
    free = OsFileSystem().free_bytes(tmp_path)
    log = SegmentLog(tmp_path, disk_reserve_bytes=free * 2)
    with pytest.raises(DiskFull):
        log.append(entries(1, 5))
    assert log.last_index == 0
    log.close()


FILE_LIMIT = """
import errno, resource, signal, sys
from pathlib import Path
from stele.datanode.log import SegmentLog
from stele.services.errors import StorageFailed
from tests.unit.log.logs import entries
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = SegmentLog(Path(sys.argv[1]), disk_reserve_bytes=0)
log.append(entries(1, 100, size=100))
log.sync()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    log.append(entries(101, 200, size=100))
except StorageFailed as e:
    print("failed", e.facts["errno"])
"""


def test_a_write_that_fails_half_way_is_final_and_what_was_synced_stays(tmp_path: Path) -> None:
    """A real partial write: the process may not make files longer than 20,000 bytes."""
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1:] == [f"failed {errno.EFBIG}"], done.stderr
    found = everything(SegmentLog(tmp_path))
    assert len(found) >= 100
    assert found == entries(1, len(found), size=100)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; on a machine that lets us mount none, a folder with a limit that the log keeps itself."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = (
        shutil.which("mount") and subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    )
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def fill(log: SegmentLog) -> int:
    for last in range(log.last_index, 1_000_000, 10):
        try:
            log.append(entries(last + 1, last + 10, size=500))
        except DiskFull:
            return last
        log.sync()
    raise AssertionError("the disk took everything")


class Unsuspecting(OsFileSystem):
    """Finds out that a disk is full when a write fails."""

    def free_bytes(self, directory: Path) -> int:
        return 1 << 40


def test_a_really_full_disk(small_disk: Path) -> None:
    free = shutil.disk_usage(small_disk).free
    reserve = 0 if free <= 256 * 1024 else free - 256 * 1024
    fs = OsFileSystem() if reserve else Unsuspecting()
    log = SegmentLog(small_disk, fs, segment_bytes=64 * 1024, disk_reserve_bytes=reserve)
    terms = TermFile(small_disk)
    terms.store(1, 1)
    last = fill(log)
    assert 200 < last < 600
    assert fill(log) == last
    assert everything(log) == entries(1, last, size=500)
    if reserve == 0:
        with pytest.raises(DiskFull):
            store_terms(terms)
        assert terms.load()[0] >= 1
    log.drop_before(last // 2)
    log.append(entries(log.last_index + 1, log.last_index + 10, size=500))
    log.sync()
    log.close()
    again = SegmentLog(small_disk)
    assert len(everything(again)) > last // 3
    again.close()


def store_terms(terms: TermFile) -> None:
    """Until it fails: beside each a file that takes a page."""
    for term in range(2, 1000):
        with suppress(OSError):
            (terms._directory / f"ballast{term}").write_bytes(bytes(4096))
        terms.store(term, 1)


def test_a_folder_that_vanished_is_a_failure_and_is_not_made_again(tmp_path: Path) -> None:
    """R3.7: nothing writes into a directory that was deleted."""
    folder = tmp_path / "group"
    log = SegmentLog(folder, segment_bytes=1000, disk_reserve_bytes=0)
    terms = TermFile(folder)
    log.append(entries(1, 10))
    shutil.rmtree(folder)
    with pytest.raises(StorageFailed) as failed:
        terms.store(1, 1)
    assert failed.value.facts["errno"] == str(errno.ENOENT)
    with pytest.raises(StorageFailed):
        log.append(entries(11, 20))
    assert not folder.exists()
    log.close()


def test_the_open_file_limit_is_a_failure_of_the_read_only(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=1000, disk_reserve_bytes=0)
    for start in range(1, 100, 10):
        log.append(entries(start, start + 9))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
    try:
        with pytest.raises(StorageFailed):
            log.read(1, 10, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert everything(log) == entries(1, 100)
    log.close()
