"""Whole clusters under virtual time: what was acknowledged stays and is delivered, whatever fails and in whatever order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 200
CHUNK_RUNS = 25
REPOSITORY = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: strings have to hash as in every other run."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation.cluster", "--jobs", "1", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, RUNS, CHUNK_RUNS))
def test_clusters_keep_and_deliver_what_they_acknowledged(first: int) -> None:
    ran = run("--runs", str(CHUNK_RUNS), "--seed", str(first))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (run("--runs", "1", "--seed", "7", "--trace", "text") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert _without_times(first.stdout) == _without_times(second.stdout)


def _without_times(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith(("time", "events"))]


def test_the_diagram_is_one_file(tmp_path: Path) -> None:
    target = tmp_path / "run.html"
    ran = run("--runs", "1", "--seed", "7", "--trace", "html", "--to", str(target))
    assert ran.returncode == 0, ran.stderr
    page = target.read_text()
    assert "leadership_begun" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "it needs nothing else"


def test_a_disk_forgets_only_what_a_majority_holds_without_it() -> None:
    """One of three replicas lags behind a read-only disk while another is to come back with an older disk, and the third is full."""
    ran = run("--runs", "1", "--seed", "710029", "--only-faults", "1,16,28")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.timeout(600)
def test_r2_7_a_store_goes_whatever_fails_and_whenever_the_leading_nameserver_dies() -> None:
    ran = run("--operations", "--runs", "6", "--seed", "200")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_disk_comes_back_older() -> None:
    ran = run("--runs", "1", "--seed", "1", "--kinds", "older-volume", "--trace", "text")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "comes back with an older volume" in ran.stdout
