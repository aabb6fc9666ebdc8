"""Raft messages between stores: one bidirectional gRPC stream per pair of datanodes carries every group they share.

Guarantee: between "connected" and "disconnected" the messages to one peer arrive at most once, and in order; when a stream breaks, all
groups on it learn so at once and what was queued is dropped.  The store with the lower id dials, the other one only where no stream has
come for ``DIAL_ANYWAY_S`` (a replica that lags behind a membership change does not know its new peer); services/raft/links.py says
which stream stays if both do.  Addresses come from the resolver: a tombstone ends the link for good (R2.3), another store at the
address makes it resolve again (R2.5).

Groups that share a link send entries by turns, behind what carries none: services/raft/lanes.py.  So the order is that of each group.

When a stream breaks, the peer's Raft port is dialled again at once, or with backoff if the stream had not stood long: if that is refused
the process is gone, and its groups are told.  A port that merely does not answer says nothing (a pause, a partition): there the election
timeout decides.  A link on which nothing is said carries empty frames, so that silence means something: services/raft/liveness.py.

Snapshots travel apart from all this, and so do entries that replace damaged ones: services/raft/snapshot_transfer.py, mending.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import structlog

from stele.services.backoff import Backoff
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    ClusterMismatch,
    ConnectionBroken,
    InvalidArgument,
    NotReady,
    SteleError,
    StoreMismatch,
    StoreTombstone,
    StoreUnknown,
)
from stele.services.pb import raft_pb2 as pb
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.entries import Batch
from stele.services.raft.links import Link, Stream, takes_over
from stele.services.raft.listener import Listener
from stele.services.raft.liveness import Liveness
from stele.services.raft.mending import fetch_entries
from stele.services.raft.snapshot_transfer import Fetches, Served
from stele.services.raft.storage import Entry
from stele.services.raft.timing import Timing
from stele.services.rpc.channels import Channels
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.status import from_rpc_error
from stele.services.tasks import Tasks

log = structlog.get_logger()

HELLO_TIMEOUT_S: Final = 2.0
PROBE_TIMEOUT_S: Final = 0.3
PROBES: Final = 3
REDIAL: Final = Backoff(first_s=0.05, max_s=1.0, factor=1.5)
MISMATCH_REDIAL: Final = Backoff(first_s=5.0, max_s=5.0)
DIAL_ANYWAY_S: Final = 2.0
RESOLVE_AGAIN_AFTER: Final = 5  # failed dials in a row
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
# What a stream that its peer, or gRPC, has ended is read and written with.
_STREAM_ENDED = (SteleError, grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
_GREETING: Final = pb.RaftFrame()


class RaftTransport(raft_pb2_grpc.RaftServicer):
    """Links to the peers of one store.  Register it with a server (``stele.services.rpc.servers``) on the Raft port."""

    def __init__(
        self,
        store_id: int,
        cluster_id: str,
        channels: Channels,
        resolver: Resolver,
        rng: random.Random,
        *,
        timing: Timing | None = None,
        clock: Clock = SYSTEM,
        pace: BuildPace | None = None,
    ) -> None:
        self.store_id = store_id
        self.cluster_id = cluster_id
        self._channels = channels
        self._resolver = resolver
        self._rng = rng
        self._now = clock.monotonic
        timing = timing or Timing()
        self._liveness = Liveness(timing.heartbeat_s, timing.election_min_s)
        self._looking: asyncio.TimerHandle | None = None
        self._served = Served(pace or BuildPace(), clock)
        self._fetches = Fetches(cluster_id, channels, resolver)
        self._links: dict[int, Link] = {}
        self._touched: dict[Link, None] = {}
        self._tasks = Tasks()
        self._listener: Listener | None = None
        self._closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    # --- what the groups use ------------------------------------------------------------------------------------------

    def use(self, store_id: int) -> None:
        """A group has a replica on ``store_id``: keep a link to it."""
        link = self._link(store_id)
        link.users += 1
        if link.dialling is None and not link.tombstone and not self._closed:
            link.dialling = self._tasks.keep(functools.partial(self._dial, link), f"raft-dial-{store_id}")

    def release(self, store_id: int) -> None:
        """The counterpart of :meth:`use`; the last one closes the link."""
        link = self._links[store_id]
        link.users -= 1
        if link.users == 0:
            link.broken.set()
            if link.dialling is not None:
                link.dialling.cancel()
                link.dialling = None
            self._forget_unused(link)

    def is_connected(self, store_id: int) -> bool:
        link = self._links.get(store_id)
        return link is not None and link.stream is not None

    def last_active(self, store_id: int) -> float:
        """When the peer last said anything, in monotonic seconds; minus infinity if never."""
        return self._liveness.last_active(store_id)

    def send(self, to: int, message: pb.RaftMessage) -> None:
        """Queues a message; dropped while there is no link.  Leaves with :meth:`flush`."""
        link = self._links.get(to)
        if link is None or link.stream is None:
            return
        self._touched[link] = None
        if not link.lanes.put(message):
            if times := link.overflows.times(self._now()):
                log.warning("raft_link_overflow", peer=to, times=times)
            link.broken.set()

    def may_send(self, to: int, group_id: int, ahead_bytes: int) -> bool:
        """Whether a group may send one more batch of entries, ``ahead_bytes`` being on their way.  If not, the listener is told when
        its turn has come."""
        link = self._links.get(to)
        return link is None or link.stream is None or link.lanes.may_send(group_id, ahead_bytes)

    def flush(self) -> None:
        """Lets everything queued leave, many messages to a frame."""
        for link in self._touched:
            link.waiting.set()
        self._touched.clear()

    def fetch_snapshot(self, store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]:
        """The bytes of that store's snapshot from ``offset`` on.  Raises SteleError: SnapshotNotFound when it is gone, anything else
        when the transfer may be resumed."""
        return self._fetches.fetch(store_id, group_id, index, offset)

    async def fetch_entries(self, store_id: int, group_id: int, first: int, last: int) -> list[Entry]:
        """Committed entries of that store's replica, from ``first`` on, at least that one.  Raises SteleError: LogDamaged when they
        are damaged there too."""
        request = pb.FetchEntriesRequest(
            cluster_id=self.cluster_id, to_store_id=store_id, group=group_id, first=first, last=last
        )
        return await fetch_entries(request, self._channels, self._resolver)

    async def close(self) -> None:
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        for link in self._links.values():
            link.broken.set()
        await self._tasks.cancel()

    def _link(self, store_id: int) -> Link:
        link = self._links.get(store_id)
        if link is None:
            link = self._links[store_id] = Link(store_id, self._now())
        return link

    def _forget_unused(self, link: Link) -> None:
        """No group has a replica there, and no stream stands.  A tombstone stays known: it is not asked for again (R2.3)."""
        if not link.users and link.stream is None and not link.tombstone and self._links.get(link.store_id) is link:
            del self._links[link.store_id]
            self._liveness.forget(link.store_id)

    # --- accepting ------------------------------------------------------------------------------------------------------

    async def Exchange(self, request_iterator: AsyncIterator[pb.RaftFrame], context: Any) -> None:
        """gRPC handler.  Errors: InvalidArgument, StoreMismatch, ClusterMismatch, StoreUnknown, StoreTombstone.  A stream that is not
        wanted beside the one there is ends without an answer."""
        hello = await self._hello_of(request_iterator)
        self._check_addressee(hello.to_store_id, hello.cluster_id)
        if hello.from_store_id in (0, self.store_id):
            raise InvalidArgument(f"store {hello.from_store_id} is no peer of store {self.store_id}")
        known = self._links.get(hello.from_store_id)
        if (
            known is None or not known.users
        ):  # a member of no group here; one of ours may lag behind a change that made it one
            await self._check_known(hello.from_store_id)
        link = self._link(hello.from_store_id)  # only now: whatever a caller claims to be would be kept
        stream = Stream(by_lower=link.store_id < self.store_id)

        async def read() -> pb.RaftFrame | None:
            return await anext(request_iterator, None)

        try:
            if self._takes_over(link, stream):
                await context.write(pb.RaftFrame(hello=self._hello(link.store_id)))
                self._tasks.start(self._remember_address(link), f"raft-resolve-{link.store_id}")
                await self._run(link, stream, read, context.write)
        finally:
            self._forget_unused(link)

    async def FetchSnapshot(self, request: pb.FetchSnapshotRequest, context: Any) -> None:
        """gRPC handler.  Errors: StoreMismatch, ClusterMismatch, NotReady, and those of ``Served.serve``."""
        self._check_addressee(request.to_store_id, request.cluster_id)
        if self._listener is None:
            raise NotReady(f"store {self.store_id} is starting")
        await self._served.serve(request, self._listener.open_snapshot, context)

    async def FetchEntries(self, request: pb.FetchEntriesRequest, context: Any) -> pb.FetchedEntries:
        """gRPC handler.  Errors: StoreMismatch, ClusterMismatch, NotReady, GroupNotFound, LogDamaged."""
        self._check_addressee(request.to_store_id, request.cluster_id)
        if self._listener is None:
            raise NotReady(f"store {self.store_id} is starting")
        batch = Batch(await self._listener.read_entries(request.group, request.first, request.last))
        return pb.FetchedEntries(payloads=batch.payloads, runs=batch.runs)

    def _check_addressee(self, store_id: int, cluster_id: str) -> None:
        if store_id != self.store_id:
            raise StoreMismatch(f"this is store {self.store_id}, not {store_id}", expected=store_id, got=self.store_id)
        if cluster_id != self.cluster_id:
            raise ClusterMismatch(
                f"this store belongs to cluster {self.cluster_id}, the caller to {cluster_id}",
                expected=self.cluster_id,
                got=cluster_id,
            )

    async def _hello_of(self, frames: AsyncIterator[pb.RaftFrame]) -> pb.RaftHello:
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

    # --- dialling -------------------------------------------------------------------------------------------------------

    async def _dial(self, link: Link) -> None:
        patience_s = 0.0 if self.store_id < link.store_id else DIAL_ANYWAY_S
        failures = 0
        while True:
            await self._without_stream(link, patience_s)
            backoff = REDIAL
            failures += 1
            try:
                address = await self._resolver.resolve(link.store_id)
                if await self._refused(address.raft_endpoint):
                    self._report_gone(link)
                elif await self._dial_once(link, address.raft_endpoint):
                    failures = link.short_streams
            except StoreTombstone:
                link.tombstone = True
                link.clear()
                return
            except StoreMismatch:
                self._resolver.invalidate(link.store_id)
            except ClusterMismatch as e:
                log.error("raft_peer_of_other_cluster", peer=link.store_id, error=str(e))
                backoff = MISMATCH_REDIAL
            except (SteleError, TimeoutError) as e:
                log.debug("raft_dial_failed", peer=link.store_id, error=str(e))
            await asyncio.sleep(backoff.after(failures, self._rng))
            if failures and failures % RESOLVE_AGAIN_AFTER == 0:
                self._resolver.invalidate(link.store_id)  # it may have come back elsewhere

    async def _without_stream(self, link: Link, for_s: float) -> None:
        """Returns once there has been no stream for so long."""
        while True:
            await link.down.wait()
            left_s = link.down_since + for_s - self._now()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    async def _dial_once(self, link: Link, endpoint: str) -> bool:
        """Runs one stream to its end.  True if it was connected."""
        if link.stream is not None:  # it came while we looked for the address
            return False
        connected = False
        # An address may be another store's by now, whose stream must not end with this one.
        channel = self._channels.apart(endpoint)
        try:
            stub: Any = raft_pb2_grpc.RaftStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Exchange()
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await call.write(pb.RaftFrame(hello=self._hello(link.store_id)))
                answer = await call.read()
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
            await self._run(link, Stream(by_lower=self.store_id < link.store_id), read, call.write)
        except grpc.RpcError as e:
            if not connected:
                raise from_rpc_error(e) from None
        finally:
            await channel.close()
        return connected

    async def _refused(self, endpoint: str) -> bool:
        """Whether nobody listens at ``endpoint``: the process, or its host, is gone."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):  # `wait_for` may swallow the end of the task
                await self._channels.knock(endpoint)
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    async def _probe(self, link: Link) -> None:
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
                self._report_gone(link)
                return
            await asyncio.sleep(REDIAL.first_s)

    async def _check_known(self, store_id: int) -> None:
        """Raises StoreUnknown or StoreTombstone for what is no store of this cluster.  Who cannot ask anybody believes it."""
        try:
            await self._resolver.resolve(store_id, timeout_s=PROBE_TIMEOUT_S * 2)  # within the caller's HELLO_TIMEOUT_S
        except (StoreUnknown, StoreTombstone):
            raise
        except SteleError as e:
            log.debug("raft_peer_not_checked", peer=store_id, error=str(e))

    async def _remember_address(self, link: Link) -> None:
        """Resolves a peer that dialled us while it lives, so that a later probe asks nobody."""
        with contextlib.suppress(SteleError):
            await self._resolver.resolve(link.store_id, timeout_s=PROBE_TIMEOUT_S * 10)

    # --- a connected stream ---------------------------------------------------------------------------------------------

    def _takes_over(self, link: Link, stream: Stream) -> bool:
        live = self._liveness.is_live(link.store_id, self._now())
        return takes_over(stream.by_lower, link.stream, live) and not self._closed and not link.tombstone

    async def _run(
        self,
        link: Link,
        stream: Stream,
        read: Callable[[], Awaitable[pb.RaftFrame | None]],
        write: Callable[[pb.RaftFrame], Awaitable[None]],
    ) -> None:
        """Carries frames both ways until either side ends, the link is broken on purpose, or another stream takes its place."""
        if not self._takes_over(link, stream):
            return
        if link.stream is not None:
            self._lost(link)
        broken = link.begin(stream, self._now())
        self._liveness.connected(link.store_id, self._now())
        self._look_next()
        self._say(link, "raft_peer_connected")
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
                    self._tasks.start(self._probe(link), f"raft-probe-{link.store_id}")
                self._forget_unused(link)
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, _STREAM_ENDED):
                    log.error(
                        "raft_stream_failed", peer=link.store_id, exc_info=ended
                    )  # a fault of ours: it is dialled anew

    async def _read_all(self, link: Link, stream: Stream, read: Callable[[], Awaitable[pb.RaftFrame | None]]) -> None:
        while (frame := await read()) is not None and link.stream is stream:
            was_silent = self._liveness.on_received(link.store_id, self._now())
            if was_silent:
                log.info("raft_peer_active", peer=link.store_id)
                if self._listener is not None:
                    self._listener.peer_active(link.store_id)
            if self._listener is not None:
                for message in frame.messages:
                    self._listener.deliver(link.store_id, message)

    async def _write_all(self, link: Link, stream: Stream, write: Callable[[pb.RaftFrame], Awaitable[None]]) -> None:
        while link.stream is stream:
            await link.waiting.wait()
            link.waiting.clear()
            while link.stream is stream:
                messages = link.lanes.take()
                if self._listener is not None:
                    for group_id in link.lanes.next_turns():
                        self._listener.turn(link.store_id, group_id)
                if not messages and not link.greet:
                    break
                link.greet = False
                self._liveness.on_sent(link.store_id, self._now())
                await write(pb.RaftFrame(messages=messages) if messages else _GREETING)

    def _look(self) -> None:
        """The one clockwork of all links."""
        self._looking = None
        check = self._liveness.check(self._now())
        for store_id in check.greet:
            link = self._links[store_id]
            link.greet = True
            link.waiting.set()
        for store_id in check.silent:
            log.info("raft_peer_silent", peer=store_id)
            if self._listener is not None:
                self._listener.peer_silent(store_id)
        self._look_next()

    def _look_next(self) -> None:
        if self._looking is not None or self._closed:
            return
        now = self._now()
        due = self._liveness.next_check(now)
        if due != float("inf"):
            self._looking = asyncio.get_running_loop().call_later(due - now, self._look)

    def _lost(self, link: Link) -> None:
        link.end(self._now())
        self._liveness.disconnected(link.store_id)
        self._say(link, "raft_peer_disconnected")
        if self._listener is not None:
            self._listener.peer_disconnected(link.store_id)

    def _say(self, link: Link, event: str) -> None:
        if link.short_streams <= 1:
            log.info(event, peer=link.store_id)
        elif times := link.unsteady.times(self._now()):
            log.warning("raft_link_unsteady", peer=link.store_id, last=event, changes=times)

    def _report_gone(self, link: Link) -> None:
        """Once: a port that is refused again says nothing new, and a thousand groups would look up each time."""
        if self._listener is not None and not self._closed and not link.reported_gone:
            link.reported_gone = True
            self._listener.peer_gone(link.store_id)
