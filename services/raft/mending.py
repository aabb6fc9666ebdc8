"""Damaged entries of one replica's log, had again from its peers.

Guarantee: only committed entries take the place of damaged bytes: this replica knows of them that they are committed, and so does
whoever gives them, and of an index there is only one.  Nothing that can be read is taken from the log, no vote and no acknowledgement
is given up, and the replica goes on meanwhile.  So any number of replicas of a group may be mended at one time, each from those that
have what it lacks: an entry is lost only where every copy of it is.

A part of the log is written anew beside the old one (``LogMending``), from the entries of the old one that are whole and from those of
peers, and takes its place in the order of the journal's changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import structlog

from stele.services.errors import GroupStopped, LogDamaged, NotReady, SteleError, StoreMismatch
from stele.services.pb import raft_pb2 as pb
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.engine import Engine
from stele.services.raft.entries import entries_from
from stele.services.raft.storage import Entry, LogMending, LogStorage
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.resolver import Resolver
from stele.services.tasks import Threads

log = structlog.get_logger()

T = TypeVar("T")

READ_BYTES_MAX: Final = 1 << 20  # at a time, of this log or of a peer's
RESOLVE_TIMEOUT_S: Final = 2.0
FETCH_TIMEOUT_S: Final = 5.0


class FetchEntries(Protocol):
    """Committed entries of a peer, from ``first`` on and at least that one; SteleError when they cannot be had
    (services/raft/transport.py)."""

    def __call__(self, store_id: int, group_id: int, first: int, last: int) -> Awaitable[list[Entry]]: ...


async def fetch_entries(request: pb.FetchEntriesRequest, channels: Channels, resolver: Resolver) -> list[Entry]:
    """The receiver's end."""
    address = await resolver.resolve(request.to_store_id, timeout_s=RESOLVE_TIMEOUT_S)
    channel = channels.apart(address.raft_endpoint)
    try:
        stub: Any = raft_pb2_grpc.RaftStub(channel)  # type: ignore[no-untyped-call]
        answer = await call(stub.FetchEntries, request, FETCH_TIMEOUT_S)
        return entries_from(request.first, answer.payloads, answer.runs)
    except ValueError as e:
        raise NotReady(f"store {request.to_store_id} answers with what are no entries: {e}") from None
    except StoreMismatch:
        resolver.invalidate(request.to_store_id, address)
        raise
    finally:
        await channel.close()


class Mending:
    """``wake`` gives the replica a turn; ``flushed`` is called after each of its flushes, and when it has ended."""

    def __init__(self, engine: Engine, log_storage: LogStorage, fetch: FetchEntries, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._log = log_storage
        self._fetch = fetch
        self._wake = wake
        self._one_at_a_time = asyncio.Lock()
        self._flushed = asyncio.Event()
        self._threads = Threads()
        self._stopped = False

    async def mend(self, index: int) -> None:
        """When it returns entry ``index`` is readable again, or no longer kept.  May be repeated after any error.

        Errors: LogDamaged (no other replica can read it either, or what is written here is damaged at once), NotReady (not now: it is
        not known to be committed, or those who may have it do not answer), DiskFull, StorageFailed, GroupStopped.
        """
        async with self._one_at_a_time:
            engine, journal = self._engine, self._engine.journal
            self._check_running()
            if index < journal.first_index or await self._is_readable(index):
                engine.mended()
                self._wake()
                return
            if self._log.sealed_around(index) is None:
                journal.seal()
                await self._until_durable()
            span = self._log.sealed_around(index)
            if span is None or span[1] > min(engine.commit_index, journal.synced_index):
                raise NotReady(f"entry {index} of group {engine.group_id} is not known to be committed yet")
            mending = await self._threads.run(self._log.begin_mending, index)
            try:
                await self._fill(mending)
                await self._threads.run(mending.finish)
                self._check_running()
            except BaseException:
                await self._threads.run(mending.discard)
                raise
            journal.mend(mending)
            await self._until_durable()
            if index >= journal.first_index:
                await self._threads.run(self._log.read, index, index, 0)
            log.warning("entries_mended", group=engine.group_id, first=span[0], last=span[1], damaged=index)
            engine.mended()
            self._wake()

    async def _is_readable(self, index: int) -> bool:
        try:
            await self._threads.run(self._log.read, index, index, 0)
        except LogDamaged:
            return False
        return True

    async def _fill(self, mending: LogMending) -> None:
        while (at := mending.next_index) <= mending.last_index:
            try:
                found = await self._threads.run(self._log.read, at, mending.last_index, READ_BYTES_MAX)
            except LogDamaged:
                found = await self._from_peers(at, mending.last_index)
            await self._threads.run(mending.add, found)

    async def _from_peers(self, first: int, last: int) -> list[Entry]:
        engine = self._engine
        peers = [s for s in (*engine.members.voters, *engine.members.learners) if s != engine.store_id]
        peers.sort(key=lambda store: store != engine.leader)
        refusals: list[SteleError] = []
        for store in peers:
            self._check_running()
            try:
                found = await self._fetch(store, engine.group_id, first, last)
            except SteleError as e:
                refusals.append(e)
                continue
            if found and found[0].index == first:
                return found
            refusals.append(NotReady(f"store {store} does not have entry {first}"))
        if all(isinstance(e, LogDamaged) for e in refusals):
            raise LogDamaged(
                f"entry {first} of group {engine.group_id} is damaged and no other replica has it", index=first
            )
        why = next(e for e in refusals if not isinstance(e, LogDamaged))
        raise NotReady(f"entry {first} of group {engine.group_id} is damaged and cannot be had now: {why}")

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        engine = self._engine
        if engine.failed is not None or self._stopped:
            raise engine.failed or GroupStopped(f"group {engine.group_id} is stopping", group=engine.group_id)

    async def _until_durable(self) -> None:
        journal = self._engine.journal
        position = journal.position
        self._wake()
        while journal.synced_position < position:
            self._check_running()
            self._flushed.clear()
            await self._flushed.wait()

    def flushed(self) -> None:
        """A flush of the journal has ended, or the replica has."""
        self._flushed.set()

    async def stop(self) -> None:
        self._stopped = True
        self._flushed.set()
        await self._threads.ended()
