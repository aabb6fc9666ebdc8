"""What the machine can do, in a process of a benchmark: bytes over a bare gRPC stream and onto the disk, without Raft.

``lead`` is the least that a replicated log has to do: a write goes to the own file and to each peer over a stream, and is
acknowledged once a majority has it.  What waits goes together (group commit, messages of up to MESSAGE_BYTES_MAX).  With one peer
and without disk it is a bare stream between two processes.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks import children
from benchmarks.loads import Figures, Run, payload_of
from stele.services.rpc.servers import SERVER_OPTIONS

METHOD = "/floor/Store"
MESSAGE_BYTES_MAX = 1 << 20
_STORED = struct.Struct(">Q")


class File:
    """Bytes appended and synced, on a thread; ``stored`` counts what is there.  Without a path it only counts."""

    def __init__(self, path: Path | None) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644) if path else -1
        self._thread = ThreadPoolExecutor(1)
        self.stored = 0

    async def append(self, content: bytes) -> None:
        if self._fd >= 0:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, content)
        self.stored += len(content)

    def _write(self, content: bytes) -> None:
        os.pwrite(self._fd, content, self.stored)
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The peer's end: stores what comes, answers how much it has."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def service(self, handler_call_details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._store) if handler_call_details.method == METHOD else None

    async def _store(self, requests: AsyncIterator[bytes], context: Any) -> None:
        sync = dict(context.invocation_metadata()).get("sync") == "1"
        file = File(self._path if sync else None)
        waiting: list[bytes] = []
        something = asyncio.Event()

        async def receive() -> None:
            async for content in requests:
                waiting.append(content)
                something.set()

        receiving = asyncio.ensure_future(receive())
        try:
            while True:
                await something.wait()
                something.clear()
                content = b"".join(waiting)
                waiting.clear()
                await file.append(content)
                await context.write(_STORED.pack(file.stored))
        finally:
            receiving.cancel()
            file.close()


class Lead:
    """The writer's end of one load.  Positions count bytes; every write is the same ``payload``, so none is kept."""

    def __init__(self, path: Path | None, size: int, in_flight: int, seconds: float) -> None:
        self._payload = payload_of(size)
        self._in_flight = in_flight
        self._run = Run(size, seconds, time.perf_counter())
        self._file = File(path)
        self._counts_itself = path is not None
        self._asked: deque[tuple[int, float]] = deque()  # (position behind the write, when)
        self._position = 0
        self._stored: list[int] = []
        self._news: list[asyncio.Event] = []
        self._over = asyncio.Event()

    async def run(self, peers: Sequence[int]) -> Figures:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channels: list[Any] = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for port in peers]
        streams = [c.stream_stream(METHOD)(metadata=(("sync", str(int(self._counts_itself))),)) for c in channels]
        places = len(streams) + self._counts_itself
        self._stored = [0] * places
        self._news = [asyncio.Event() for _ in range(places)]
        works = [work for at, stream in enumerate(streams) for work in (self._send(at, stream), self._hear(at, stream))]
        if self._counts_itself:
            works.append(self._keep(places - 1))
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(work) for work in works]
        over: asyncio.Future[Any] = asyncio.ensure_future(self._over.wait())
        self._ask(self._in_flight)
        try:
            await asyncio.wait([*tasks, over], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in (*tasks, over):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(channel.close() for channel in channels))
            self._file.close()
        return self._run.result()

    def _ask(self, count: int) -> None:
        now = time.perf_counter()
        for _ in range(count):
            self._position += len(self._payload)
            self._asked.append((self._position, now))
        for news in self._news:
            news.set()

    async def _next(self, at: int, sent: int) -> bytes:
        """What place ``at`` has not been given yet, as much as fits into one message."""
        while sent == self._position:
            self._news[at].clear()
            await self._news[at].wait()
        count = (self._position - sent) // len(self._payload)
        return self._payload * min(count, max(1, MESSAGE_BYTES_MAX // len(self._payload)))

    async def _send(self, at: int, stream: Any) -> None:
        sent = 0
        while True:
            content = await self._next(at, sent)
            sent += len(content)
            await stream.write(content)

    async def _hear(self, at: int, stream: Any) -> None:
        async for answer in stream:
            self._has_stored(at, _STORED.unpack(answer)[0])

    async def _keep(self, at: int) -> None:
        while True:
            await self._file.append(await self._next(at, self._file.stored))
            self._has_stored(at, self._file.stored)

    def _has_stored(self, at: int, position: int) -> None:
        self._stored[at] = position
        majority = sorted(self._stored, reverse=True)[len(self._stored) // 2]
        now, count = time.perf_counter(), 0
        while self._asked and self._asked[0][0] <= majority:
            self._run.answered(self._asked.popleft()[1], now)
            count += 1
        if now < self._run.end:
            self._ask(count)
        elif not self._asked:
            self._over.set()


class FloorNode:
    """``start`` comes first."""

    def __init__(self) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._path: Path

    async def start(self, path: str, port: int) -> Figures:
        self._path = Path(path)
        self._server.add_generic_rpc_handlers((Service(self._path),))
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()
        return {}

    async def write(self, size: int, seconds: float) -> Figures:
        """pwrite + fdatasync of ``size`` bytes, one after the other."""
        return await asyncio.to_thread(self._write_all, size, seconds)

    def _write_all(self, size: int, seconds: float) -> Figures:
        payload, run, offset = payload_of(size), Run(size, seconds, time.perf_counter()), 0
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        try:
            while (asked := time.perf_counter()) < run.end:
                os.pwrite(fd, payload, offset)
                os.fdatasync(fd)
                offset += size
                run.answered(asked, time.perf_counter())
        finally:
            os.close(fd)
        return run.result()

    async def lead(self, peers: Sequence[int], sync: bool, size: int, in_flight: int, seconds: float) -> Figures:
        """The load over streams to ``peers``; acknowledged once a majority of us has stored it, or the only peer where nothing syncs."""
        return await Lead(self._path if sync else None, size, in_flight, seconds).run(peers)


async def run() -> None:
    node = FloorNode()
    commands: dict[str, Any] = {"start": node.start, "write": node.write, "lead": node.lead}
    await children.serve(commands)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    sys.exit(0)
