"""Whole lives of a replica's storage on a disk that forgets: what was promised survives every crash.

    python -m tests.fault.power_loss --runs 1000 --seed 0

A life is a few sessions of a worker (replica_life.py) on a SimulatedDisk, each ended at a random step: the power goes and any prefix
of what was not synced survives, torn; or the process is killed and the system's cache is all there; or a write or sync fails; or
nothing happens.  Then the folder is opened as production does it, and judged.  The same seed gives the same life.
"""

from __future__ import annotations

import argparse
import errno
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from stele.datanode.storage import GroupStorage, opener
from stele.services.errors import DiskFull, StorageFailed
from stele.services.files import FileSystem
from tests.fault.replica_life import Judge, Worker
from tests.support.disks import Operation, PowerLost, SimulatedDisk

FOLDER = Path("/groups/1")
SEGMENT_BYTES = 2_000
STEPS_MAX = 120
FAILING: tuple[Operation, ...] = ("create", "pwrite", "truncate", "fdatasync", "rename", "unlink", "fsync_dir")


class Unlocked:
    """A simulated disk has one process."""

    def __init__(self, folder: Path) -> None:
        """Takes nothing."""

    def check_in_place(self) -> None:
        """Nobody else changes it."""

    def release(self) -> None:
        """Gives nothing back."""


class Life:
    """One replica, from its first entry to its last crash."""

    def __init__(self, seed: int, wrap: Callable[[SimulatedDisk], FileSystem] = lambda disk: disk) -> None:
        self._rng = random.Random(seed)
        capacity = self._rng.randint(5_000, 60_000) if self._rng.random() < 0.2 else 1 << 40
        self._disk = SimulatedDisk(capacity)
        self._open_group = opener(SEGMENT_BYTES, 0, wrap(self._disk), Unlocked)
        self._judge = Judge()
        self.seen: Counter[str] = Counter()

    def live(self) -> None:
        """AssertionError or LogDamaged where something promised is gone."""
        for _ in range(self._rng.randint(2, 7)):
            self._session()
            self._disk.heal()
            self._judge.check(self._opened())
            if self._rng.random() < 0.5:
                # What was found is promised now: the power goes again before anything is written.
                self._disk.crash(self._rng)
                self._judge.check(self._opened())
            self._disk.kill()

    def _session(self) -> None:
        rng, disk = self._rng, self._disk
        if rng.random() < 0.85:
            disk.lose_power_after(rng.randint(0, 200))
        if rng.random() < 0.15:
            number = rng.choice((errno.EIO, errno.ENOSPC))
            disk.fail(rng.choice(FAILING), number, skip=rng.randint(0, 30))
        is_open = False
        try:
            storage = self._opened()
            is_open = True
            self._judge.check(storage)
            worker = Worker(storage, rng, self._judge.hear, self._judge.staging, self._make_room)
            try:
                for _ in range(rng.randint(0, STEPS_MAX)):
                    worker.step()
            finally:
                self.seen.update(worker.done)
            if rng.random() < 0.3:
                storage.close()  # which notes how far it is synced: the power may go at that, too
        except PowerLost:
            self._end(power=rng.random() < 0.7)
        except StorageFailed:
            self.seen["disk failed"] += 1
            # A sync that fails while a log is opened may have covered what was promised: only the power shows what is left.
            self._end(power=not is_open or rng.random() < 0.5)
        else:
            self._end(power=rng.random() < 0.5)

    def _opened(self) -> GroupStorage:
        while True:
            try:
                return self._open_group(FOLDER)
            except DiskFull:
                self._make_room()

    def _make_room(self) -> None:
        self._disk.capacity_bytes += 20_000

    def _end(self, power: bool) -> None:
        self.seen["power lost" if power else "killed"] += 1
        if power:
            self._disk.crash(self._rng)
        else:
            self._disk.kill()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="power_loss", description="Live many lives of a replica's storage.")
    parser.add_argument("--runs", type=int, default=1000, help="lives (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first life (default %(default)s)")
    options = parser.parse_args(argv)
    # Torn tails are expected.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seen: Counter[str] = Counter()
    begun = time.process_time()
    for seed in range(options.seed, options.seed + options.runs):
        life = Life(seed)
        try:
            life.live()
        except BaseException:
            print(f"seed {seed}: lost something; repeat: make power-loss RUNS=1 SEED={seed}", file=sys.stderr)
            raise
        seen.update(life.seen)
    last = options.seed + options.runs - 1
    print(
        f"{options.runs} lives, seeds {options.seed}..{last}, {time.process_time() - begun:.0f} s of CPU: nothing lost"
    )
    print(", ".join(f"{count} {what}" for what, count in seen.most_common()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
