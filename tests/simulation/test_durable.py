"""What the simulator says that a disk holds is what a log finds there once the power was lost."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest

from stele.datanode.log import SegmentLog
from stele.services.raft.storage import REGULAR, Entry
from tests.simulation.durable import DurableLog
from tests.support.disks import SimulatedDisk

FOLDER = Path("/data/groups/7")


class _KeepsNothing(random.Random):
    """For a crash: of what was not synced, no change survives and no torn write."""

    def randint(self, a: int, b: int) -> int:
        return a

    def random(self) -> float:
        return 0.99


def _found(disk: SimulatedDisk) -> dict[int, int]:
    disk = copy.deepcopy(disk)
    disk.crash(_KeepsNothing())
    log = SegmentLog(FOLDER, disk, segment_bytes=1024)
    return {index: log.term_at(index) for index in range(log.first_index, log.last_index + 1)}


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_a_power_loss_leaves(seed: int) -> None:
    rng, disk = random.Random(seed), SimulatedDisk()
    log, durable = SegmentLog(FOLDER, disk, segment_bytes=1024), DurableLog(disk, FOLDER)
    term = 1
    for _ in range(60):
        match rng.choice(("append", "append", "append", "sync", "truncate", "term", "drop", "reset")):
            case "append":
                first = log.last_index + 1
                sizes = [rng.randrange(300) for _ in range(rng.randint(1, 4))]
                log.append([Entry(first + n, term, REGULAR, bytes(size)) for n, size in enumerate(sizes)])
            case "sync":
                log.sync()
            case "truncate" if log.last_index > log.first_index:
                log.truncate_from(rng.randint(log.first_index + 1, log.last_index))
            case "term":
                term += 1
            case "drop" if log.last_index > log.first_index:
                log.drop_before(rng.randint(log.first_index, log.last_index))
            case "reset" if rng.random() < 0.3:
                log.reset(log.last_index + 5, term)
        found = _found(disk)
        assert durable.terms() == found
        assert all(durable.holds(index, of) and not durable.holds(index, of + 1) for index, of in found.items())
        assert not durable.holds(max(found, default=log.last_index) + 1, term)
