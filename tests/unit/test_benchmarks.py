"""The benchmark code runs and says what it found.  Nothing here is timed: figures are for `make bench`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import failover, idle, log_floor, profiling, raft
from benchmarks import report as reporting
from benchmarks.children import ChildFailed, ChildGone, Children, ended
from benchmarks.loads import LOADS, MIB_1, ONE_AT_A_TIME, SMALL_5000, Load, Run
from benchmarks.report import Report, row
from benchmarks.samples import cpu_s, median, percentiles, resident_bytes
from stele.services.ports import free_ports

TINY = Load("tiny", 100, 4)


def quiet(_: str) -> None: ...


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([1.0], 0.5, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([float(n) for n in range(1, 101)], 0.99, 99.0)],
)
def test_a_percentile_is_a_sample(values: list[float], share: float, wanted: float) -> None:
    assert percentiles(values, share) == (wanted,)
    assert percentiles(list(reversed(values)), share) == (wanted,)


def test_the_99th_of_fifty_is_the_largest() -> None:
    times = [float(n) for n in range(50)]
    assert percentiles(times, 0.5, 0.99) == (24.0, 49.0)
    assert median(times) == 24.5


def test_a_process_has_used_time_and_memory() -> None:
    assert cpu_s(os.getpid()) > 0
    assert resident_bytes(os.getpid()) > 1 << 20


def test_a_load_counts_what_is_answered_between_warm_up_and_end() -> None:
    run = Run(size=1000, seconds=2.0, now=10.0)  # from 10.5 to 12.5
    run.answered(asked=10.0, now=10.4)
    run.answered(asked=10.4, now=10.6)  # counted, and not timed: it began in the warm-up
    run.answered(asked=11.0, now=11.5)
    run.answered(asked=12.0, now=12.6)
    assert run.result() == {"count": 2, "p50_ms": 500.0, "p99_ms": 500.0, "per_s": 1.0, "mb_per_s": 0.001}


def test_a_load_slower_than_its_time_is_counted_and_not_timed() -> None:
    run = Run(size=1000, seconds=2.0, now=10.0)
    run.answered(asked=10.0, now=12.0)
    assert run.result() == {"count": 1, "per_s": 0.5, "mb_per_s": 0.001}


def test_a_load_that_nothing_answers_is_a_problem() -> None:
    assert "problem" in Run(size=1, seconds=1.0, now=0.0).result()


def test_a_target_is_of_the_value_or_of_the_ratio() -> None:
    assert row("s", "w", 1.0, "ms", at_most=1.2).reached is True
    assert row("s", "w", 99.0, "MB/s", at_least=100).reached is False
    assert row("s", "w", 30.0, "/s", ("stock", 10.0), ratio_at_least=3).reached is True
    assert row("s", "w", 30.0, "/s", ("stock", None), ratio_at_least=3).reached is False
    assert row("s", "w", None, "ms", at_most=1).reached is False
    assert row("s", "w", 1.0, "ms").reached is None


def test_rows_of_a_group_are_ratios_against_the_best_of_stock() -> None:
    figures = {"p50_ms": 1.0, "p99_ms": 2.0, "per_s": 300.0, "mb_per_s": 30.0}
    found: raft.Rounds = {raft.OURS: {load.name: [figures, figures] for load in LOADS}}
    for name, factor in ((raft.STOCK[True], 0.1), (raft.STOCK[False], 0.5)):
        found[name] = {load.name: [{k: v * factor for k, v in figures.items()}] for load in LOADS if load is not MIB_1}
        found[name][MIB_1.name] = [{"problem": "nothing was acknowledged"}]
    made = raft.rows(found)
    best = next(r for r in made if r.what == SMALL_5000.name and r.target)
    assert (best.against, best.ratio, best.reached) == (raft.STOCK[False], 2.0, False)
    fastest = next(r for r in made if r.what.startswith(ONE_AT_A_TIME.name) and r.target)
    assert fastest.against == raft.STOCK[True]
    assert [r.ratio for r in made if r.what == MIB_1.name] == [None] * 5
    assert raft.problems(found) == [f"{name}, {MIB_1.name}: nothing was acknowledged" for name in raft.STOCK.values()]


def test_a_report_is_a_table_and_json() -> None:
    report = Report({"only": ["log"]})
    report.add([row("log", "append", 2.0, "µs", ("floor", 1.0), at_most=1)], "log", [{"x": 1}])
    console = Console(width=150, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    report.draw(console)
    text = console.export_text()
    assert "append" in text
    assert "no" in text
    content = json.loads(report.to_json())
    assert content["rows"][0]["ratio"] == 2.0
    assert content["machine"]["cores"] >= 1


def test_a_report_takes_its_place_in_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "RESULTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    report = Report({"only": ["log"]}, problems=["stock: nothing"])
    report.add([row("log", "append", 2.0, "µs", ("floor", 1.0), at_most=1, note="as it is")], "log", [])
    for _ in range(2):
        figures = report.document(page)
    text = page.read_text()
    assert text.startswith("before\n<!-- figures -->\n")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert text.count("| append (as it is) | 2 µs | floor | 1 µs | 2 × | ≤ 1 µs | **no** |") == 1
    assert "- stock: nothing" in text
    assert "old" not in text
    assert json.loads(figures.read_text())["rows"]


def test_stacks_are_counted_by_their_innermost_frame_and_by_all() -> None:
    own, within, total = profiling.shares(["main;loop;send 3", "main;loop 1", "main;loop;loop;recv 1"])
    assert total == 5
    assert own == {"send": 3, "loop": 1, "recv": 1}
    assert within["loop"] == within["main"] == 5


# --- the command ----------------------------------------------------------------------------------------------------


def test_options_say_what_runs() -> None:
    chosen = command.options(["--only", "raft,idle", "--quick", "--groups", "7"])
    assert chosen.only == ["raft", "idle"]
    size = command.size_of(chosen)
    assert (size.groups, size.kills) == (7, command.QUICK.kills)


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--only", ","], ["--rounds", "many"]])
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.options(wrong)
    assert "error" in capsys.readouterr().err


def test_the_log_part_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "QUICK", command.Size(log_s=0.02))
    wanted = tmp_path / "figures.json"
    assert command.main(["--only", "log", "--quick", "--directory", str(tmp_path), "--json", str(wanted)]) == 0
    rows = json.loads(wanted.read_text())["rows"]
    assert [r["what"] for r in rows] == [f"append + sync, {name}" for name in log_floor.SIZES]
    assert all(r["ratio"] > 0 for r in rows)
    assert list(tmp_path.iterdir()) == [wanted]


def test_an_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    arguments = ("-m", "benchmarks", "--only", "idle", "--groups", "2", "--directory", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in what a shell runs behind
    )
    deadline = time.monotonic() + 60
    while not (pids := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert b"interrupted" in process.communicate()[1]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- the parts, as small as they get --------------------------------------------------------------------------------


async def test_a_child_answers_fails_and_goes(tmp_path: Path) -> None:
    async with Children(tmp_path / "errors") as children:
        child = await children.start(
            "floor", "benchmarks.floor_node", path=str(tmp_path / "floor"), port=free_ports(1)[0]
        )
        with pytest.raises(ChildFailed):
            await child.ask("write", size="many", seconds=0.01)
        assert (await child.ask("write", size=100, seconds=0.05))["count"] > 0
        child.kill()
        with pytest.raises(ChildGone):
            await child.ask("write", size=100, seconds=10.0)
    assert not Path(f"/proc/{child.pid}").exists()


async def test_an_answer_that_comes_with_an_interrupt_does_not_hide_it(tmp_path: Path) -> None:
    async with Children(tmp_path / "errors") as children:
        child = await children.start(
            "floor", "benchmarks.floor_node", path=str(tmp_path / "floor"), port=free_ports(1)[0]
        )
        asking = asyncio.create_task(child.ask("write", size=100, seconds=10.0))
        await asyncio.sleep(0)
        [answer] = child._asked.values()
        answer.set_result({})
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_the_floor_replicates(tmp_path: Path) -> None:
    async with Children(tmp_path / "errors") as children:
        ports = free_ports(2)
        first, second = [
            await children.start(f"floor{n}", "benchmarks.floor_node", path=str(tmp_path / f"f{n}"), port=ports[n])
            for n in range(2)
        ]
        async with ended(children, first, second):
            alone = await first.ask("lead", peers=ports[1:], sync=False, **TINY.arguments(0.1))
            both = await first.ask("lead", peers=ports[1:], sync=True, **TINY.arguments(0.1))
    assert alone["count"] > 0
    assert both["count"] > 0
    assert (tmp_path / "f1").stat().st_size >= both["count"] * TINY.size


async def test_ours_and_stock_carry_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "LOADS", (TINY,))
    async with Children(tmp_path / "errors") as children:
        found = await raft.measure(children, tmp_path, 0.2, 1, quiet)
    assert set(found) == {raft.OURS, raft.STREAM, raft.BARE, raft.DISK, raft.DISKS, *raft.STOCK.values()}
    assert found[raft.OURS][TINY.name][0]["count"] > 0
    assert raft.problems({raft.OURS: found[raft.OURS]}) == []


async def test_idle_groups_are_watched_and_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "SETTLE_S", 0.1)
    async with Children(tmp_path / "errors") as children:
        found = await idle.measure(children, tmp_path, 3, 0.2, quiet)
    assert sum(found["led"]) == 3
    assert len(idle.rows(found)) == 3
    assert found["traced"]["top"]


async def test_writes_resume_after_the_leader_was_killed(tmp_path: Path) -> None:
    async with Children(tmp_path / "errors") as children:
        found = await failover.measure(children, tmp_path, 1, 1, quiet)
    assert len(found["seconds"]) == len(found["stock_seconds"]) == 1
    assert [r.ratio is not None for r in failover.rows(found)] == [True, True]
