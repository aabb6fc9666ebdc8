"""One partition's replicas, as its owner reaches them: finding the leader, calling it, reading from any replica.

Guarantee: every write carries the epoch under which this broker owns the partition, its own and never a newer one it has
heard of (R5.10).  A leader that is gone, frozen or deposed is left for the one that leads now: replicas are asked until
one says so, at least every ``POLL.max_s``.

Not promised: that the store found leads still when it is used.  A replica that does not lead says so.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import structlog

from stele.broker.datanode_clients import DatanodeClients
from stele.broker.ownership import PartitionRoute
from stele.services.backoff import Backoff
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    ConnectionBroken,
    Draining,
    Fenced,
    GroupNotFound,
    GroupStopped,
    InternalError,
    InvalidArgument,
    LogDamaged,
    MessagesLost,
    NotLeader,
    NotOwner,
    NotReady,
    OffsetOutOfRange,
    ProposalLost,
    SteleError,
    StorageFailed,
    StoreMismatch,
    Timeout,
    Unreachable,
)
from stele.services.pb import datanode_pb2
from stele.services.rarely import Rarely
from stele.services.rpc.status import from_pb

ATTEMPT_S = 1.5  # after which a silent leader is suspected
PROBE_TIMEOUT_S = 0.5
POLL = Backoff(first_s=0.02, max_s=0.1)
SHUN_S = 2.0  # how long a replica that failed a read is read from last

TRY_ANOTHER_STORE = (
    NotLeader,
    Unreachable,
    ConnectionBroken,
    Timeout,
    ProposalLost,
    NotReady,
    Draining,
    GroupNotFound,
    GroupStopped,
    StorageFailed,
    LogDamaged,  # of the one replica that says so
    StoreMismatch,
    InternalError,
)

_log = structlog.get_logger()


class PartitionClient:
    """The replicas of one partition, used under one owner epoch."""

    def __init__(
        self,
        route: PartitionRoute,
        epoch: int,
        datanodes: DatanodeClients,
        *,
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
    ) -> None:
        self.route, self.epoch = route, epoch
        self.group = route.group
        self.leader = 0  # store id; 0: not known
        self._named = 0  # the leader that was said last
        self._datanodes = datanodes
        self._clock, self._rng = clock, rng or random.Random()
        self._hint = route.leader_hint
        self._search: asyncio.Task[int] | None = None
        self._closed = False
        self._shunned: dict[int, float] = {}  # store → until when

    def moved(self, route: PartitionRoute) -> None:
        """The routing facts changed: other replicas perhaps, or another leader is reported to lead."""
        if route.leader_hint != self.route.leader_hint:
            self._hint = route.leader_hint
        self.route = route

    async def close(self) -> None:
        """Whoever waits for a leader is told NotOwner: a waiting call must not end without an answer."""
        self._closed = True
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)

    # --- the leader -----------------------------------------------------------------------------------------------

    def failed(self, store_id: int, error: SteleError) -> None:
        """``store_id`` was asked as the leader, in vain."""
        if store_id == self.leader:
            self.leader = 0
        self._hint = 0
        reported = error.facts.get("leader", "")
        if isinstance(error, NotLeader) and reported.isdigit() and int(reported) != store_id:
            self._hint = int(reported)

    async def find_leader(self) -> int:
        """The store that leads.  Never gives up; the caller sets the bound.  Raises NotOwner once this is closed."""
        if self._closed:
            raise self._not_owner()
        if self.leader:
            return self.leader
        if self._search is None or self._search.done():
            self._search = asyncio.get_running_loop().create_task(self._find())
        search = self._search
        try:
            return await asyncio.shield(search)
        except asyncio.CancelledError:
            if self._closed and search.cancelled():
                raise self._not_owner() from None
            raise

    def _not_owner(self) -> NotOwner:
        route = self.route
        return NotOwner(
            f"partition {route.partition} of {route.topic} is not served here any more",
            topic=route.topic,
            partition=route.partition,
        )

    async def _find(self) -> int:
        began_s, rounds = self._clock.monotonic(), 0
        hint, self._hint = self._hint, 0
        probes: dict[int, asyncio.Task[int]] = {}  # a store that is silent is not asked again before it was given up
        try:
            while True:
                # Whoever is reported to lead is asked alone first: after a handover of many partitions that is most of the asking.
                probed = [hint] if rounds == 0 and hint in self.route.replicas else self.route.replicas
                found = await self._probe(probed, probes, POLL.after(rounds + 1, self._rng))
                if found:
                    took_ms = round((self._clock.monotonic() - began_s) * 1000)
                    self.leader = found
                    if found != self._named:  # the same one, that refuses for a while, is found again and again
                        self._named = found
                        _log.info("leader_found", group=self.group, store=found, rounds=rounds, took_ms=took_ms)
                    return found
                rounds += 1
        finally:
            await _cancelled(probes)

    async def newer_leader(self, suspect: int) -> bool:
        """Whether another store than ``suspect`` says that it leads."""
        probes: dict[int, asyncio.Task[int]] = {}
        try:
            found = await self._probe(
                [s for s in self.route.replicas if s != suspect], probes, POLL.max_s * self._rng.uniform(0.5, 1.0)
            )
        finally:
            await _cancelled(probes)
        if found:
            self.failed(suspect, Timeout(f"store {suspect} is silent"))
            self.leader = found
        return bool(found)

    async def _probe(self, stores: Sequence[int], probes: dict[int, asyncio.Task[int]], interval_s: float) -> int:
        """The first of ``stores`` that says it leads, at once, of two the one of the later term; 0 after ``interval_s`` if none does."""
        until_s = self._clock.monotonic() + interval_s
        for store_id in stores:
            if store_id not in probes:
                probes[store_id] = asyncio.get_running_loop().create_task(self._probe_one(store_id))
        while (left_s := until_s - self._clock.monotonic()) > 0:
            if not probes:
                await asyncio.sleep(left_s)
                break
            await asyncio.wait(probes.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            terms = {s: probes.pop(s).result() for s, probe in list(probes.items()) if probe.done()}
            if any(terms.values()):
                return max(terms, key=terms.__getitem__)
        return 0

    async def _probe_one(self, store_id: int) -> int:
        """The term in which it leads; 0: it does not say that it does."""
        request = datanode_pb2.ProbeRequest(group=self.group)
        try:
            async with self._datanodes.probes(store_id):
                answer = await self._datanodes.get(store_id).call("Probe", request, PROBE_TIMEOUT_S)
        except SteleError:
            return 0
        return int(answer.term)

    # --- writing --------------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[bytes]) -> asyncio.Future[datanode_pb2.AppendResponse]:
        """To the leader, in the order of the calls; the answer as it came, or a SteleError."""
        request = datanode_pb2.AppendRequest(group=self.group, owner_epoch=self.epoch, batches=batches)
        try:
            if not self.leader:
                raise NotReady("the partition's leader is not known")
            return self._datanodes.get(self.leader).append(request)
        except SteleError as e:
            refused: asyncio.Future[datanode_pb2.AppendResponse] = asyncio.get_running_loop().create_future()
            refused.set_exception(e)
            return refused

    async def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The leader's answer to an idempotent ``request``, whose group and owner epoch are set here.  Raises SteleError: what
        the partition says, or past ``timeout_s`` what stood in the way; without a timeout it goes on for ever."""
        request.group = self.group
        if hasattr(request, "owner_epoch"):
            request.owner_epoch = self.epoch
        deadline_s = self._clock.monotonic() + timeout_s if timeout_s is not None else None
        trouble: SteleError = NotReady("the partition has no leader")
        attempts = 0
        while True:
            left_s = ATTEMPT_S if deadline_s is None else deadline_s - self._clock.monotonic()
            if left_s <= 0:
                raise trouble
            store_id = 0
            try:
                async with asyncio.timeout(None if deadline_s is None else left_s):
                    store_id = await self.find_leader()
                return await self._datanodes.get(store_id).call(method, request, min(ATTEMPT_S, left_s))
            except TimeoutError:
                raise trouble from None
            except TRY_ANOTHER_STORE as e:
                if trouble.definite and not isinstance(e, LogDamaged):  # what ends one replica ends no call
                    trouble = e
                self.failed(store_id, e)
            attempts += 1
            await asyncio.sleep(POLL.after(attempts, self._rng))

    async def open(self) -> datanode_pb2.ListCursorsResponse:
        """Fences every former owner, then reads the state at the same store: nothing written before is missing in it.  Raises
        Fenced if there is a newer owner."""
        fence = datanode_pb2.FenceRequest(group=self.group, owner_epoch=self.epoch)
        attempts, said = 0, defaultdict[str, Rarely](Rarely)
        while True:
            store_id = await self.find_leader()
            try:
                await self._datanodes.get(store_id).call("Fence", fence, ATTEMPT_S)
                return await self._list_cursors(store_id)
            except Fenced:
                raise
            except SteleError as e:
                self.failed(store_id, e)
                if not isinstance(e, TRY_ANOTHER_STORE) and (times := said[e.reason].times(self._clock.monotonic())):
                    about = {"group": self.group, "store": store_id, "times": times}
                    _log.warning("partition_open_failed", reason=e.reason, error=e.message, **about)
            attempts += 1
            await asyncio.sleep(POLL.after(attempts, self._rng))

    async def _list_cursors(self, store_id: int) -> datanode_pb2.ListCursorsResponse:
        """All of them, page by page.  Nobody else changes them by now; what is trimmed meanwhile moves them up."""
        state = datanode_pb2.ListCursorsResponse()
        request = datanode_pb2.ListCursorsRequest(group=self.group)
        while True:
            page: datanode_pb2.ListCursorsResponse = await self._datanodes.get(store_id).call(
                "ListCursors", request, ATTEMPT_S
            )
            state.cursors.extend(page.cursors)
            state.high_watermark, state.log_start_offset = page.high_watermark, page.log_start_offset
            if not page.more:
                return state
            request.after = page.cursors[-1].subscription

    # --- reading --------------------------------------------------------------------------------------------------

    async def fetch(self, offset: int, bytes_max: int, *, is_committed: bool = False) -> datanode_pb2.FetchResponse:
        """Committed batches from ``offset`` on, from the leader or else another replica.  ``is_committed``: there is a message at
        ``offset``, so that a replica which does not know it lags.  Raises OffsetOutOfRange where retention has removed it,
        MessagesLost where every replica is damaged, another SteleError when none answers."""
        trouble: SteleError = Unreachable("no replica of the partition is known")
        holes: list[tuple[int, int]] = []
        stores = self._stores_to_read()
        for store_id in stores:
            request = datanode_pb2.FetchRequest(group=self.group, offset=offset, bytes_max=bytes_max)
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    response: datanode_pb2.FetchResponse = await self._datanodes.get(store_id).fetch(request)
                refused = from_pb(response.error)
                if refused is None and (response.batches or not is_committed):
                    self._shunned.pop(store_id, None)
                    return response
                trouble = refused or NotReady(f"store {store_id} does not know offset {offset} yet")
            except TimeoutError:
                trouble = Timeout(f"store {store_id} is silent", timeout_s=ATTEMPT_S)
            except SteleError as e:
                trouble = e
            if isinstance(trouble, InvalidArgument | OffsetOutOfRange):
                raise trouble
            if (hole := _hole(trouble)) is not None:
                holes.append(hole)
            self._shunned[store_id] = self._clock.monotonic() + SHUN_S
        if holes and len(holes) == len(stores):  # a replica that says nothing may be whole: then it is waited for
            raise self._lost(max(first for first, _ in holes), min(last for _, last in holes))
        raise trouble

    def _lost(self, first: int, last: int) -> MessagesLost:
        topic, partition = self.route.topic, self.route.partition
        return MessagesLost(
            f"messages {first} to {last} of {topic}-{partition} cannot be read: all of its replicas are damaged there",
            topic=topic,
            partition=partition,
            first=first,
            last=last,
        )

    def _stores_to_read(self) -> list[int]:
        now_s = self._clock.monotonic()

        def last(store_id: int) -> tuple[bool, bool]:
            return self._shunned.get(store_id, 0.0) > now_s, store_id != self.leader

        return sorted(self.route.replicas, key=last)


def _hole(error: SteleError) -> tuple[int, int] | None:
    """The offsets that a replica cannot read, if it says which."""
    first, last = error.facts.get("first", ""), error.facts.get("last", "")
    if isinstance(error, LogDamaged) and first.isdigit() and last.isdigit():
        return int(first), int(last)
    return None


async def _cancelled(probes: dict[int, asyncio.Task[int]]) -> None:
    for probe in probes.values():
        probe.cancel()
    await asyncio.gather(*probes.values(), return_exceptions=True)
