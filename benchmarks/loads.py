"""The loads that every contestant carries, and what comes out of one."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any

from benchmarks.samples import percentiles

WARM_UP_S = 0.5
Figures = dict[str, Any]
"""JSON: names with their units, and numbers."""


@dataclass(frozen=True, slots=True)
class Load:
    """``in_flight`` proposals of ``size`` bytes are under way at any moment."""

    name: str
    size: int
    in_flight: int

    def arguments(self, seconds: float) -> dict[str, Any]:
        return {"size": self.size, "in_flight": self.in_flight, "seconds": seconds}


ONE_AT_A_TIME = Load("100 B, one at a time", 100, 1)
SMALL_64 = Load("100 B, 64 in flight", 100, 64)
SMALL_5000 = Load("100 B, 5,000 in flight", 100, 5_000)
KIB_64 = Load("64 KiB, 64 in flight", 64 << 10, 64)
MIB_1 = Load("1 MiB, 16 in flight", 1 << 20, 16)
LOADS = (ONE_AT_A_TIME, SMALL_64, SMALL_5000, KIB_64, MIB_1)


def payload_of(size: int) -> bytes:
    """Text that does not compress beyond its alphabet: stock PySyncObj compresses what it sends and swells other bytes by half."""
    return base64.b64encode(os.urandom(size))[:size]


class Run:
    """Collects one load: the answers that come between the end of the warm-up and ``end``."""

    def __init__(self, size: int, seconds: float, now: float) -> None:
        self._size = size
        self._seconds = seconds
        self._begin = now + min(WARM_UP_S, seconds / 4)
        self.end = self._begin + seconds
        self._times_ms: list[float] = []
        self._count = 0

    def answered(self, asked: float, now: float) -> None:
        if self._begin <= now < self.end:
            self._count += 1
            if asked >= self._begin:
                self._times_ms.append((now - asked) * 1e3)

    def result(self) -> Figures:
        if not self._count:
            return {"count": 0, "problem": "nothing was acknowledged"}
        per_s = self._count / self._seconds
        figures: Figures = {
            "count": self._count,
            "per_s": round(per_s, 1),
            "mb_per_s": round(per_s * self._size / 1e6, 3),
        }
        if self._times_ms:  # not where a single answer takes longer than the load
            figures["p50_ms"], figures["p99_ms"] = percentiles(self._times_ms, 0.5, 0.99)
        return figures
