"""The command as a user abuses it: every option and argument of every command, found by walking the tree.

What is wrong ends with status 2 (usage) or 1 (failure) and one line that says what, never with a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from stele.cli import options
from stele.cli.main import app

WRONG = ["nan", "-1", "9" * 30, "\ud800\n[bold]" + "x" * 2_000]
GOOD = {
    "topic": "ns/t",
    "subscription": "s",
    "partition": "0",
    "name": "dn1",
    "names": "dn1",
    "count": "1",
    "store": "dn1",
    "group_id": "1",
    "operation": "move-1",
    "source": "dn1",
    "to": "earliest",
    "yes": None,
}
ROOT: Any = typer.main.get_command(app)


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
    return WRONG


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
                words = ["--server=127.0.0.1:1"]
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
        assert ran.exit_code in ((0, 1, 2) if not takes_server else (1, 2)), shown
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
