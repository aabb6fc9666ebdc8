"""Raft messages between stores: one bidirectional gRPC stream per pair of datanodes carries every group they share.

Guarantee: between "connected" and "disconnected" the messages to one peer arrive in order and at most once; when a stream breaks, all
groups on it learn so at once and what was queued is dropped.  The store with the lower id dials.  Addresses come from the
resolver: a tombstone ends the link for good (R2.3), another store at the address makes it resolve again (R2.5).

When a stream breaks, the peer's Raft port is dialled again at once: if that is refused the process is gone, and its groups are told.  A
port that merely does not answer says nothing (a pause, a partition): there the election timeout decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
import structlog

from services.errors import (
    ClusterMismatch,
    ConnectionBroken,
    InvalidArgument,
    SteleError,
    StoreMismatch,
    StoreTombstone,
)
from services.pb import raft_pb2 as pb
from services.pb import raft_pb2_grpc
from services.rpc.channels import Channels
from services.rpc.resolver import Resolver
from services.rpc.status import from_rpc_error

log = structlog.get_logger()

QUEUE_BYTES_MAX = (
    64 << 20
)  # per peer; beyond it the link is broken on purpose, and what follows starts from what was acknowledged
FRAME_BYTES_MAX = (
    1 << 20
)  # a frame is closed once it holds this much; one entry of the largest size still fits the message limit
HELLO_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 0.3
PROBES = 3
REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 1.0
MISMATCH_WAIT_S = 5.0
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
RESOLVE_AGAIN_AFTER = 5  # failed dials in a row


class Listener(Protocol):
    """Who is told what arrives: the registry."""

    def deliver(self, sender: int, message: pb.RaftMessage) -> None: ...

    def peer_connected(self, store_id: int) -> None: ...

    def peer_disconnected(self, store_id: int) -> None: ...

    def peer_gone(self, store_id: int) -> None: ...


class _Link:
    """One peer."""

    def __init__(self, store_id: int) -> None:
        self.store_id = store_id
        self.users = 0
        self.queue: list[pb.RaftMessage] = []
        self.queue_bytes = 0
        self.waiting = asyncio.Event()
        self.stream: object | None = None  # identity of the stream that is connected now
        self.broken = asyncio.Event()
        self.dialling: asyncio.Task[None] | None = None
        self.probing: asyncio.Task[None] | None = None
        self.tombstone = False

    def clear(self) -> None:
        self.queue.clear()
        self.queue_bytes = 0
        self.waiting.clear()


class RaftTransport(raft_pb2_grpc.RaftServicer):
    """Links to the peers of one store.  Register it with a server (``services.rpc.servers``) on the Raft port."""

    def __init__(
        self, store_id: int, cluster_id: str, channels: Channels, resolver: Resolver, rng: random.Random
    ) -> None:
        self.store_id = store_id
        self.cluster_id = cluster_id
        self._channels = channels
        self._resolver = resolver
        self._rng = rng
        self._links: dict[int, _Link] = {}
        self._touched: dict[_Link, None] = {}
        self._listener: Listener | None = None
        self._closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    # --- what the groups use ------------------------------------------------------------------------------------------

    def use(self, store_id: int) -> None:
        """A group has a replica on ``store_id``: keep a link to it."""
        link = self._link(store_id)
        link.users += 1
        if self.store_id < store_id and link.dialling is None and not link.tombstone and not self._closed:
            link.dialling = asyncio.get_running_loop().create_task(self._dial(link), name=f"raft-dial-{store_id}")

    def release(self, store_id: int) -> None:
        """The counterpart of :meth:`use`; the last one closes the link."""
        link = self._links[store_id]
        link.users -= 1
        if link.users == 0:
            link.broken.set()
            if link.dialling is not None:
                link.dialling.cancel()
                link.dialling = None

    def is_connected(self, store_id: int) -> bool:
        link = self._links.get(store_id)
        return link is not None and link.stream is not None

    def send(self, to: int, message: pb.RaftMessage) -> None:
        """Queues a message; dropped while there is no link.  Leaves with :meth:`flush`."""
        link = self._links.get(to)
        if link is None or link.stream is None:
            return
        link.queue.append(message)
        link.queue_bytes += message.ByteSize()
        self._touched[link] = None
        if link.queue_bytes > QUEUE_BYTES_MAX:
            log.warning("raft_link_overflow", peer=to, queue_bytes=link.queue_bytes)
            link.broken.set()

    def flush(self) -> None:
        """Lets everything queued leave, many messages to a frame."""
        for link in self._touched:
            link.waiting.set()
        self._touched.clear()

    async def close(self) -> None:
        self._closed = True
        tasks = [t for link in self._links.values() for t in (link.dialling, link.probing) if t is not None]
        for link in self._links.values():
            link.broken.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _link(self, store_id: int) -> _Link:
        link = self._links.get(store_id)
        if link is None:
            link = self._links[store_id] = _Link(store_id)
        return link

    # --- accepting (from stores with lower ids) -------------------------------------------------------------------------

    async def Exchange(self, request_iterator: AsyncIterator[pb.RaftFrame], context: Any) -> None:
        """gRPC handler.  Errors: InvalidArgument, StoreMismatch, ClusterMismatch."""
        hello = await self._heard(request_iterator)
        if hello.to_store_id != self.store_id:
            raise StoreMismatch(
                f"this is store {self.store_id}, not {hello.to_store_id}", expected=hello.to_store_id, got=self.store_id
            )
        if hello.cluster_id != self.cluster_id:
            raise ClusterMismatch(
                f"this store belongs to cluster {self.cluster_id}, the caller to {hello.cluster_id}",
                expected=self.cluster_id,
                got=hello.cluster_id,
            )
        if hello.from_store_id in (0, self.store_id):
            raise InvalidArgument(f"store {hello.from_store_id} is no peer of store {self.store_id}")
        await context.write(pb.RaftFrame(hello=self._hello(hello.from_store_id)))

        async def read() -> pb.RaftFrame | None:
            return await anext(request_iterator, None)

        link = self._link(hello.from_store_id)
        link.probing = asyncio.get_running_loop().create_task(self._remember_address(link))
        await self._run(link, read, context.write)

    async def _heard(self, frames: AsyncIterator[pb.RaftFrame]) -> pb.RaftHello:
        """The hello that opens a stream."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await anext(frames, None)
        except TimeoutError:
            first = None
        if first is None or not first.HasField("hello"):
            raise InvalidArgument("a stream between stores begins with a hello")
        return first.hello

    def _hello(self, to: int) -> pb.RaftHello:
        return pb.RaftHello(cluster_id=self.cluster_id, from_store_id=self.store_id, to_store_id=to)

    # --- dialling (stores with higher ids) ------------------------------------------------------------------------------

    async def _dial(self, link: _Link) -> None:
        wait_s = REDIAL_MIN_S
        failures = 0
        while True:
            pause_s = wait_s
            failures += 1
            try:
                address = await self._resolver.resolve(link.store_id)
                if await self._refused(address.raft_endpoint):
                    self._tell_gone(link)
                elif await self._dial_once(link, address.raft_endpoint):
                    wait_s = pause_s = 0.0
                    failures = 0
            except StoreTombstone:
                link.tombstone = True
                link.clear()
                return
            except StoreMismatch:
                self._resolver.invalidate(link.store_id)
            except ClusterMismatch as e:
                log.error("raft_peer_of_other_cluster", peer=link.store_id, error=str(e))
                pause_s = MISMATCH_WAIT_S
            except (SteleError, TimeoutError) as e:
                log.debug("raft_dial_failed", peer=link.store_id, error=str(e))
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            wait_s = min(max(wait_s * 1.5, REDIAL_MIN_S), REDIAL_MAX_S)
            if failures and failures % RESOLVE_AGAIN_AFTER == 0:
                self._resolver.invalidate(link.store_id)  # it may have come back elsewhere

    async def _dial_once(self, link: _Link, endpoint: str) -> bool:
        """Runs one stream to its end.  True if it was connected."""
        connected = False
        try:
            stub: Any = raft_pb2_grpc.RaftStub(self._channels.get(endpoint))  # type: ignore[no-untyped-call]
            call = stub.Exchange()
            await asyncio.wait_for(call.write(pb.RaftFrame(hello=self._hello(link.store_id))), HELLO_TIMEOUT_S)
            answer = await asyncio.wait_for(call.read(), HELLO_TIMEOUT_S)
            if answer is _EOF:
                raise ConnectionBroken(f"{endpoint} ended the stream without an answer")
            if answer.hello.from_store_id != link.store_id:
                raise StoreMismatch(
                    f"{endpoint} is store {answer.hello.from_store_id}, not {link.store_id}",
                    expected=link.store_id,
                    got=answer.hello.from_store_id,
                )

            async def read() -> pb.RaftFrame | None:
                frame = await call.read()
                return None if frame is _EOF else frame

            connected = True
            await self._run(link, read, call.write)
        except grpc.RpcError as e:
            if not connected:
                raise from_rpc_error(e) from None
        finally:
            await self._channels.close(endpoint)
        return connected

    async def _refused(self, endpoint: str) -> bool:
        """Whether nobody listens at ``endpoint``: the process, or its host, is gone."""
        host, _, port = endpoint.rpartition(":")
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), PROBE_TIMEOUT_S)
        except TimeoutError:
            return False
        except OSError:
            return True
        writer.close()
        return False

    async def _probe(self, link: _Link) -> None:
        """The accepting side's redial: only to learn whether the peer's process is gone."""
        for _ in range(PROBES):
            try:
                address = await self._resolver.resolve(link.store_id, timeout_s=PROBE_TIMEOUT_S)
            except SteleError as e:
                log.debug("raft_probe_failed", peer=link.store_id, error=str(e))
                return
            if link.stream is not None:
                return
            if await self._refused(address.raft_endpoint):
                self._tell_gone(link)
                return
            await asyncio.sleep(REDIAL_MIN_S)

    async def _remember_address(self, link: _Link) -> None:
        """Resolves a peer that dialled us while it lives, so that a later probe asks nobody."""
        with contextlib.suppress(SteleError):
            await self._resolver.resolve(link.store_id, timeout_s=PROBE_TIMEOUT_S * 10)

    # --- a connected stream ---------------------------------------------------------------------------------------------

    async def _run(
        self,
        link: _Link,
        read: Callable[[], Awaitable[pb.RaftFrame | None]],
        write: Callable[[pb.RaftFrame], Awaitable[None]],
    ) -> None:
        """Carries frames both ways until either side ends, the link is broken on purpose, or a newer stream takes its place."""
        if self._closed or link.tombstone:
            return
        if link.stream is not None:  # the peer has dialled anew: the old stream is dead, whatever it looks like
            self._lost(link)
        stream = object()
        link.broken.set()
        link.broken = broken = asyncio.Event()
        link.stream = stream
        link.clear()
        log.info("raft_peer_connected", peer=link.store_id)
        if self._listener is not None:
            self._listener.peer_connected(link.store_id)
        tasks = [
            asyncio.ensure_future(self._read_all(link, stream, read)),
            asyncio.ensure_future(self._write_all(link, stream, write)),
            asyncio.ensure_future(broken.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            if link.stream is stream:
                self._lost(link)
                if self.store_id > link.store_id and link.users and not self._closed:
                    link.probing = asyncio.get_running_loop().create_task(self._probe(link))
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self, link: _Link, stream: object, read: Callable[[], Awaitable[pb.RaftFrame | None]]) -> None:
        while (frame := await read()) is not None and link.stream is stream:
            if self._listener is not None:
                for message in frame.messages:
                    self._listener.deliver(link.store_id, message)

    async def _write_all(self, link: _Link, stream: object, write: Callable[[pb.RaftFrame], Awaitable[None]]) -> None:
        while link.stream is stream:
            await link.waiting.wait()
            link.waiting.clear()
            while link.queue and link.stream is stream:
                taken, size = 0, 0
                for message in link.queue:
                    taken += 1
                    size += message.ByteSize()
                    if size >= FRAME_BYTES_MAX:
                        break
                frame = pb.RaftFrame(messages=link.queue[:taken])
                del link.queue[:taken]
                link.queue_bytes -= size
                await write(frame)

    def _lost(self, link: _Link) -> None:
        link.stream = None
        link.clear()
        log.info("raft_peer_disconnected", peer=link.store_id)
        if self._listener is not None:
            self._listener.peer_disconnected(link.store_id)

    def _tell_gone(self, link: _Link) -> None:
        if self._listener is not None and not self._closed:
            self._listener.peer_gone(link.store_id)
