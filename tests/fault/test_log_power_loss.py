"""The power goes at any step of a replica's life: log, snapshots, installs and terms are what they were promised to be (H7, H8, H10)."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from stele.lab.mutants.log import (
    CountsCachedNames,
    CountsTheCache,
    ForgetsToSyncFiles,
    ForgetsToSyncFolders,
    LeavesEntries,
    TruncatesOldestFirst,
    WritesInPlace,
)
from stele.lab.mutants.snapshots import NamesBeforeSyncing
from stele.services.errors import LogDamaged
from tests.fault.power_loss import Life

LIVES = 300
VARIANT_LIVES_MAX = 2_000


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
    ("part", "variant"),
    [
        ("fs", ForgetsToSyncFiles),
        ("fs", ForgetsToSyncFolders),
        ("SegmentLog", CountsTheCache),
        ("SegmentLog", CountsCachedNames),
        ("SegmentLog", LeavesEntries),
        ("SegmentLog", TruncatesOldestFirst),
        ("SnapshotFiles", NamesBeforeSyncing),
        ("TermFile", WritesInPlace),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_the_lives_find_a_wrong_part(part: str, variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if part != "fs":
        monkeypatch.setattr(f"stele.datanode.storage.{part}", variant)
    for seed in itertools.count():
        assert seed < VARIANT_LIVES_MAX, "it was taken for right"
        try:
            (Life(seed, variant) if part == "fs" else Life(seed)).live()
        except (AssertionError, LogDamaged):
            break
        except OSError:
            continue  # a failing disk that the variant knows nothing of: not what it is wrong about
    print(f"found by life {seed}")


def test_a_life_is_the_same_for_the_same_seed() -> None:
    def trace(seed: int) -> list[Any]:
        life = Life(seed)
        life.live()
        return life._disk.trace

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
