"""One peer's link: what waits to be sent, and which of two streams carries it.

Guarantee: when both ends have dialled, both keep the same stream, whatever the order in which they see the two: one that the lower store
id dialled goes before one that the higher dialled, and of two by the same dialler the newer one stays (the other one is dead,
whatever it looks like).  Only a stream of the lower one on which nothing was heard of late gives way to the higher one's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from stele.services.pb import raft_pb2 as pb

QUEUE_BYTES_MAX: Final = 64 << 20  # per peer; beyond it the link is broken on purpose, and what follows starts anew
FRAME_BYTES_MAX: Final = 1 << 20  # a frame is closed once it holds this much; an entry of the largest size still fits


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
        self._queue: deque[tuple[pb.RaftMessage, int]] = deque()
        self._queue_bytes = 0

    def begin(self, stream: Stream) -> asyncio.Event:
        """``stream`` carries the link from now on; the event that ends it."""
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
        self.down.set()
        self.clear()

    def clear(self) -> None:
        self._queue.clear()
        self._queue_bytes = 0
        self.greet = False
        self.waiting.clear()

    def put(self, message: pb.RaftMessage) -> bool:
        """Queues ``message``.  False: more waits than may."""
        size = message.ByteSize()
        self._queue.append((message, size))
        self._queue_bytes += size
        return self._queue_bytes <= QUEUE_BYTES_MAX

    def take(self) -> list[pb.RaftMessage]:
        """The messages of the next frame."""
        messages, size = [], 0
        while self._queue and size < FRAME_BYTES_MAX:
            message, message_bytes = self._queue.popleft()
            messages.append(message)
            size += message_bytes
        self._queue_bytes -= size
        return messages
