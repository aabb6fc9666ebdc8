"""One peer's link: which of two streams carries what waits to be sent (services/raft/lanes.py), and how it fares.

Guarantee: when both ends have dialled, both keep the same stream, whatever the order in which they see the two: one that the lower store
id dialled goes before one that the higher dialled, and of two by the same dialler the newer one stays (the other one is dead,
whatever it looks like).  Only a stream of the lower one on which nothing was heard of late gives way to the higher one's.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stele.services.raft.lanes import Lanes
from stele.services.rarely import Rarely

STEADY_S: Final = 5.0  # a stream that ends sooner counts as a dial that failed


class Stream:
    """A connected stream; compared by identity."""

    __slots__ = ("by_lower",)

    def __init__(self, by_lower: bool) -> None:
        self.by_lower = by_lower  # dialled by the store with the lower id


def takes_over(by_lower: bool, current: Stream | None, current_is_live: bool) -> bool:
    """Whether a new stream, dialled by the lower store or not, takes the place of ``current``."""
    return current is None or by_lower or not current.by_lower or not current_is_live


class Link:
    """One peer."""

    def __init__(self, store_id: int, now: float) -> None:
        self.store_id = store_id
        self.users = 0  # groups with a replica there
        self.stream: Stream | None = None
        self.down = asyncio.Event()  # set while there is no stream
        self.down.set()
        self.down_since = now
        self.broken = asyncio.Event()  # set to end the stream on purpose
        self.waiting = asyncio.Event()  # set when something may leave
        self.greet = False  # an empty frame is due if nothing else leaves
        self.dialling: asyncio.Task[None] | None = None
        self.tombstone = False
        self.reported_gone = False  # since the last stream
        self.lanes = Lanes()
        self.up_since = now
        self.short_streams = 0  # in a row
        self.unsteady, self.overflows = Rarely(), Rarely()

    def begin(self, stream: Stream, now: float) -> asyncio.Event:
        """``stream`` carries the link from now on; the event that ends it."""
        self.up_since = now
        self.broken.set()
        self.broken = asyncio.Event()
        self.stream = stream
        self.reported_gone = False
        self.down.clear()
        self.clear()
        return self.broken

    def end(self, now: float) -> None:
        self.stream = None
        self.down_since = now
        self.short_streams = self.short_streams + 1 if now - self.up_since < STEADY_S else 0
        self.down.set()
        self.clear()

    def clear(self) -> None:
        self.lanes.clear()
        self.greet = False
        self.waiting.clear()
