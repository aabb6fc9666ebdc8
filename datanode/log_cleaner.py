"""Keeps the logs of a store's replicas as long as they should be: takes snapshots, trims, compacts, forgets snapshots.

Guarantee: one replica after the other is looked at, so that at most one snapshot is being written at a time, however many replicas
there are; trouble with one is logged and holds up no other.  Decisions are those of retention.py.  Only the replica that leads proposes
a trim, every ``retention_check_s``, and at every look while the store is short of space; every replica shortens its log by what
it has applied.

A replica is looked at every ``LOOK_INTERVAL_S``, and as soon as enough of its log was applied for another snapshot, at most every
``PAUSE_S``: a burst is divided into steps that retention can remove.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from stele.datanode.commands import TrimOutcome
from stele.datanode.replica import Replica
from stele.datanode.retention import SnapshotSpacing, compaction_point, snapshot_due, spacing_of, superfluous, trim_due
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import NotLeader, NotReady, SteleError
from stele.services.raft.group import Group
from stele.services.raft.storage import Snapshot
from stele.services.topics import FOR_EVER, Retention

LOOK_INTERVAL_S = 1.0
PAUSE_S = 0.05
NOTIFY_BYTES_MIN = 16 << 10

log = structlog.get_logger()


@dataclass(slots=True)
class _Watched:
    """What is remembered of a replica between two looks."""

    replica: Replica
    since_ms: int
    begins_behind: int = 0  # the snapshot behind which its log was told to begin
    trim: asyncio.Future[object] | None = None
    problem: str = ""
    seen: tuple[int, int, Retention] = (-1, -1, FOR_EVER)  # applied index, log start, retention of the last look
    look_again_s: float = 0.0  # although nothing of these has changed


@dataclass(slots=True)
class LogCleaner:
    """``await cleaner.run()`` for ever.  ``replicas`` are those of the store, as they are at each look."""

    replicas: Mapping[int, Replica]
    spacing: SnapshotSpacing
    retention_check_s: float
    is_short_of_space: Callable[[], bool]
    observed_ms: Callable[[], int]
    clock: Clock = SYSTEM
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _decide_at_s: float = 0.0
    _due: set[int] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            await self.look()
            await self._between(min(LOOK_INTERVAL_S, self.retention_check_s))

    async def look(self) -> None:
        """Once over every replica."""
        decides = self.clock.monotonic() >= self._decide_at_s
        if decides:
            self._decide_at_s = self.clock.monotonic() + self.retention_check_s
        self._watched = {number: w for number, w in self._watched.items() if self.replicas.get(number) is w.replica}
        for number in list(self.replicas):
            await self._look_at(number, decides)

    async def _between(self, interval_s: float) -> None:
        """Until the next look at all, with a look at those that ask for one."""
        until_s = self.clock.monotonic() + interval_s
        while (left_s := until_s - self.clock.monotonic()) > 0:
            await asyncio.sleep(min(PAUSE_S, left_s))
            try:
                async with asyncio.timeout(max(0.0, until_s - self.clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                return
            self._wake.clear()
            due, self._due = self._due, set()
            for number in sorted(due):
                await self._look_at(number, decides=False)

    async def _look_at(self, number: int, decides: bool) -> None:
        replica = self.replicas.get(number)
        group = replica.group if replica is not None else None
        if replica is None or group is None or group.state == "failed":
            return
        watched = self._watched.get(number)
        if watched is None:
            watched = self._watched[number] = _Watched(replica, self.observed_ms())
        seen = (group.applied_index, replica.partition.log_start, replica.spec.retention)
        is_short = self.is_short_of_space()
        if seen == watched.seen and self.clock.monotonic() < watched.look_again_s and not is_short:
            return  # most of the replicas, most of the time
        try:
            await self._keep(watched, group, decides or is_short)
            watched.seen, watched.problem = seen, ""
        except SteleError as e:
            if e.reason != watched.problem:
                log.warning("log_not_kept", group=number, reason=e.reason, error=e.message)
            watched.problem = e.reason

    async def _keep(self, watched: _Watched, group: Group, decides: bool) -> None:
        replica, bytes_after = watched.replica, group.journal.bytes_after
        retention, log_start = replica.spec.retention, replica.partition.log_start
        # What makes room comes before what needs some.
        begins = compaction_point(group.snapshots, log_start)
        if begins is not None and begins.index != watched.begins_behind and group.compact(begins.index):
            watched.begins_behind = begins.index
            log.info("log_compacted", group=group.group_id, behind=begins.index, log_start=log_start)
        unneeded = superfluous(group.snapshots, bytes_after, retention, log_start, group.journal.first_index > 1)
        if unneeded:
            await group.drop_snapshots(unneeded)
        if decides and retention and group.is_leader and (watched.trim is None or watched.trim.done()):
            chosen = trim_due(group.snapshots, bytes_after, retention, log_start, self.observed_ms())
            if chosen is not None:
                watched.trim = self._trim(replica, chosen.mark)
        newest = group.snapshots[-1] if group.snapshots else None
        now_ms = self.observed_ms()
        taken: Snapshot | None = None
        if snapshot_due(newest, group.applied_index, bytes_after, retention, self.spacing, watched.since_ms, now_ms):
            taken = await group.take_snapshot()
        self._look_again(watched, group, taken or newest, now_ms)
        if taken is not None or (begins is not None and begins.index != watched.begins_behind):
            watched.look_again_s = 0.0  # for what is superfluous now; or the log could not be shortened yet

    def _look_again(self, watched: _Watched, group: Group, newest: Snapshot | None, now_ms: int) -> None:
        """When its bytes ask for it, or its clock, or when retention is decided again."""
        replica = watched.replica
        every = spacing_of(replica.spec.retention, self.spacing)
        behind, last_ms = (newest.index, newest.taken_ms) if newest is not None else (0, watched.since_ms)
        left_bytes = every.snapshot_bytes - group.journal.bytes_after(behind)
        replica.notify_after(max(left_bytes, NOTIFY_BYTES_MIN), functools.partial(self._request_look, group.group_id))
        watched.look_again_s = math.inf
        if group.applied_index > behind:
            left_ms = every.snapshot_interval_ms - abs(now_ms - last_ms)
            watched.look_again_s = self.clock.monotonic() + max(0, left_ms) / 1000
        if replica.spec.retention and replica.partition.log_start < replica.partition.high_watermark:
            watched.look_again_s = min(watched.look_again_s, self._decide_at_s)

    def _request_look(self, number: int) -> None:
        self._due.add(number)
        self._wake.set()

    def _trim(self, replica: Replica, log_start: int) -> asyncio.Future[object] | None:
        """Nobody waits for it: what it came to is seen at the next look.  None: it leads no more, or not yet."""
        try:
            proposal = replica.trim(log_start)
        except (NotLeader, NotReady):
            return None

        def log_outcome(done: asyncio.Future[object]) -> None:
            if done.cancelled() or (error := done.exception()) is not None:
                log.info("trim_not_known", group=replica.spec.group, log_start=log_start, error=str(error))
            elif isinstance(outcome := done.result(), TrimOutcome):
                log.info(
                    "log_trimmed",
                    group=replica.spec.group,
                    topic=replica.spec.topic,
                    partition=replica.spec.partition,
                    log_start=outcome.log_start,
                    unacknowledged=outcome.unacked,
                )

        proposal.add_done_callback(log_outcome)
        return proposal
