"""The power goes at any step of a replica's life: log, snapshots, installs and terms are what they were promised to be (H7, H8, H10)."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from stele.lab.mutants import MUTANTS
from stele.services.errors import LogDamaged
from tests.fault.power_loss import Life

LIVES = 300
MUTANT_LIVES_MAX = 2_000


def test_h7_h8_h10_what_was_promised_survives_a_power_loss_at_any_step_of_a_life() -> None:
    seen: Counter[str] = Counter()
    for seed in range(LIVES):
        life = Life(seed)
        try:
            life.live()
        except (AssertionError, LogDamaged) as e:
            raise AssertionError(f"seed {seed}: {e}") from e
        seen.update(life.seen)
    for what in ("power lost", "killed", "installed", "drop", "snap", "cut", "disk failed", "no room", "transfer torn"):
        assert seen[what] >= 5, f"{what}: {seen}"


@pytest.mark.parametrize(
    "mutant",
    [
        "log.ForgetsToSyncFiles",
        "log.ForgetsToSyncFolders",
        "log.CountsTheCache",
        "log.CountsCachedNames",
        "log.LeavesEntries",
        "log.TruncatesOldestFirst",
        "snapshots.NamesBeforeSyncing",
        "log.WritesInPlace",
    ],
)
def test_the_lives_find_a_wrong_part(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = MUTANTS[mutant]
    part = wrong.replaces.partition(":")[2]
    if part != "FileSystem":
        monkeypatch.setattr(f"stele.datanode.storage.{part}", wrong.load())
    for seed in itertools.count():
        assert seed < MUTANT_LIVES_MAX, "it was taken for right"
        try:
            (Life(seed, wrong.load()) if part == "FileSystem" else Life(seed)).live()
        except (AssertionError, LogDamaged):
            break
        except OSError:
            continue  # a failing disk that the mutant knows nothing of: not what it is wrong about
    print(f"found by life {seed}")


def test_a_life_is_the_same_for_the_same_seed() -> None:
    def trace(seed: int) -> list[Any]:
        life = Life(seed)
        life.live()
        return life._disk.trace

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
