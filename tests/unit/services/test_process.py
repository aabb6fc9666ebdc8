"""The life of a process, seen from outside: signals, exit status, and the one line for the person who started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually

ROOT = Path(__file__).parents[3]


class Started:
    def __init__(self, directory: Path, behaviour: str, *argv: str, run_file: str = "run.json") -> None:
        self.run_file = directory / run_file
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.services.roles", behaviour, "--name", "br1", *argv],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                env={**os.environ, "STELE_RUN_FILE": str(self.run_file)},
            )

    @property
    def out(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return self._err.read_text().splitlines()

    @property
    def said(self) -> list[str]:
        """What a person reads: the lines that are no log events."""
        return [line for line in self.err if not line.startswith("{")]

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.err if line.startswith("{")]

    async def printed(self, line: str) -> None:
        await eventually(lambda: line in self.out, within_s=30, describe=lambda: (self.out, self.err))

    async def logged(self, event: str) -> dict[str, object]:
        return await eventually(
            lambda: next((e for e in self.events if e["event"] == event), None), within_s=30, describe=lambda: self.err
        )

    async def ended(self, within_s: float = 30) -> int:
        await eventually(lambda: self.process.poll() is not None, within_s, describe=lambda: (self.out, self.err))
        assert self.process.returncode is not None
        return self.process.returncode


class Starter:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[Started] = []

    def __call__(self, behaviour: str, *argv: str, run_file: str = "run.json") -> Started:
        process = Started(self._directory, behaviour, *argv, run_file=run_file)
        self.started.append(process)
        return process


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for one in starter.started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_then_stops(start: Starter, number: int) -> None:
    role = start("serves")
    ready = await role.logged("process_ready")
    assert (ready["endpoint"], ready["node"], ready["role"]) == ("127.0.0.1:7001", "br1", "broker")
    published = json.loads(role.run_file.read_text())
    assert published == {
        "pid": role.process.pid,
        "endpoint": "127.0.0.1:7001",
        "advertised": "127.0.0.1:7001",
        "raft_endpoint": "127.0.0.1:7002",
        "admin_endpoint": ready["admin"],
        "ready": True,
    }
    role.process.send_signal(number)
    assert await role.ended() == 0
    assert role.out == ["started", "draining", "stopped"]
    assert role.said == []
    assert not role.run_file.exists()
    assert [e["event"] for e in role.events].count("process_ready") == 1


async def test_a_signal_while_starting_ends_the_start(start: Starter) -> None:
    role = start("starts_for_ever")
    await role.printed("starting")
    role.process.terminate()
    assert await role.ended() == 0
    assert role.out == ["starting", "stopped"]
    assert role.said == []


async def test_readiness_is_announced_only_when_the_gate_opens(start: Starter) -> None:
    role = start("opens_later")
    await role.printed("started")
    role.process.terminate()
    assert await role.ended() == 0
    assert "process_ready" not in [e["event"] for e in role.events]


@pytest.mark.parametrize("behaviour", ["drains_for_ever", "blocks_the_loop"])
async def test_the_second_signal_ends_it_at_once(start: Starter, behaviour: str) -> None:
    role = start(behaviour, "--drain-timeout-s", "600")
    await role.logged("process_ready")
    role.process.terminate()
    await role.printed("draining")
    role.process.terminate()
    assert await role.ended() == -signal.SIGTERM
    assert "stopped" not in role.out


async def test_draining_is_bounded(start: Starter) -> None:
    role = start("drains_for_ever", "--drain-timeout-s", "0.1")
    await role.logged("process_ready")
    role.process.terminate()
    assert await role.ended() == 0
    assert role.out[-1] == "stopped"
    assert (await role.logged("drain_timed_out"))["timeout_s"] == 0.1


async def test_a_failing_drain_still_stops(start: Starter) -> None:
    role = start("fails_to_drain")
    await role.logged("process_ready")
    role.process.terminate()
    assert await role.ended() == 0
    assert role.out[-1] == "stopped"
    assert "while draining" in str((await role.logged("drain_failed"))["exception"])


@pytest.mark.parametrize(
    ("behaviour", "argv", "line"),
    [
        (
            "fails",
            [],
            "stele-broker: the name br1 is held by 10.0.0.9:7000; stop that process or choose another --name",
        ),
        ("fails_later", [], "stele-broker: the name br1 was lost; stop that process or choose another --name"),
        (
            "fails_in_build",
            [],
            "stele-broker: 127.0.0.1:7000 is in use by another process; "
            "stop the process that listens there or choose another port",
        ),
        (
            "serves",
            ["--port", "99999"],
            "stele-broker: port 99999 is not accepted: 0 to 65535; --help lists every setting",
        ),
        ("crashes", [], "stele-broker: internal error KeyError; its log says more"),
    ],
)
async def test_a_failure_is_exactly_one_line(start: Starter, behaviour: str, argv: list[str], line: str) -> None:
    role = start(behaviour, *argv)
    assert await role.ended() == 1
    assert role.said == [line]
    assert not role.run_file.exists()


async def test_a_crash_has_its_traceback_in_the_log_alone(start: Starter) -> None:
    role = start("crashes")
    assert await role.ended() == 1
    crashed = await role.logged("process_crashed")
    assert "KeyError: 'secret detail'" in str(crashed["exception"])
    assert "Traceback" not in "".join(role.said)
    assert role.out == ["stopped"]


async def test_threads_left_behind_do_not_keep_it(start: Starter) -> None:
    role = start("leaves_a_thread")
    await role.logged("process_ready")
    role.process.terminate()
    assert await role.ended() == 0


async def test_an_exception_in_a_callback_is_logged_and_survived(start: Starter) -> None:
    role = start("raises_in_a_task")
    assert "ZeroDivisionError" in str((await role.logged("unhandled_exception"))["exception"])
    await role.logged("process_ready")
    role.process.terminate()
    assert await role.ended() == 0


async def test_a_run_file_of_an_earlier_run_is_gone_before_the_start(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"pid": 1, "ready": true}')
    role = start("starts_for_ever")
    await role.printed("starting")
    assert not role.run_file.exists()
    role.process.terminate()
    assert await role.ended() == 0


async def test_p21_a_process_that_cannot_be_announced_ends(start: Starter) -> None:
    role = start("serves", run_file="absent/run.json")
    assert await role.ended() == 1
    assert role.out == ["started", "stopped"]
    assert len(role.said) == 1
    assert "announce" in role.said[0]
