"""The power goes at any step: what a sync covered is there afterwards, and what is there is a prefix of what was (H7, H8)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from stele.datanode.log import SegmentLog
from stele.services.errors import DiskFull
from stele.services.files import FileSystem
from stele.services.raft.storage import Entry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.logs import entries, entry, everything, open_log

SEEDS = 400
SEGMENT_BYTES = 1500


@dataclass
class History:
    """What a log's user knows of it: what it holds and how much of that is promised."""

    entries: list[Entry] = field(default_factory=list)
    promised: int = 0
    first: int = 1
    first_min: int = 1

    def append(self, more: list[Entry]) -> None:
        self.entries += more

    def truncate(self, index: int) -> None:
        del self.entries[index - 1 :]
        self.promised = min(self.promised, index - 1)


@dataclass
class Kit:
    """The parts under test."""

    log_type: type[SegmentLog] = SegmentLog
    wrap: Callable[[SimulatedDisk], FileSystem] = lambda disk: disk


def live(seed: int, kit: Kit) -> None:
    """One life of a disk: sessions of random work, each ended by a kill, a close or a power loss at a random step."""
    rng = random.Random(seed)
    disk = SimulatedDisk()
    history = History()
    term = 1
    for _ in range(rng.randint(2, 5)):
        if rng.random() < 0.8:
            disk.lose_power_after(rng.randint(0, 60))
        try:
            log = open_log(kit.wrap(disk), SEGMENT_BYTES, kit.log_type)
            check(seed, log, history)
            for _ in range(rng.randint(0, 25)):
                term = work(rng, log, history, term)
            if rng.random() < 0.3:
                log.close()
        except PowerLost:
            # At that step the power goes, or only the process ends.
            if rng.random() < 0.7:
                disk.crash(rng)
            else:
                disk.kill()
        else:
            disk.kill()
            if rng.random() < 0.5:
                disk.crash(rng)
        log = open_log(kit.wrap(disk), SEGMENT_BYTES, kit.log_type)
        check(seed, log, history)
        if rng.random() < 0.5:
            # What was found is promised now: the power goes again before anything is written.
            disk.crash(rng)
            log = open_log(kit.wrap(disk), SEGMENT_BYTES, kit.log_type)
            check(seed, log, history)
        disk.kill()


def work(rng: random.Random, log: SegmentLog, history: History, term: int) -> int:
    match rng.choices(("append", "sync", "truncate", "drop", "note"), (10, 6, 2, 1, 3))[0]:
        case "append":
            first = len(history.entries) + 1
            more = [entry(i, term, rng.choice((0, 5, 60, 700))) for i in range(first, first + rng.randint(1, 12))]
            history.append(more)
            log.append(more)
        case "sync":
            log.sync()
            history.promised = len(history.entries)
        case "truncate" if history.entries:
            term += 1
            # Back to a point that may lie several segments before.
            index = max(history.first_min, len(history.entries) - rng.choice((0, 2, 10, 40)))
            if index > log.last_index or index < log.first_index:
                return term
            history.promised = min(history.promised, index - 1)
            log.truncate_from(index)
            history.truncate(index)
        case "drop" if history.promised > 10:
            history.first_min = max(history.first_min, rng.randint(1, history.promised))
            log.drop_before(history.first_min)
        case "note":
            log.reached.note()
        case _:
            pass
    return term


def check(seed: int, log: SegmentLog, history: History) -> None:
    found = everything(log)
    assert log.last_index >= history.promised, f"seed {seed}: {history.promised} promised, {log.last_index} there"
    assert not log.reached.is_ahead, f"seed {seed}: it ends at {log.last_index} and looks as if its tail were lost"
    assert log.first_index <= max(1, history.first_min), f"seed {seed}: {log.first_index} is the first"
    assert found == history.entries[log.first_index - 1 : log.last_index], f"seed {seed}: other entries"
    del history.entries[log.last_index :]
    history.promised = log.last_index


async def many(kit: Kit) -> None:
    for seed in range(SEEDS):
        with promise("what was promised survives a power loss"):
            live(seed, kit)


@pytest.mark.parametrize(
    ("part", "mutant"),
    [
        ("wrap", "log.ForgetsToSyncFiles"),
        ("wrap", "log.ForgetsToSyncFolders"),
        ("log_type", "log.CountsTheCache"),
        ("log_type", "log.CountsCachedNames"),
        ("log_type", "log.TruncatesOldestFirst"),
    ],
)
async def test_h7_h8_what_was_synced_survives_a_power_loss_at_any_step(part: str, mutant: str) -> None:
    await holds_and_mutant_fails(many, Kit(), mutant, lambda wrong: replace(Kit(), **{part: wrong}))


def test_h8_every_step_of_a_truncation_across_segments_leaves_a_prefix() -> None:
    step = 0
    while True:
        disk = SimulatedDisk()
        log = open_log(disk, 1000)
        for start in range(1, 60, 10):
            log.append(entries(start, start + 9))
        log.sync()
        disk.lose_power_after(step)
        try:
            log.truncate_from(14)
        except PowerLost:
            for seed in range(5):
                survivor = _copy_after_crash(step, seed)
                found = everything(survivor)
                assert found == entries(1, len(found))
                assert 13 <= len(found) <= 60
                survivor.append(entries(len(found) + 1, len(found) + 5, term=2))
                assert everything(survivor)[: len(found)] == found
        else:
            break
        step += 1
    assert step == 2 * 4 + 2, "four segments removed, each with its folder synced, then a cut and its sync"


def _copy_after_crash(step: int, seed: int) -> SegmentLog:
    disk = SimulatedDisk()
    log = open_log(disk, 1000)
    for start in range(1, 60, 10):
        log.append(entries(start, start + 9))
    log.sync()
    disk.lose_power_after(step)
    with pytest.raises(PowerLost):
        log.truncate_from(14)
    disk.crash(random.Random(seed))
    return open_log(disk, 1000)


def test_a_life_is_the_same_for_the_same_seed() -> None:
    def trace(seed: int) -> list[object]:
        rng = random.Random(seed)
        disk = SimulatedDisk()
        history = History()
        log = open_log(disk, SEGMENT_BYTES)
        for _ in range(60):
            work(rng, log, history, 1)
        disk.crash(rng)
        open_log(disk, SEGMENT_BYTES)
        return [*disk.trace, *(disk.content(log._directory / name) for name in disk.listdir(log._directory))]

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_power_loss_on_a_small_disk() -> None:
    """Full disks and power losses together."""
    full = 0
    for seed in range(100):
        rng = random.Random(seed)
        disk = SimulatedDisk(capacity_bytes=rng.randint(500, 12_000))
        history = History()
        try:
            log = open_log(disk, SEGMENT_BYTES)
        except DiskFull:
            continue
        disk.lose_power_after(rng.randint(10, 200))
        try:
            for _ in range(60):
                more = [entry(i, 1, rng.choice((0, 60, 700))) for i in range(log.last_index + 1, log.last_index + 4)]
                before = len(history.entries)
                history.append(more)
                try:
                    log.append(more)
                except DiskFull:
                    full += 1
                    del history.entries[before:]
                    assert log.last_index == before
                if rng.random() < 0.5:
                    log.sync()
                    history.promised = len(history.entries)
        except PowerLost:
            disk.crash(rng)
        disk.kill()
        disk.capacity_bytes += 100_000
        check(seed, open_log(disk, SEGMENT_BYTES), history)
    assert full > 100
