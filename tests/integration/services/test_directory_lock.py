"""R3.5: a directory has one opener, in whatever process; a dead one locks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stele.services.directory_lock import DirectoryLock
from stele.services.errors import DirectoryBusy, GroupDirectoryBusy
from tests.support.both_ways import holds_and_mutant_fails, promise

HOLD = """
import sys, time
from pathlib import Path
from stele.services.directory_lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


async def test_r3_5_a_second_opener_in_the_same_process_is_refused(tmp_path: Path) -> None:
    async def scenario(lock_type: Callable[..., Any]) -> None:
        lock = lock_type(tmp_path, GroupDirectoryBusy)
        try:
            with promise("a directory is opened once"), pytest.raises(GroupDirectoryBusy) as busy:
                lock_type(tmp_path, GroupDirectoryBusy)
            assert busy.value.facts == {"path": str(tmp_path), "owner": str(os.getpid())}
        finally:
            lock.release()
        lock_type(tmp_path, GroupDirectoryBusy).release()

    await holds_and_mutant_fails(scenario, DirectoryLock, "groups.PidFile")


def test_r3_5_a_second_process_is_refused_and_told_the_owner(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        with pytest.raises(DirectoryBusy) as busy:
            DirectoryLock(tmp_path)
        assert busy.value.facts["owner"] == str(other.pid)
        assert str(other.pid) in str(busy.value)
    DirectoryLock(tmp_path).release()


def test_r3_5_a_killed_owner_locks_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(30)
        assert (tmp_path / "lock").exists()
        with DirectoryLock(tmp_path), pytest.raises(DirectoryBusy) as busy:
            DirectoryLock(tmp_path)
        assert busy.value.facts["owner"] == str(os.getpid())


def test_r3_5_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
    )
    try:
        lock.release()
        DirectoryLock(tmp_path).release()
    finally:
        child.kill()
        child.communicate(timeout=30)


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    first.release()
    with DirectoryLock(tmp_path):
        first.release()
        with pytest.raises(DirectoryBusy):
            DirectoryLock(tmp_path)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DirectoryLock(tmp_path / "gone")
