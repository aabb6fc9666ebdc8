"""Taking, fetching and installing the snapshots of one replica, beside its turns.

Guarantee: one of these at a time.  A snapshot counts once it is durable; a fetched one is installed only when every byte of it was
checked and the machine could read it.  A transfer that breaks goes on where it stopped, from whoever leads then (H16).

Everything that blocks runs on threads; :meth:`stop` returns when none of them is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Set
from typing import Any, Final, Protocol, TypeVar

import structlog
from crc32c import crc32c

from stele.services.errors import DiskFull, GroupStopped, LogDamaged, SteleError, StorageFailed
from stele.services.raft.engine import Engine
from stele.services.raft.snapshot_offer import Offer
from stele.services.raft.storage import Snapshot, SnapshotStorage
from stele.services.tasks import Threads

log = structlog.get_logger()

FETCH_AGAIN_AFTER_S: Final = 0.2

T = TypeVar("T")


class Fetch(Protocol):
    """The bytes of a peer's snapshot from an offset on; SteleError when they cannot be had (services/raft/transport.py)."""

    def __call__(self, store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]: ...


class Snapshotting:
    """``wake`` gives the replica a turn; ``broken`` ends it."""

    def __init__(
        self,
        engine: Engine,
        storage: SnapshotStorage,
        fetch: Fetch,
        observed_ms: Callable[[], int],
        wake: Callable[[], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._fetch = fetch
        self._observed_ms = observed_ms
        self._wake = wake
        self._broken = broken
        self._one_at_a_time = asyncio.Lock()
        self._fetching: asyncio.Task[None] | None = None
        self._threads = Threads()
        self._flushed = asyncio.Event()
        self._stopped = False
        engine.on_offer = self._offered

    async def take(self) -> Snapshot | None:
        """A snapshot of what is applied now; None if there is nothing new to take, or another is under way.

        Errors: DiskFull (nothing has changed); StorageFailed, GroupStopped (the replica has ended).
        """
        engine = self._engine
        if self._one_at_a_time.locked():
            return None
        async with self._one_at_a_time:
            if engine.failed is not None or self._stopped:
                raise engine.failed or GroupStopped(f"group {engine.group_id} is stopping", group=engine.group_id)
            index = engine.applied_index
            if index <= (self._storage.snapshots[-1].index if self._storage.snapshots else 1):
                return None
            state, mark = engine.applier.machine.snapshot()
            journal = engine.journal
            members = journal.members.at(index)
            snapshot = Snapshot(
                index, journal.term_at(index), members, mark, self._observed_ms(), len(state), crc32c(state)
            )
            await self._until_synced(index)
            try:
                await self._threads.run(self._storage.write, snapshot, state)
            except DiskFull:
                raise
            except Exception as e:
                self._broken(e)
                raise
            log.info("snapshot_taken", group=engine.group_id, index=index, bytes=snapshot.size)
            return snapshot

    async def _until_synced(self, index: int) -> None:
        """PERSIST BEFORE SNAPSHOT: one that is ahead of the log on disk says that entries are gone which were promised (H10)."""
        engine = self._engine
        while engine.journal.synced_index < index:
            if engine.failed is not None or self._stopped:
                raise engine.failed or GroupStopped(f"group {engine.group_id} is stopping", group=engine.group_id)
            if engine.journal.disk_full:
                raise DiskFull(f"group {engine.group_id} has no room for what its snapshot is to stand for")
            self._flushed.clear()
            await self._flushed.wait()

    async def drop(self, indexes: Set[int]) -> None:
        """Removes the snapshots at ``indexes``; StorageFailed ends the replica."""
        async with self._one_at_a_time:
            if self._engine.failed is not None or self._stopped:
                return
            try:
                await self._threads.run(self._storage.drop, indexes)
            except Exception as e:
                self._broken(e)
                raise

    async def check(self, index: int) -> None:
        """Reads the snapshot at ``index`` whole.  One that is damaged is set aside if an older one, or a log from the first entry on,
        holds what it stands for; else LogDamaged: it is what a follower starts from that needs all that is kept."""
        async with self._one_at_a_time:
            if self._engine.failed is not None or self._stopped:
                return
            try:
                await self._threads.run(self._read_whole, index)
                return
            except KeyError:
                return
            except LogDamaged as e:
                log.error("snapshot_damaged", group=self._engine.group_id, index=index, problem=e.message)
                first = self._engine.journal.first_index
                oldest = min((s.index for s in self._storage.snapshots if s.index >= first - 1), default=index)
                if first > 1 and oldest >= index:
                    raise
            await self._threads.run(self._storage.set_aside, index)

    def _read_whole(self, index: int) -> None:
        self._storage.open(index).close()

    # --- from the leader ----------------------------------------------------------------------------------------------

    def _offered(self) -> None:
        if self._fetching is None and not self._stopped:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_offered())
            self._fetching.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _fetch_offered(self) -> None:
        """Until there is no offer any more: what is offered may change while an older one is fetched."""
        engine = self._engine
        problem: tuple[object, ...] = ()
        while engine.offer is not None and engine.failed is None and not self._stopped:
            offer = engine.offer
            try:
                async with self._one_at_a_time:
                    state = await self._fetch_whole(offer)
                    if engine.install(offer.snapshot, state):
                        log.info("snapshot_installed", group=engine.group_id, index=offer.snapshot.index)
                        self._wake()
                        await self._until_durable()  # until then the staged bytes must stay
            except (
                SteleError,
                ValueError,
            ) as e:  # the leader is gone or has another one by now; or what it has is no state
                if e.args != problem:  # it is tried again and again
                    log.warning(
                        "snapshot_not_fetched", group=engine.group_id, index=offer.snapshot.index, problem=str(e)
                    )
                    problem = e.args
                engine.refuse_offer()
                await asyncio.sleep(FETCH_AGAIN_AFTER_S)

    async def _fetch_whole(self, offer: Offer) -> bytes:
        snapshot = offer.snapshot
        offset = await self._stored(self._storage.staged, snapshot)
        if offset < snapshot.size:
            chunks = self._fetch(offer.leader, self._engine.group_id, snapshot.index, offset)
            async for chunk in chunks:
                if offset + len(chunk) > snapshot.size:
                    raise LogDamaged(
                        f"store {offer.leader} sends more than the {snapshot.size} bytes of snapshot {snapshot.index}"
                    )
                await self._stored(self._storage.stage, snapshot, offset, chunk)
                offset += len(chunk)
        return await self._stored(self._storage.check_staged, snapshot)

    async def _stored(self, work: Callable[..., T], *arguments: Any) -> T:
        """On this replica's own disk, whose failure ends it; the same error from the leader's only breaks the transfer."""
        try:
            return await self._threads.run(work, *arguments)
        except StorageFailed as e:
            self._broken(e)
            raise

    async def _until_durable(self) -> None:
        journal = self._engine.journal
        position = journal.position
        while journal.synced_position < position and self._engine.failed is None and not self._stopped:
            self._flushed.clear()
            await self._flushed.wait()

    def flushed(self) -> None:
        """A flush of the journal has ended, or the replica has."""
        self._flushed.set()

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        self._stopped = True
        self._flushed.set()
        if self._fetching is not None:
            fetching = self._fetching
            fetching.remove_done_callback(self._ended)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        await self._threads.ended()
