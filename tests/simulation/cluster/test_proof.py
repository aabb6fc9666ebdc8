"""Whole clusters with a part that is wrong on purpose: the simulator sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stele.lab.mutants import MUTANTS
from tests.simulation import selfproof
from tests.simulation.cluster.cannot import CANNOT
from tests.simulation.cluster.proof import PROOFS

REPOSITORY = Path(__file__).parents[3]


def test_every_mutant_is_found_or_there_is_a_reason() -> None:
    proven = {name for proof in PROOFS for name in proof.mutants}
    tables = (
        proven,
        {name for proof in selfproof.PROOFS for name in proof.mutants} - proven,
        set(CANNOT),
    )
    places = Counter(name for table in tables for name in table)
    assert places.keys() == MUTANTS.keys()
    assert [name for name, count in places.items() if count > 1] == []


@pytest.mark.timeout(600)
def test_what_is_wrong_on_purpose_is_found() -> None:
    """Those that take few runs; ``make sim-cluster-proof`` plays all of them, and the product itself beside them."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation.cluster.proof", "--suite", "--no-control"]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
