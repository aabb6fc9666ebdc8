"""The durable log against the floor under it: append + sync, against pwrite + fdatasync of as many bytes to a plain file.

Both run in turn, in short slices, on the same disk, so that a slow moment of the machine meets both.  A ratio of 1.0 is the floor.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Row, row
from benchmarks.samples import percentiles
from stele.datanode.log import SegmentLog
from stele.datanode.log.frames import HEAD_BYTES
from stele.services.raft.storage import Entry

SIZES = {"100 B": 100, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
SLICES = 20
FLOOR = "pwrite + fdatasync"


@dataclass(frozen=True)
class Result:
    """Times of one write with its sync; ``ratio`` is how much longer the log's median takes than the floor's."""

    entry: str
    floor_p50_us: float
    floor_p99_us: float
    log_p50_us: float
    log_p99_us: float
    log_mib_per_s: float
    ratio: float
    cpu_us: float
    """The log's own work for one append, without disk: what remains when nothing is written or synced."""


def timed(write: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or not times:
        write()
        times.append(time.perf_counter() - start)
    return times


def measure(name: str, size: int, seconds: float, directory: Path) -> Result:
    payload = os.urandom(size)
    log = SegmentLog(directory / f"log-{size}")
    raw = os.open(directory / f"raw-{size}", os.O_RDWR | os.O_CREAT, 0o644)
    offset = 0
    block = payload + bytes(HEAD_BYTES)

    def append() -> None:
        log.append([Entry(log.last_index + 1, 1, 0, payload)])
        log.sync()

    def write() -> None:
        nonlocal offset
        os.pwrite(raw, block, offset)
        os.fdatasync(raw)
        offset += len(block)

    floor_s: list[float] = []
    log_s: list[float] = []
    try:
        for number in range(SLICES):
            turns = [(write, floor_s), (append, log_s)]
            for work, times in turns if number % 2 else reversed(turns):
                times += timed(work, seconds / SLICES)
        cpu_s = processing(payload, directory / f"cpu-{size}")
    finally:
        os.close(raw)
        log.close()
    floor, own = statistics.median(floor_s), statistics.median(log_s)
    return Result(
        name,
        round(floor * 1e6, 1),
        round(percentiles((s * 1e6 for s in floor_s), 0.99)[0], 1),
        round(own * 1e6, 1),
        round(percentiles((s * 1e6 for s in log_s), 0.99)[0], 1),
        round(size / statistics.fmean(log_s) / (1 << 20), 2),
        round(own / floor, 3),
        round(cpu_s * 1e6, 2),
    )


def processing(payload: bytes, directory: Path) -> float:
    """Median time of an append minus that of a bare pwrite of as many bytes, neither synced."""
    log = SegmentLog(directory)
    raw = os.open(directory / "raw", os.O_RDWR | os.O_CREAT, 0o644)
    block = payload + bytes(HEAD_BYTES)
    append_s: list[float] = []
    write_s: list[float] = []
    for number in range(200 if len(payload) < 1 << 20 else 50):
        entry = Entry(log.last_index + 1, 1, 0, payload)
        start = time.perf_counter()
        log.append([entry])
        middle = time.perf_counter()
        os.pwrite(raw, block, number * len(block))
        append_s.append(middle - start)
        write_s.append(time.perf_counter() - middle)
    os.close(raw)
    log.close()
    return max(0.0, statistics.median(append_s) - statistics.median(write_s))


def rows(results: list[Result]) -> list[Row]:
    return [row("log", f"append + sync, {r.entry}", r.log_p50_us, "µs", (FLOOR, r.floor_p50_us)) for r in results]
