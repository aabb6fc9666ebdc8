"""Snapshots between stores: the bytes of one, from an offset on, over a connection of their own (H16).

Guarantee: a stream that ends well has carried every byte from ``offset`` to the end, in order; any other end is an error of the tree, and
what was received until then is good: the transfer is resumed where it stopped.  A snapshot that is dropped while it is read stays
readable to the end.  Transfers never share a connection with heartbeats, and what they hold in memory is bounded.

What a transfer does not promise: that the bytes are those that the snapshot's owner wrote.  Its receiver checks the whole against
size and CRC32C before it counts for anything.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    ConnectionBroken,
    InvalidArgument,
    LogDamaged,
    Overloaded,
    SnapshotNotFound,
    StoreMismatch,
    Timeout,
)
from stele.services.pb import raft_pb2 as pb
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.storage import SnapshotSource
from stele.services.rpc.channels import Channels
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.status import typed_errors

CHUNK_BYTES_MAX: Final = 256 << 10
CONNECT_TIMEOUT_S: Final = 2.0
STALL_TIMEOUT_S: Final = 5.0  # the receiver waits this long for a chunk
READER_TIMEOUT_S: Final = 30.0  # the sender waits this long for room to send a chunk
SERVED_MAX: Final = 8  # transfers from one store at a time
FETCHED_MAX: Final = 4  # transfers to one store at a time; further ones wait

# The receiver's window bounds what is under way of one transfer; left to itself it grows with the measured bandwidth.
WINDOW_BYTES: Final = 1 << 20
OPTIONS: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WINDOW_BYTES))
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


class _Opened:
    """A source whose blocking calls run on threads.  The lock puts ``close`` behind a call that is still under way: a coroutine that
    is cancelled does not stop its thread."""

    def __init__(self, open_: Callable[[], SnapshotSource]) -> None:
        self._open = open_
        self._lock = threading.Lock()
        self._source: SnapshotSource | None = None
        self._closed = False

    def open(self) -> int:
        """The snapshot's size."""
        with self._lock:
            if self._closed:
                return 0
            self._source = self._open()
            return self._source.snapshot.size

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            return self._source.read(offset, length) if self._source is not None and not self._closed else b""

    def close(self) -> None:
        with self._lock:
            if self._source is not None and not self._closed:
                self._source.close()
            self._closed = True


class Served:
    """The sender's end."""

    def __init__(self, pace: BuildPace, clock: Clock = SYSTEM) -> None:
        self._pace, self._now = pace, clock.monotonic
        self._count = 0

    async def serve(
        self, request: pb.FetchSnapshotRequest, open_: Callable[[int, int], SnapshotSource], context: Any
    ) -> None:
        """Writes the chunks.  Errors: SnapshotNotFound, InvalidArgument (an offset behind the end), Overloaded, LogDamaged, Timeout, and
        what ``open_`` raises."""
        if self._count >= SERVED_MAX:
            raise Overloaded(f"{self._count} snapshots are being read from this store", limit=SERVED_MAX)
        self._count += 1
        source = _Opened(lambda: open_(request.group, request.index))
        try:
            await self._send(request, source, context)
        finally:
            self._count -= 1
            asyncio.get_running_loop().run_in_executor(None, source.close)

    async def _send(self, request: pb.FetchSnapshotRequest, source: _Opened, context: Any) -> None:
        try:
            size = await asyncio.to_thread(source.open)
        except KeyError:
            raise SnapshotNotFound(
                f"there is no snapshot {request.index} of group {request.group} any more",
                group=request.group,
                index=request.index,
            ) from None
        if request.offset > size:
            raise InvalidArgument(f"snapshot {request.index} has {size} bytes; asked for from {request.offset} on")
        offset = request.offset
        while offset < size:
            chunk = await asyncio.to_thread(source.read, offset, min(CHUNK_BYTES_MAX, size - offset))
            if not chunk:
                raise LogDamaged(f"snapshot {request.index} of group {request.group} ends early", offset=offset)
            await self._wait(len(chunk))
            try:
                async with asyncio.timeout(READER_TIMEOUT_S):
                    await context.write(pb.SnapshotChunk(offset=offset, data=chunk))
            except TimeoutError:
                raise Timeout("the reader takes nothing", timeout_s=READER_TIMEOUT_S) from None
            offset += len(chunk)

    async def _wait(self, size: int) -> None:
        """Until so much may be sent.  Who comes first goes first: it is counted before it is waited for."""
        wait_s = self._pace.wait_s(self._now())
        self._pace.took(size, self._now())
        if wait_s:
            await asyncio.sleep(wait_s)


class Fetches:
    """The receiver's end."""

    def __init__(self, cluster_id: str, channels: Channels, resolver: Resolver) -> None:
        self._cluster_id = cluster_id
        self._channels = channels
        self._resolver = resolver
        self._turns = asyncio.Semaphore(FETCHED_MAX)

    async def fetch(self, store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` on.  Raises SteleError: SnapshotNotFound when the snapshot is gone (the leader will offer
        another), anything else when it may be resumed."""
        request = pb.FetchSnapshotRequest(
            cluster_id=self._cluster_id, to_store_id=store_id, group=group_id, index=index, offset=offset
        )
        async with self._turns:
            address = await self._resolver.resolve(store_id, timeout_s=CONNECT_TIMEOUT_S)
            channel = self._channels.apart(address.raft_endpoint, OPTIONS)
            try:
                await channel.connected(CONNECT_TIMEOUT_S)
                stub: Any = raft_pb2_grpc.RaftStub(channel)  # type: ignore[no-untyped-call]
                call = stub.FetchSnapshot(request)
                while (chunk := await self._next(call)) is not None:
                    if chunk.offset != offset:
                        raise ConnectionBroken(f"byte {chunk.offset} of the snapshot came where {offset} was due")
                    offset += len(chunk.data)
                    yield chunk.data
            except StoreMismatch:
                self._resolver.invalidate(store_id, address)
                raise
            finally:
                await channel.close()

    async def _next(self, call: Any) -> pb.SnapshotChunk | None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                with typed_errors():
                    chunk = await call.read()
        except TimeoutError:
            raise Timeout("the snapshot's bytes do not come", timeout_s=STALL_TIMEOUT_S) from None
        return None if chunk is _EOF else chunk
