"""The command without a cluster: help, bad input, how errors end it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import stele
from stele.cli import options, output
from stele.cli.main import app
from stele.cli.produce import _made_up
from stele.local.state import ClusterState, ProcessRecord, StateDirectory
from stele.model import ReplicaInfo
from tests.support.command import ROOT, one_tree

__all__ = ["one_tree"]

runner = CliRunner()


def commands() -> list[list[str]]:
    found: list[list[str]] = [[]]

    def walk(command: Any, path: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            found.append([*path, name])
            walk(child, [*path, name])

    walk(ROOT, [])
    return found


@pytest.mark.parametrize("path", commands(), ids=lambda p: " ".join(p) or "stele")
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_and_every_leaf_examples(path: list[str], flag: str) -> None:
    result = runner.invoke(app, [*path, flag])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.stdout
    if len(path) == 2 or path in (["produce"], ["consume"], ["events"], ["explain"], ["health"], []):
        assert "Examples:\n" in result.stdout
        assert f"stele {' '.join(path)}".rstrip() in result.stdout.split("Examples:")[1]


def test_every_command_of_the_reference_exists() -> None:
    wanted = {
        "cluster": "up env status kill start pause resume logs down destroy",
        "topic": "create ls info alter rm",
        "subscription": "ls info rm seek",
        "partition": "ls info",
        "store": "ls info",
        "broker": "ls",
        "nameserver": "ls",
    }
    have = {tuple(p) for p in commands()}
    assert {(g, c) for g, cs in wanted.items() for c in cs.split()} <= have
    assert {("produce",), ("consume",), ("events",), ("explain",), ("health",)} <= have


@pytest.mark.parametrize("path", [p for p in commands() if p[-1:] == ["ls"] or p[-1:] == ["info"]], ids=" ".join)
def test_every_listing_can_be_json(path: list[str]) -> None:
    assert "--output" in runner.invoke(app, [*path, "-h"]).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["topic", "create"],
        ["topic", "create", "a/b", "--partitions", "0"],
        ["topic", "create", "a/b", "--partitions", "x"],
        ["topic", "create", "a/b", "--retention", "soon"],
        ["topic", "create", "a/b", "--retention-bytes", "1 parsec"],
        ["topic", "create", "a/b", "--retention-bytes", "1KiB", "--server", "127.0.0.1:1"],
        ["topic", "alter", "a/b", "--server", "127.0.0.1:1"],
        ["topic", "ls", "-o", "yaml"],
        ["consume", "a/b"],
        ["consume", "a/b", "-S", "s", "--type", "x", "--server", "127.0.0.1:1"],
        ["consume", "a/b", "-S", "s", "--from", "middle", "--server", "127.0.0.1:1"],
        ["produce", "nonamespace", "--count", "1", "--server", "127.0.0.1:1"],
        ["produce", "a/b", "--count", "1", "--server", "nohost"],
        ["subscription", "seek", "a/b", "s", "--server", "127.0.0.1:1"],
        ["cluster", "kill", "dn1", "--signal", "BANG"],
        ["topic", "rm", "a/b", "--partitions", "1"],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_status_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr


def test_no_cluster_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    for arguments in (
        ["topic", "ls"],
        ["health"],
        ["cluster", "env"],
        ["cluster", "env", "-o", "json"],
        ["cluster", "status"],
        ["cluster", "down"],
        ["cluster", "destroy", "--yes"],
    ):
        result = runner.invoke(app, [*arguments, "--dir", str(tmp_path)])
        assert result.exit_code == 1, arguments
        (line,) = result.stderr.strip().splitlines()
        assert line.startswith("error: no cluster in")
        assert "stele cluster up" in line
        assert not list(tmp_path.iterdir()), "looking leaves nothing behind"


def test_the_environment_of_a_cluster_can_be_evaluated(tmp_path: Path) -> None:
    directory = tmp_path / "it's here"
    directory.mkdir()
    StateDirectory(directory).save(
        ClusterState("c", processes={name: ProcessRecord(name, port) for name, port in (("ns1", 5001), ("ns2", 5002))})
    )
    wanted = {"STELE_SERVER": "127.0.0.1:5001,127.0.0.1:5002", "STELE_DIR": str(directory)}
    printed = runner.invoke(app, ["cluster", "env", "--dir", str(directory)]).stdout
    shell = subprocess.run(
        ["sh", "-c", 'eval "$1"; printf "%s\n%s" "$STELE_SERVER" "$STELE_DIR"', "sh", printed],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shell.stdout.splitlines() == list(wanted.values())
    assert json.loads(runner.invoke(app, ["cluster", "env", "-o", "json", "--dir", str(directory)]).stdout) == wanted


@pytest.mark.parametrize("connect", [stele.connect, stele.sync.connect])
def test_connecting_without_an_address_says_where_one_comes_from(
    connect: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STELE_SERVER", "")
    with pytest.raises(
        stele.InvalidArgument, match=r'stele\.connect\("host:port,host:port"\).*STELE_SERVER.*stele cluster env'
    ):
        connect()
    monkeypatch.setenv("STELE_SERVER", "nohost")
    with pytest.raises(stele.InvalidArgument, match="'nohost' is not the address"):
        connect()


def test_no_nameserver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "CONNECT_TIMEOUT_S", 0.3)
    result = runner.invoke(app, ["topic", "ls", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert "no nameserver answered at 127.0.0.1:1" in line


def test_an_interrupted_command_ends_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stele.cli.topic.with_client", interrupted)
    result = runner.invoke(app, ["topic", "ls"])
    assert (result.exit_code, result.output) == (130, "")


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip().count(".") == 2


def test_a_table_in_a_pipe_has_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_rows(("A", "B"), [("x" * 300, None), (True, ("a", "b"))])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].split() == ["yes", "a,b"]


def test_json_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_json([ReplicaInfo(1, "e", "leader", problem="x")])
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["store_id"], shown["state"], shown["problem"]) == (1, "leader", "x")


def test_asking_where_nobody_answers_needs_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="--yes"):
        options.confirm("Remove it?", yes=False)
    options.confirm("Remove it?", yes=True)


def test_an_error_text_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from stele.services.errors import InvalidArgument, NotReady

    with pytest.raises(typer.Exit) as ended:
        options.fail(InvalidArgument("bad [red]name[/red]\nsecond line"))
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: bad [red]name[/red] second line\n"
    with pytest.raises(typer.Exit) as ended:
        options.fail(NotReady("x"))
    assert ended.value.exit_code == 1


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")])
def test_sizes(number: int, text: str) -> None:
    assert output.size(number) == text


async def test_made_up_messages_are_numbered_and_have_the_size() -> None:
    messages = [m async for m in _made_up(12, 10, 0)]
    assert [int(m.rstrip(b".")) for m in messages] == list(range(12))
    assert {len(m) for m in messages} == {10}
    assert [m async for m in _made_up(11, 1, 0)][10] == b"10", "never cut, so that it can be told from others"
