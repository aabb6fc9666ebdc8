"""Figures from samples, and what the system says of a process."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hdrh.histogram import HdrHistogram

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
THOUSANDTHS_MAX = 10**10  # in milliseconds: more than a hundred days
DIGITS = 5


def percentiles(values: Iterable[float], *shares: float) -> tuple[float, ...]:
    """For each of ``shares`` the smallest sample that at least so many of all do not exceed, to a thousandth of its unit and to
    five digits."""
    histogram = HdrHistogram(1, THOUSANDTHS_MAX, DIGITS)
    for thousandths, count in Counter(round(value * 1000) for value in values).items():
        assert histogram.record_value(thousandths, count), f"{thousandths / 1000} is beyond what is counted"
    found = (histogram.get_value_at_percentile(share * 100) for share in shares)
    return tuple(histogram.get_lowest_equivalent_value(value) / 1000 for value in found)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
