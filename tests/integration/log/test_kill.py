"""H7 on real files: an appending process is killed with -9 at random moments."""

from __future__ import annotations

import random
from pathlib import Path

from tests.integration.log.kill_appender import Judge, kill_one

KILLS = 24


def test_h7_what_was_synced_survives_kill_9(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    judge = Judge()
    for _ in range(KILLS):
        kill_one(tmp_path, judge, rng)
    assert judge.kills == KILLS
    assert judge.promised > 0
    assert judge.vote[0] >= KILLS
