"""A snapshot on its way from one simulated process to another, over a stream of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from stele.services.errors import ConnectionBroken, SnapshotNotFound, SteleError
from stele.services.raft.storage import SnapshotSource

if TYPE_CHECKING:
    from tests.simulation.network import Network
    from tests.simulation.process import Process

CHUNK_TIMEOUT_S = 1.0
CHUNK_BYTES_MAX = 1500


class Transfer:
    """The fetching side; what runs on the other process does so in events of its own."""

    def __init__(self, network: Network, process: Process, source: int) -> None:
        self._network = network
        self._process = process
        self._world = network.world
        self._store = process.store.id
        self._source = source
        self._arrived: deque[bytes | SteleError | None] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._waiting = 0
        self._arrives_at = 0.0
        self.over = False

    async def next(self) -> bytes | None:
        """The next chunk; None at the end.  ConnectionBroken, SnapshotNotFound."""
        self._waiting += 1
        if not self._arrived:
            self._world.scheduler.after(CHUNK_TIMEOUT_S, self._process.loop.arrive, self._too_late, self._waiting)
            self._taker = self._process.loop.create_future()
            await self._taker
        what = self._arrived.popleft()
        if isinstance(what, SteleError):
            raise what
        return what

    def _too_late(self, waiting: int) -> None:
        if waiting == self._waiting and not self._arrived:
            self._heard(ConnectionBroken(f"store {self._source} sends nothing"))

    def ask(self, group_id: int, index: int, offset: int) -> None:
        peer = self._world.stores[self._source].process
        if peer is not None and self._network.reaches(self._store, self._source):
            self._later(peer, self._open, peer, group_id, index, offset)

    def _later(self, process: Process, event: Callable[..., None], *arguments: object) -> None:
        self._world.scheduler.after(self._network.delay(), process.loop.arrive, event, *arguments)

    # --- on the process that has it -------------------------------------------------------------------------------------

    def _open(self, peer: Process, group_id: int, index: int, offset: int) -> None:
        registry = peer.registry
        if registry is None or not peer.loop.effect():
            return
        opening = peer.loop.run_in_executor(None, registry.open_snapshot, group_id, index)
        opening.add_done_callback(lambda done: self._opened(peer, done, offset))

    def _opened(self, peer: Process, done: asyncio.Future[SnapshotSource], offset: int) -> None:
        error = done.exception()
        if error is None:
            self._read(peer, done.result(), offset)
        elif isinstance(error, (KeyError, SteleError, OSError)):
            self._say(peer, SnapshotNotFound(f"store {self._source}: {error}"))
        else:
            raise error

    def _read(self, peer: Process, source: SnapshotSource, offset: int) -> None:
        size = self._network.rng.randint(1, CHUNK_BYTES_MAX)
        reading = peer.loop.run_in_executor(None, source.read, offset, size)
        reading.add_done_callback(lambda done: self._was_read(peer, source, offset, done))

    def _was_read(self, peer: Process, source: SnapshotSource, offset: int, done: asyncio.Future[bytes]) -> None:
        error = done.exception()
        if error is not None and not isinstance(error, (SteleError, OSError)):
            raise error
        network = self._network
        broken = not network.reaches(self._source, self._store) or network.rng.random() < network.break_transfers_share
        if error is not None or broken or self.over or not peer.loop.effect():
            source.close()
            self._say(peer, ConnectionBroken(f"the stream of store {self._source} broke"))
            return
        chunk = done.result()
        if not chunk:
            source.close()
            self._say(peer, None)
            return
        self._say(peer, chunk)
        self._read(peer, source, offset + len(chunk))

    def _say(self, peer: Process, what: bytes | SteleError | None) -> None:
        if not peer.loop.dead:
            now = self._world.scheduler.now
            self._arrives_at = max(now + self._network.delay(), self._arrives_at + 1e-6)
            self._world.scheduler.at(self._arrives_at, self._process.loop.arrive, self._heard, what)

    # --- on the process that fetches ------------------------------------------------------------------------------------

    def _heard(self, what: bytes | SteleError | None) -> None:
        self._arrived.append(what)
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
