"""Watches what every registered datanode says of itself.

Guarantee: ``reports`` holds, for each registered store whose port is open, the last it said; a report counts as connected
only while its stream stands and has not been silent for ``SILENCE_MAX_S``; a datanode that answers with another store's id
is not believed (R2.5).  Each event of a store that its ring holds (services/events.py) is told to ``on_events`` once, with or before what
it led to.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import grpc
import structlog

from stele.nameserver.catalog import Member, MemberState
from stele.nameserver.reports import StoreReport, decisively_changed, disconnected, merge
from stele.services.backoff import Backoff
from stele.services.errors import ConnectionBroken, SteleError, StoreMismatch, Timeout
from stele.services.high_water import HighWater
from stele.services.pb import datanode_pb2, datanode_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.status import typed_errors
from stele.services.tasks import Tasks

SILENCE_MAX_S = 8.0  # a datanode says something at least every 5 s
CONNECT_TIMEOUT_S = 2.0
BACKOFF = Backoff(first_s=0.05, max_s=1.0)

# Store, report (None: it is gone), the groups that were named, and those of which anybody decides by what changed; None: all.
OnReport = Callable[[int, StoreReport | None, Collection[int] | None, Collection[int] | None], None]

_log = structlog.get_logger()


class StoreWatch:
    """``follow(members)`` after each change of the registrations; ``changed()`` is called after each change that anybody decides by."""

    def __init__(
        self,
        channels: Channels,
        changed: Callable[[], None],
        on_events: Callable[[Member, Sequence[datanode_pb2.StoreEvent]], None] = lambda member, events: None,
        on_report: OnReport = lambda store_id, report, named, decisive: None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self.reports: dict[int, StoreReport] = {}
        self.seen = HighWater()  # the highest that any store has said it was told, also of those that are gone
        self._channels, self._changed, self._on_events, self._on_report = channels, changed, on_events, on_report
        self._events_had: dict[
            int, tuple[str, int]
        ] = {}  # of each store: of which life of its process, up to which number
        self._rng = rng or random.Random()
        self._tasks = Tasks()
        self._watching: dict[int, tuple[Member, asyncio.Task[None]]] = {}

    def follow(self, members: Mapping[int, Member]) -> None:
        """Watches exactly ``members``, by store id, but for those that still load: their port is shut, and their registration
        tells how far they are (R4.4)."""
        members = {s: m for s, m in members.items() if m.state != MemberState.LOADING}
        for store_id in list(self._watching):
            watched, task = self._watching[store_id]
            wanted = members.get(store_id)
            if wanted is None or (wanted.joined_zxid, wanted.endpoint) != (watched.joined_zxid, watched.endpoint):
                del self._watching[store_id]
                task.cancel()
                known = self.reports.get(store_id)
                if wanted is None:
                    self.reports.pop(store_id, None)
                    self._events_had.pop(store_id, None)
                    self._on_report(store_id, None, None, None)
                elif known is not None:
                    self._keep_report(store_id, disconnected(known), None, None)
        for store_id, member in members.items():
            if store_id not in self._watching:
                task = self._tasks.keep(functools.partial(self._watch, member), f"watch-store-{store_id}")
                self._watching[store_id] = (member, task)

    async def stop(self) -> None:
        self._watching.clear()
        await self._tasks.cancel()

    async def _watch(self, member: Member) -> None:
        """For as long as the task is wanted: dial, listen, and dial again with capped backoff."""
        failures = 0
        while True:
            try:
                async for status in self._statuses(member):
                    failures = 0
                    self._receive(member, status)
            except SteleError as e:
                self._broken(member, e.reason, e.message)
            except Exception as e:
                self._broken(member, type(e).__name__, str(e))
                raise
            failures += 1
            await asyncio.sleep(BACKOFF.after(failures, self._rng))

    def _broken(self, member: Member, reason: str, error: str) -> None:
        """BEFORE anything else is tried: what nobody listens to any more must not look like news."""
        known = self.reports.get(member.store_id)
        if known is not None and known.connected:
            _log.info("store_watch_broken", store=member.store_id, node=member.name, reason=reason, error=error)
            self._keep_report(member.store_id, disconnected(known), None, None)
            self._changed()

    def _receive(self, member: Member, received: datanode_pb2.StoreStatus) -> None:
        store_id = member.store_id
        if received.store_id != store_id:
            raise StoreMismatch(
                f"store {store_id} was asked and store {received.store_id} answered",
                expected=store_id,
                got=received.store_id,
            )
        known = self.reports.get(store_id)
        if known is None or not known.connected:
            _log.info("store_watched", store=store_id, state=received.state, replicas=len(received.replicas))
        self.seen = self.seen.joined(HighWater.of(received.seen))
        self._tell_events(member, received)
        merged = merge(known, received)
        decisive = decisively_changed(known, merged)
        whole = known is None or received.complete
        self._keep_report(store_id, merged, None if whole else [r.group for r in received.replicas], decisive)
        if decisive is None or decisive:
            self._changed()

    def _keep_report(
        self, store_id: int, report: StoreReport, named: Collection[int] | None, decisive: Collection[int] | None
    ) -> None:
        self.reports[store_id] = report
        self._on_report(store_id, report, named, decisive)

    def _tell_events(self, member: Member, received: datanode_pb2.StoreStatus) -> None:
        life, number = self._events_had.get(member.store_id, ("", 0))
        news = [e for e in received.events if received.life != life or e.number > number]
        if news:
            self._events_had[member.store_id] = received.life, news[-1].number
            self._on_events(member, news)

    async def _statuses(self, member: Member) -> Any:
        channel = await self._channels.connected(member.endpoint, CONNECT_TIMEOUT_S)
        stub: Any = datanode_pb2_grpc.DatanodeStub(channel)  # type: ignore[no-untyped-call]
        life, number = self._events_had.get(member.store_id, ("", 0))
        stream = stub.WatchStore(datanode_pb2.WatchStoreRequest(events_of=life, events_after=number))
        try:
            while True:
                try:
                    with typed_errors():
                        async with asyncio.timeout(SILENCE_MAX_S):
                            status = await stream.read()
                except TimeoutError:
                    raise Timeout(f"{member.name} was silent", timeout_s=SILENCE_MAX_S) from None
                if status is grpc.aio.EOF:  # type: ignore[attr-defined]
                    raise ConnectionBroken(f"{member.name} ended the watch")
                yield status
        finally:
            stream.cancel()
