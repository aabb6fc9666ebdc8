"""A file that is replaced is the old one or the new one, whatever happens, and the new one once the call has returned."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from stele.services.files import ASIDE_SUFFIX, replace_file
from tests.support.disks import PowerLost, SimulatedDisk

FOLDER = Path("/place")
PATH = FOLDER / "state.json"


def disk_with(content: bytes) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.makedirs(FOLDER)
    replace_file(PATH, content, disk)
    return disk


def test_on_real_files(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_file(path, b"a longer first content")
    replace_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_what_a_crash_left_aside_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.with_name(path.name + ASIDE_SUFFIX).write_bytes(b"half of something that was longer")
    replace_file(path, b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("seed", range(100))
def test_power_loss_at_any_step_leaves_the_old_or_the_new_file(seed: int) -> None:
    rng = random.Random(seed)
    disk = disk_with(b"old")
    disk.lose_power_after(rng.randint(0, 6))
    try:
        replace_file(PATH, b"new content", disk)
    except PowerLost:
        allowed = {b"old", b"new content"}
    else:
        allowed = {b"new content"}
    disk.crash(rng)
    assert disk.content(PATH) in allowed


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
def test_a_full_disk_leaves_the_old_file(operation: str) -> None:
    disk = disk_with(b"old")
    disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="space") as refused:
        replace_file(PATH, b"new", disk)
    assert refused.value.errno == errno.ENOSPC
    assert disk.content(PATH) == b"old"


def test_a_full_disk_that_the_folders_sync_finds_is_no_full_disk() -> None:
    """The new file is in place: whoever is told of a full disk may believe that nothing was done."""
    disk = disk_with(b"old")
    disk.fail("fsync_dir", errno.ENOSPC)
    with pytest.raises(OSError, match="sync of the folder") as failed:
        replace_file(PATH, b"new", disk)
    assert failed.value.errno == errno.EIO
