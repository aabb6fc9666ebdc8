"""Randomness, passed in wherever a decision depends on it, so that tests print its seed and the simulator owns it.  Pure: who
makes one says where it comes from, e.g. ``random.Random(seed)``."""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """What decisions draw."""

    def uniform(self, a: float, b: float, /) -> float: ...

    def randrange(self, stop: int, /) -> int: ...

    def getrandbits(self, k: int, /) -> int: ...
