"""H7, H8 on real files: a process that works on a replica's storage is killed with -9 at random moments."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

KILLS = 150
SECONDS_MAX = 15


def test_h7_h8_what_was_promised_survives_kill_9(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(31)
    command = [sys.executable, "-m", "tests.fault.crash", "--runs", str(KILLS), "--seconds-max", str(SECONDS_MAX)]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = re.match(r"([0-9]+) kills, .*nothing lost", done.stdout)
    assert kills is not None, done.stdout
    assert int(kills[1]) >= 10, done.stdout
    assert " synced" in done.stdout
