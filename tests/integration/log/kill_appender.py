"""A process that appends to a real log and is killed with -9, again and again: what it called synced is there every time.

    python -m tests.integration.log.kill_appender --runs 1000 [--seed N] [--directory DIR]

The appender says on its standard output what it is about to do and what it has done; the judge believes nothing else:

    begin TERM | append FIRST LAST TERM | synced LAST | cut INDEX | cutdone INDEX | voting TERM VOTE | voted TERM VOTE
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from datanode.log import DirectoryLock, SegmentLog, TermFile
from services.raft.storage import Entry

SEGMENT_BYTES = 64 * 1024
START_TIMEOUT_S = 60.0


def payload(index: int, term: int) -> bytes:
    size = (index * 2654435761 + term * 40503) % 3000
    text = f"{index}/{term} ".encode()
    return (text * (size // len(text) + 1))[:size]


def appender(directory: Path, seed: int) -> None:
    """Works until it is killed."""
    rng = random.Random(seed)
    lock = DirectoryLock(directory)
    terms = TermFile(directory)
    term, _ = terms.load()
    log = SegmentLog(directory, segment_bytes=SEGMENT_BYTES, disk_reserve_bytes=0)
    _new_term(terms, term := term + 1, rng)
    say(f"begin {term}")
    while lock:
        for _ in range(rng.randint(1, 3)):
            first = log.last_index + 1
            last = first + rng.randint(0, 20)
            say(f"append {first} {last} {term}")
            log.append([Entry(index, term, 0, payload(index, term)) for index in range(first, last + 1)])
        if rng.random() < 0.9:
            log.sync()
            say(f"synced {log.last_index}")
        if rng.random() < 0.05:
            _new_term(terms, term := term + 1, rng)
            index = max(1, log.last_index - rng.choice((0, 5, 100)))
            say(f"cut {index}")
            log.truncate_from(index)
            say(f"cutdone {index}")


def _new_term(terms: TermFile, term: int, rng: random.Random) -> None:
    vote = rng.randint(1, 5)
    say(f"voting {term} {vote}")
    terms.store(term, vote)
    say(f"voted {term} {vote}")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


@dataclass
class Judge:
    """What the log must hold, from what the appender said."""

    written: list[tuple[int, int]] = field(default_factory=list)  # (index, term), from index 1 on
    promised: int = 0
    vote: tuple[int, int] = (0, 0)
    vote_asked: tuple[int, int] = (0, 0)
    kills: int = 0

    def hear(self, output: str) -> None:
        lines = output.split("\n")
        for line in lines[:-1]:  # what follows the last newline was not said to its end
            word, *values = line.split()
            numbers = [int(value) for value in values]
            match word:
                case "append":
                    first, last, term = numbers
                    assert first == len(self.written) + 1, f"{line}, after {len(self.written)} entries"
                    self.written += [(index, term) for index in range(first, last + 1)]
                case "synced":
                    self.promised = numbers[0]
                case "cut":
                    self.promised = min(self.promised, numbers[0] - 1)
                case "cutdone":
                    del self.written[numbers[0] - 1 :]
                case "voting":
                    self.vote_asked = (numbers[0], numbers[1])
                case "voted":
                    self.vote = (numbers[0], numbers[1])
                case "begin":
                    pass
                case _:
                    raise AssertionError(f"the appender said {line!r}")

    def check(self, directory: Path) -> None:
        """Opens what the dead process left.  AssertionError, or LogDamaged, if anything it promised is not there."""
        with DirectoryLock(directory):
            vote = TermFile(directory).load()
            assert vote in (self.vote, self.vote_asked), f"vote {vote}, promised {self.vote}, asked {self.vote_asked}"
            self.vote = self.vote_asked = vote
            log = SegmentLog(directory, segment_bytes=SEGMENT_BYTES, disk_reserve_bytes=0)
            log.validate()
            last = log.last_index
            assert last >= self.promised, f"{self.promised} entries were promised, {last} are there"
            assert last <= len(self.written), f"{last} entries are there, {len(self.written)} were ever written"
            at = 1
            while at <= last:
                for entry in log.read(at, last, 1 << 20):
                    assert (entry.index, entry.term) == self.written[at - 1]
                    assert entry.payload == payload(entry.index, entry.term), f"entry {at} reads as another"
                    at += 1
            log.close()
            del self.written[last:]
            self.promised = last


def kill_one(directory: Path, judge: Judge, rng: random.Random) -> None:
    """Starts the appender, kills it at a random moment, judges."""
    command = [sys.executable, "-m", "tests.integration.log.kill_appender", "--appender", str(directory)]
    process = subprocess.Popen([*command, "--seed", str(rng.getrandbits(32))], stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = b""
    life_s = rng.choice((0.0, 0.01, 0.1)) + rng.random() * 0.05
    deadline = time.monotonic() + START_TIMEOUT_S
    begun = False
    try:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                assert begun, "the appender did not begin"
                break
            if select.select([process.stdout], [], [], left_s)[0]:
                more = os.read(process.stdout.fileno(), 65536)
                assert more, f"the appender ended by itself: {process.wait(30)}"
                output += more
                if not begun and b"begin" in output:
                    begun = True
                    deadline = time.monotonic() + life_s
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
    judge.hear((output + rest).decode())
    judge.kills += 1
    judge.check(directory)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="kill_appender", description="Kill an appender with -9 and check its log, many times."
    )
    parser.add_argument("--runs", type=int, default=1000, help="kills (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's random choices")
    parser.add_argument("--directory", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--per-log", type=int, default=25, help="kills before a new log begins (default %(default)s)")
    parser.add_argument("--appender", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.appender is not None:
        appender(options.appender, options.seed)
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # torn tails are expected
    print(f"seed {seed}", file=sys.stderr)
    rng = random.Random(seed)
    entries = kills = 0
    while kills < options.runs:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            judge = Judge()
            for _ in range(min(options.per_log, options.runs - kills)):
                kill_one(Path(directory), judge, rng)
                kills += 1
            entries += len(judge.written)
        print(f"\r{kills}/{options.runs} kills, {entries} entries kept, 0 lost", end="", file=sys.stderr)
    print(f"\n{kills} kills: nothing lost")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
