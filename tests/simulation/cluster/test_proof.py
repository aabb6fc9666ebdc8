"""Whole clusters with a part that is wrong on purpose: the simulator sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.timeout(600)
def test_what_is_wrong_on_purpose_is_found() -> None:
    """Those that take few runs; ``make sim-cluster-proof`` plays all of them, and the product itself beside them."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation.cluster.proof", "--suite", "--no-control"]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
