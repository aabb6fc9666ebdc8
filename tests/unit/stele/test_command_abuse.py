"""The command as a user abuses it: every option and argument of every command, found by walking the tree.

What is wrong ends with status 2 (usage) or 1 (failure) and one line that says what, never with a traceback.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stele.cli import options
from stele.cli.main import app
from tests.support.command import ROOT, one_tree

__all__ = ["one_tree"]

WRONG = [
    "",
    "nan",
    "-1",
    "-inf",
    "9" * 30,
    "\udcff\udcfe",
    "\ud800\n[bold]" + "x" * 2_000,
]  # \udcff: a byte that is no UTF-8
ADDRESSES = [
    "h",
    "h:",
    ":1",
    "h:0",
    "h:65536",
    "[::1",
    "[::1]:x",
    "::1:1",
    "[]:1",
    "[::1]:1",
    "127.0.0.1:1,",
    ",",
    "http://h:1",
]
PLACES = [
    "a file",
    "a directory whose state is a directory",
    "a directory whose state is garbage",
    "nowhere/" * 500,
    "nul\0",
]
GOOD = {
    "namespace": "ns",
    "topic": "ns/t",
    "subscription": "s",
    "partition": "0",
    "name": "dn1",
    "names": "dn1",
    "count": "1",
    "store": "dn1",
    "group_id": "1",
    "file": "stele.json",
    "operation": "move-1",
    "bundle": "ns/00000000-0fffffff",
    "bundles": "ns/00000000-0fffffff",
    "broker": "br1",
    "what": "ns/t",
    "source": "dn1",
    "to": "earliest",
    "yes": None,
}


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def given(parameter: Any, value: str | None) -> list[str]:
    if parameter.param_type_name == "argument":
        return ["--", value] if value is not None else []
    longest = max(parameter.opts, key=len)
    return [longest] if value is None else [f"{longest}={value}"]


def wrongs(parameter: Any) -> list[str]:
    if getattr(parameter, "is_flag", False):
        return ["maybe"]  # a flag takes no value
    return [*WRONG, *{"server": ADDRESSES, "directory": PLACES}.get(parameter.name, [])]


CASES = [
    (path, command, parameter)
    for path, command in commands()
    for parameter in command.params
    if parameter.name != "help"
]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, and not for long."""
    monkeypatch.setattr(options, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(options, "TIMEOUT_MIN_S", 0.05)
    monkeypatch.chdir(tmp_path)
    Path(PLACES[0]).touch()
    (Path(PLACES[1]) / "cluster.json").mkdir(parents=True)
    Path(PLACES[2]).mkdir()
    (Path(PLACES[2]) / "cluster.json").write_bytes(b"\xff{")
    for name in ("STELE_SERVER", "STELE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("stele.local.cluster.LocalCluster.up", no_cluster)


def no_cluster(*_: object, **__: object) -> None:
    raise options.NoCluster("none is started here")


def test_the_tree_is_walked() -> None:
    assert {path[0] for path, _ in commands()} == set(options.ORDER)
    assert len(CASES) > 100


@pytest.mark.parametrize(
    ("path", "command", "parameter"), CASES, ids=[f"{' '.join(path)} {parameter.name}" for path, _, parameter in CASES]
)
def test_whatever_an_option_is_given_ends_in_one_line(path: tuple[str, ...], command: Any, parameter: Any) -> None:
    takes_server = any(p.name == "server" for p in command.params)
    for wrong in wrongs(parameter):
        line, behind = list(path), list[str]()
        for other in command.params:
            if other is parameter:
                words = given(other, wrong)
            elif other.name == "server":
                words = ["--server=127.0.0.1:1"] if parameter.name != "directory" else []
            elif other.required or (path == ("produce",) and other.name == "count"):
                words = given(other, GOOD[other.name])
            else:
                words = []
            if words[:1] == ["--"]:
                behind += words[1:]
            else:
                line += words
        ran = CliRunner().invoke(app, [*line, "--", *behind])
        shown = f"{path} {parameter.name}={wrong[:40]!r}: {ran.exit_code} {ran.output[:500]!r} {ran.exception!r}"
        assert ran.exception is None or isinstance(ran.exception, SystemExit), shown
        assert ran.exit_code in ((1, 2) if takes_server else (0, 1, 2)), shown
        if ran.exit_code:
            assert len(ran.stderr.strip().splitlines()) == 1, shown
            assert ran.stderr.startswith("error: "), shown
            assert ran.stdout == "", shown
            assert len(ran.stderr) < 1_000, shown


@pytest.mark.parametrize(
    "line", [["nonsense"], ["topic", "nonsense"], ["--nonsense"], ["topic", "ls", "--nonsense"], ["consume", "ns/t"]]
)
def test_what_is_no_command_ends_in_one_line(line: list[str]) -> None:
    ran = CliRunner().invoke(app, line)
    assert ran.exit_code == options.USAGE
    [said] = ran.stderr.strip().splitlines()
    assert said.startswith("error: ")
    assert "--help" in said


class Broken(io.StringIO):
    """An output that takes nothing: a full disk, a pipe that nobody reads."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), options.FAILED, 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), options.PIPE_CLOSED, 0),
    ],
)
def test_an_output_that_takes_nothing_ends_every_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: OSError, status: int, lines: int
) -> None:
    for path, _ in commands():
        said = io.StringIO()
        monkeypatch.setattr(sys, "stdout", Broken(error))
        monkeypatch.setattr(sys, "stderr", said)
        with pytest.raises(SystemExit) as ended:
            ROOT([*path, "--help"])
        monkeypatch.undo()
        assert ended.value.code == status, path
        assert len(said.getvalue().splitlines()) == lines, (path, said.getvalue())


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("stele --version > /dev/full", 1, "No space left on device"),
        ("stele topic ls --help > /dev/full", 1, "No space left on device"),
        ("stele --version | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("stele topic ls --server 127.0.0.1:1 >&-", 1, "no nameserver answered"),
        ("stele topic info $'ns/\\xff\\xfe' --server 127.0.0.1:1", 1, "no nameserver answered"),
        ("stele produce ns/t --server [::1]:1 < /dev/null", 1, "[::1]:1"),
    ],
)
def test_as_processes(line: str, status: int, said: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PATH": path}
    )
    assert ran.returncode == status, ran
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == (1 if said else 0), ran.stderr
