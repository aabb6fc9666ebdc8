"""Golden transcripts: eleven scenarios, message for message (tests/unit/raft/transcript.py says how to read and to rewrite them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.raft.transcript import FOLDER, played

SCENARIOS = (
    "conflict",
    "contested_election",
    "election",
    "lost_tail",
    "membership",
    "quiescence",
    "read_index",
    "recovering_replica",
    "slow_follower",
    "snapshot_offer",
    "transfer",
)


def test_every_scenario_is_there() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.txt"))) == SCENARIOS


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_replicas_do_what_is_written(path: Path) -> None:
    assert played(path.read_text()) == path.read_text()
