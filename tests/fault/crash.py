"""A process that works on a replica's storage is killed with -9 at random moments, again and again, and goes on from the same folder.

    python -m tests.fault.crash --runs 1000 --seed 0

What it had said to be done is there every time, on the operating system's file system (replica_life.py says what that is).  The seed
gives the work; the moments of the kills are the machine's.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog

from stele.datanode.storage import opener
from tests.fault.replica_life import Judge, Worker

SEGMENT_BYTES = 16 * 1024
KILLS_PER_FOLDER = 50
START_TIMEOUT_S = 60.0
open_group = opener(SEGMENT_BYTES, 0)


def work(folder: Path, seed: int, staging: tuple[int, int] | None, report: int) -> NoReturn:
    """In the child: opens the folder and works until it is killed."""
    try:
        storage = open_group(folder)
        worker = Worker(storage, random.Random(seed), lambda line: _say(report, line), staging)
        _say(report, "begun")
        while True:
            worker.step()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _say(report: int, line: str) -> None:
    os.write(report, line.encode() + b"\n")


@dataclass
class Killer:
    """One folder and what is known of it."""

    folder: Path
    rng: random.Random
    judge: Judge = field(default_factory=Judge)
    seen: Counter[str] = field(default_factory=Counter)

    def kill_one(self) -> None:
        """A process begins, works and is killed; AssertionError or LogDamaged where it leaves less than it said."""
        read, write = os.pipe()
        seed = self.rng.getrandbits(32)
        pid = os.fork()
        if pid == 0:
            os.close(read)
            work(self.folder, seed, self.judge.staging, write)
        os.close(write)
        try:
            said = self._listen(read)
            os.kill(pid, signal.SIGKILL)
            while more := os.read(read, 1 << 16):
                said += more
        finally:
            os.close(read)
            _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the process ended by itself"
        lines = said.decode().split("\n")[:-1]
        self.seen["kills"] += 1
        self.seen["kills while it opened"] += not lines
        for line in lines:
            self.seen[line.split()[0]] += 1
            if line != "begun":
                self.judge.hear(line)
        storage = open_group(self.folder)
        try:
            self.judge.check(storage)
        finally:
            storage.close()

    def _listen(self, read: int) -> bytes:
        """What the process says until the moment to kill it: now and then while it still opens the folder."""
        said = b""
        early = self.rng.random() < 0.25
        end = time.monotonic() + (self.rng.random() * 0.005 if early else START_TIMEOUT_S)
        while (left_s := end - time.monotonic()) > 0:
            if not select.select([read], [], [], left_s)[0]:
                break
            more = os.read(read, 1 << 16)
            assert more, "the process ended by itself"
            if not said and not early:
                end = time.monotonic() + self.rng.choice((0.002, 0.03, 0.15)) * self.rng.random()
            said += more
        return said


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="crash", description="Kill a working process with -9 and judge what it left.")
    parser.add_argument("--runs", type=int, default=1000, help="kills (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the work (default %(default)s)")
    parser.add_argument("--seconds-max", type=float, default=float("inf"), help="end after so long with what is done")
    parser.add_argument("--directory", type=Path, default=None, help="where to write (default: a temporary folder)")
    options = parser.parse_args(argv)
    # Torn tails are expected.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seen: Counter[str] = Counter()
    begun = time.monotonic()
    seed = options.seed - 1
    while seen["kills"] < options.runs and time.monotonic() - begun < options.seconds_max:
        seed += 1
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            killer = Killer(Path(folder), random.Random(seed))
            for _ in range(min(KILLS_PER_FOLDER, options.runs - seen["kills"])):
                if time.monotonic() - begun >= options.seconds_max:
                    break
                try:
                    killer.kill_one()
                except BaseException:
                    print(f"folder of seed {seed}, kill {killer.seen['kills']}: lost something", file=sys.stderr)
                    raise
            seen.update(killer.seen)
    seconds = time.monotonic() - begun
    print(f"{seen.pop('kills')} kills, seeds {options.seed}..{seed}, {seconds:.0f} s: nothing lost")
    print(", ".join(f"{count} {what}" for what, count in seen.most_common()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
