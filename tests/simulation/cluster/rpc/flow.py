"""Flow control of one stream: what may be under way in one direction, and what waits at either side."""

from __future__ import annotations

import asyncio
from collections import deque

from tests.simulation.cluster.rpc.network import End


def too_large(message: bytes, bytes_max: int) -> bool:
    return 0 <= bytes_max < len(message)


class Outflow:
    """Messages on their way out: a message leaves while less than the window is unread at the other side; one that is larger than the
    window leaves alone.  Whoever sends waits until its message has left."""

    def __init__(self, loop: asyncio.AbstractEventLoop, window_bytes: int = 64 << 10) -> None:
        self._loop = loop
        self._window_bytes = window_bytes
        self._unread_bytes = 0  # at the other side, as far as is known
        self._queue: deque[tuple[bytes, asyncio.Future[bool] | None]] = deque()
        self._end: End | None = None
        self._id = 0
        self._closing = False
        self._closed = False
        self._over = False
        self._drained: list[asyncio.Future[bool]] = []

    def open(self, end: End, stream_id: int) -> None:
        self._end, self._id = end, stream_id
        self._pump()

    def put(self, message: bytes) -> None:
        """Leaves when it may; nobody waits."""
        self._queue.append((message, None))
        self._pump()

    async def send(self, message: bytes) -> bool:
        """Returns once it has left.  False: the stream is over."""
        if self._over:
            return False
        if not self._queue and self._may_leave(message):
            self._leave(message)
            await asyncio.sleep(0)
            return not self._over
        left: asyncio.Future[bool] = self._loop.create_future()
        self._queue.append((message, left))
        return await left

    async def drained(self) -> None:
        """Everything that was given has left, or the stream is over."""
        while self._queue:
            left: asyncio.Future[bool] = self._loop.create_future()
            self._drained.append(left)
            await left

    def close(self) -> None:
        """Nothing more comes."""
        self._closing = True
        self._pump()

    def grant(self, size: int) -> None:
        self._unread_bytes -= size
        self._pump()

    def fail(self) -> None:
        self._over = True
        queue, self._queue = self._queue, deque()
        for _, left in queue:
            if left is not None and not left.done():
                left.set_result(False)
        self._tell_drained()

    def _tell_drained(self) -> None:
        if self._drained and not self._queue:
            drained, self._drained = self._drained, []
            for left in drained:
                if not left.done():
                    left.set_result(True)

    def _may_leave(self, message: bytes) -> bool:
        if self._end is None:
            return False
        unread = self._unread_bytes
        return unread + len(message) <= self._window_bytes or unread <= self._window_bytes // 4

    def _leave(self, message: bytes) -> None:
        assert self._end is not None
        self._unread_bytes += len(message)
        self._end.send("message", self._id, message)

    def _pump(self) -> None:
        while self._queue and self._may_leave(self._queue[0][0]):
            message, left = self._queue.popleft()
            self._leave(message)
            if left is not None and not left.done():
                left.set_result(True)
        self._tell_drained()
        if self._closing and not self._closed and not self._queue and self._end is not None:
            self._closed = True
            self._end.send("half", self._id)


class Inflow:
    """Messages that have come and wait to be read."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._messages: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._read_bytes = 0  # that the other side has not been told of
        self._ended = False

    @property
    def waiting(self) -> bool:
        return bool(self._messages)

    @property
    def awaited(self) -> bool:
        """Somebody waits for the next one."""
        return self._reader is not None and not self._reader.done()

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._wake()

    def take(self) -> bytes | None:
        return self._messages.popleft() if self._messages else None

    async def next(self) -> bytes | None:
        """The next message; None at the end."""
        if self._messages or self._ended:
            await asyncio.sleep(0)
        while not self._messages and not self._ended:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._messages.popleft() if self._messages else None

    def took(self, message: bytes) -> int:
        """How much the other side may now be told that was read."""
        self._read_bytes += len(message)
        if self._read_bytes < self._window_bytes // 4:
            return 0
        granted, self._read_bytes = self._read_bytes, 0
        return granted

    def end_behind(self) -> None:
        """Behind what is here nothing comes."""
        self._ended = True

    def end(self) -> None:
        self._ended = True
        self._wake()

    def drop(self) -> None:
        self._messages.clear()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
