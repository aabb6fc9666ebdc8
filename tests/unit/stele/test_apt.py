"""Installing packages where somebody else does the same, and where it cannot be done: a fake apt-get on the PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stele.local import apt, zookeeper
from stele.services.errors import ToolMissing

HELD = "It is held by process 77 (unattended-upgr)"


class FakeApt:
    """An apt-get that answers as it is told, call by call, and notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.script("apt-get", f'echo "$@" >>{folder}/calls\nif [ -s {folder}/answers ]; then . {folder}/answers; fi')
        self.script("sudo", '[ "$1" = -n ] && shift\nexec "$@"')

    def script(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / name).chmod(0o755)

    def answers(self, body: str) -> None:
        """Shell code that runs at each call; ``$*`` are the arguments."""
        (self.folder / "answers").write_text(body)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    made = FakeApt(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(apt, "POLL_S", 0.01)
    return made


def test_it_asks_apt_to_wait_for_the_lock(fake: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    assert apt.install(["zookeeper", "jre"], ["--no-install-recommends"]) == ""
    update, install = fake.calls
    assert "-o DPkg::Lock::Timeout=600 update" in update
    assert install.endswith("install -y --no-install-recommends zookeeper jre")
    assert "-o DPkg::Lock::Timeout=" in install
    assert "waiting" not in capsys.readouterr().err


def test_while_apt_waits_it_is_told_once(fake: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = f"echo 'Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. {HELD}...'"
    fake.answers(f'case "$*" in *install*) {waiting}; {waiting}; {waiting};; esac')
    assert apt.install(["zookeeper"]) == ""
    said = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert said == [
        "waiting for the package manager's lock, which process 77 (unattended-upgr) holds; for up to 600 s",
    ]


def test_the_lock_that_apt_does_not_wait_for_is_waited_for(fake: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers(
        f"""[ "$(wc -l <{fake.folder}/calls)" -gt 3 ] || {{
          echo 'E: Could not get lock /var/lib/apt/lists/lock. {HELD}' >&2
          echo 'E: Unable to lock directory /var/lib/apt/lists/' >&2
          exit 100
        }}"""
    )
    assert apt.install(["zookeeper"]) == ""
    assert [call.split()[3] for call in fake.calls] == ["update"] * 4 + ["install"]
    assert capsys.readouterr().err.count("waiting for the package manager's lock, which process 77") == 1


def test_a_lock_that_is_never_given_up_ends_the_wait(fake: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "LOCK_TIMEOUT_S", 0)
    fake.answers(f"echo 'E: Could not get lock /lists/lock. {HELD}' >&2; echo 'E: Unable to lock it' >&2; exit 100")
    assert apt.install(["zookeeper"]).startswith(f"E: Could not get lock /lists/lock. {HELD}")
    assert len(fake.calls) == 2


def test_a_list_that_cannot_be_refreshed_is_no_failure_of_its_own(fake: FakeApt) -> None:
    fake.answers('case "$*" in *update*) echo "E: Failed to fetch http://x" >&2; exit 100;; esac')
    assert apt.install(["zookeeper"]) == ""


def test_why_zookeeper_cannot_be_installed_is_what_apt_said(fake: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zookeeper, "find_jvm", lambda env: None)
    monkeypatch.setattr(zookeeper, "find_container", lambda: None)
    fake.answers(
        'case "$*" in *install*) echo Reading; echo "E: Unable to locate package zookeeper" >&2; exit 100;; esac'
    )
    with pytest.raises(ToolMissing) as missing:
        zookeeper.ensure_local({})
    assert str(missing.value).startswith(
        "ZooKeeper could not be installed: E: Unable to locate package zookeeper. By hand: "
    )
    assert "\n" not in str(missing.value)
    fake.answers('echo "E: $4 failed" >&2; exit 100')
    with pytest.raises(
        ToolMissing, match=r"installed: E: install failed \(and apt-get update: E: update failed\)\. By hand"
    ):
        zookeeper.ensure_local({})


def test_where_nothing_installs_the_line_says_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(zookeeper, "find_jvm", lambda env: None)
    with pytest.raises(ToolMissing, match="could not be installed: this system has none of apt-get, dnf and brew"):
        zookeeper.ensure_local({})


def test_it_runs_before_anything_is_installed(fake: FakeApt) -> None:
    fake.answers('case "$*" in *install*) echo "E: no" >&2; exit 100;; esac')
    ran = subprocess.run(
        [sys.executable, "-S", "-E", str(apt.__file__), "--no-install-recommends", "make"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, "error: E: no")
    assert fake.calls[-1].endswith("install -y --no-install-recommends make")
