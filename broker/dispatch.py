"""Delivering one partition's messages to the consumers of its subscriptions.

Guarantee: at least once, end to end. An acknowledgement is confirmed after the partition's Raft group has committed
it; whatever is not confirmed when ownership ends is delivered again by the next owner, who reads the cursors after it
has fenced this one. Bytes in memory are bounded by the broker's cache and one batch per consumer.

The owner is the only one who appends, so the end of the log is known from its own appends; a slow poll finds what an
append of unknown outcome left behind. A seek closes the connected consumers with SubscriptionReset: they come back
and start at the new position. What they acknowledge carries the generation of the cursor under which it was delivered,
so that nothing from before the seek can be mistaken for something after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from stele.broker.cache import BatchCache
from stele.broker.consumer import ConsumerStream
from stele.broker.cursor_writes import Range
from stele.broker.cursors import ack_of, start_of, subscription_of
from stele.broker.log_reader import LogReader
from stele.broker.metrics import BrokerMetrics
from stele.broker.partition_client import PartitionClient
from stele.broker.subscription import Subscription, SubscriptionType
from stele.broker.subscription_effects import (
    Close,
    ConfirmAcks,
    Deliver,
    PersistAcks,
    RefuseAck,
    SetActive,
    SubscriptionEffect,
)
from stele.services.backoff import Backoff
from stele.services.batch import BatchHeader
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    ConsumerBusy,
    DiskFull,
    Fenced,
    Overloaded,
    SteleError,
    SubscriptionNotFound,
    SubscriptionReset,
)
from stele.services.pb import broker_pb2, datanode_pb2
from stele.services.rarely import Rarely
from stele.services.tasks import Tasks

END_POLL_S = 0.5
TIMER_MIN_S = 0.02
CREDIT_JOIN_S = 0.005
CURSOR_TIMEOUT_S = 10.0
DISK_FULL_RETRY_S = 1.0
ROOM = Backoff(first_s=0.05, max_s=1.0)  # a group is full for a moment, a cursor of holes perhaps for long
CONSUMERS_MAX = 1_000  # of one subscription
AGES_TIMEOUT_S = 2.0  # for reading how old the oldest messages are

_log = structlog.get_logger()
_ids = itertools.count(1)


@dataclass(slots=True)
class _Connected:
    stream: ConsumerStream
    name: str
    window: int  # messages of credit at most asked for at once
    credit: int = 0  # given and not yet passed on
    joining: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _LiveSubscription:
    """A subscription with what carries out its effects."""

    core: Subscription
    connected: dict[int, _Connected] = field(default_factory=dict)
    flush: asyncio.TimerHandle | None = None
    timer: asyncio.TimerHandle | None = None
    timer_at_s: float = 0.0
    was_crowded: bool = False
    lasting: dict[str, Rarely] = field(default_factory=dict)  # by event
    without_room: int = 0  # writes of acknowledgements in a row


class Dispatch:
    """The subscriptions of one partition, under one owner epoch."""

    def __init__(
        self,
        partition: PartitionClient,
        cache: BatchCache,
        *,
        ack_flush_interval_s: float,
        on_deposed: Callable[[SteleError], None],
        on_failed: Callable[[str, BaseException], None],
        metrics: BrokerMetrics,
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
    ) -> None:
        self._partition = partition
        self._ack_flush_interval_s = ack_flush_interval_s
        self._on_deposed = on_deposed
        self._metrics, self._clock, self._rng = metrics, clock, rng or random.Random()
        self._live: dict[str, _LiveSubscription] = {}
        self._reader = LogReader(partition, cache, metrics, self._log_grew, rng, clock)
        self._polling: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[None] | None = None
        self._tasks = Tasks(on_failed)
        self._writes = Tasks(on_failed)
        self._closed: SteleError | None = None
        self._leaving: SteleError | None = None  # what came is still written, nobody new is let in

    # --- the log --------------------------------------------------------------------------------------------------

    def opened(self, state: datanode_pb2.ListCursorsResponse) -> None:
        """The partition's state after every former owner was fenced."""
        self._reader.grow(state.high_watermark, state.log_start_offset)
        for cursor in state.cursors:
            self._live[cursor.subscription] = self._live_from(cursor)

    def stored(self, base_offset: int, header: BatchHeader, batch: bytes | None) -> None:
        """This broker appended a batch; its bytes where they are at hand."""
        self._reader.stored(base_offset, header, batch, wanted=self._has_consumers())

    def _log_grew(self) -> None:
        now_s = self._clock.monotonic()
        for live in list(self._live.values()):
            if live.connected:
                self._carry_out(live, self._advance(live.core, now_s))

    def _advance(self, core: Subscription, now_s: float) -> list[SubscriptionEffect]:
        """Consumers go on from the first message that is kept: what retention removed is delivered to nobody, and is told."""
        skipped = core.backlog(self._reader.log_start)
        if skipped:
            self._metrics.trimmed.inc(skipped)
            _log.warning(
                "messages_trimmed", **self._log_context(core), unacknowledged=skipped, position=self._reader.log_start
            )
        return [*core.trim(self._reader.log_start, now_s), *core.available(self._reader.end, now_s)]

    def _has_consumers(self) -> bool:
        return any(s.connected for s in self._live.values())

    async def _poll_end(self) -> None:
        while self._has_consumers():
            await asyncio.sleep(END_POLL_S * self._rng.uniform(0.75, 1.25))
            with contextlib.suppress(SteleError):
                await self._reader.poll_end()

    # --- consumers ------------------------------------------------------------------------------------------------

    async def subscribe(self, request: broker_pb2.OpenSubscription) -> ConsumerStream:
        """Raises SteleError: ConsumerBusy, Overloaded, SubscriptionNotFound for what must exist, what ended this partition here."""
        type = SubscriptionType(request.type)
        live, created = await self._find_or_create(request.subscription, start_of(request), request.must_exist)
        self._check_open()
        core = live.core
        if len(core.consumers) >= CONSUMERS_MAX:
            raise Overloaded(f"subscription {core.name!r} has {CONSUMERS_MAX} consumers", limit=CONSUMERS_MAX)
        id = next(_ids)
        name = request.consumer or f"consumer-{id}"
        self._carry_out(live, self._advance(core, self._clock.monotonic()))
        effects = core.add_consumer(
            id, name, type, request.credit, request.ack_timeout_ms / 1000, self._clock.monotonic()
        )
        stream = ConsumerStream(
            id,
            self._reader,
            core.held,
            functools.partial(self.credit, request.subscription, id),
            self._metrics,
            self._clock,
        )
        live.connected[id] = _Connected(stream, name, max(1, request.credit))
        self._metrics.consumers.inc()
        stream.opened(
            broker_pb2.Opened(
                position=core.floor,
                created=created,
                active=core.is_active(id),
                topic_id=self._partition.route.topic_id,
                generation=core.generation,
            )
        )
        self._carry_out(live, effects)
        if self._polling is None or self._polling.done():
            self._polling = self._tasks.start(self._poll_end())
        _log.info("consumer_joined", **self._log_context(core), consumer=name, type=type.name, position=core.floor)
        return stream

    def leave(self, subscription: str, id: int) -> None:
        """The consumer's stream has ended.  What it did not acknowledge is delivered again."""
        live = self._live.get(subscription)
        if live is None or id not in live.connected:
            return
        name = self._disconnect(live, id).name
        self._carry_out(live, live.core.remove_consumer(id, self._clock.monotonic()))
        _log.info("consumer_left", **self._log_context(live.core), consumer=name)

    def credit(self, subscription: str, id: int, messages: int) -> None:
        """Small amounts are joined for a moment: each delivery carries a whole batch, however few of its messages are wanted."""
        live, connected = self._consumer(subscription, id)
        if live is None or connected is None:
            return
        connected.credit += messages
        if connected.credit * 4 >= connected.window:
            self._pass_credit(live, id)
        elif connected.joining is None:
            connected.joining = asyncio.get_running_loop().call_later(CREDIT_JOIN_S, self._pass_credit, live, id)

    def _pass_credit(self, live: _LiveSubscription, id: int) -> None:
        connected = live.connected.get(id)
        if connected is None:
            return
        if connected.joining is not None:
            connected.joining.cancel()
            connected.joining = None
        messages, connected.credit = connected.credit, 0
        connected.window = max(connected.window, messages)
        self._carry_out(live, live.core.credit(id, messages, self._clock.monotonic()))

    def ack(self, subscription: str, id: int, ack: broker_pb2.Ack) -> None:
        live, connected = self._consumer(subscription, id)
        if live is not None:
            ranges = [(r.first, r.last) for r in ack.ranges]
            if connected is not None and ack.generation == live.core.generation:
                connected.stream.acknowledged(ranges, ack.cumulative)
            now_s = self._clock.monotonic()
            self._carry_out(live, live.core.ack(id, ack.request_id, ranges, ack.cumulative, ack.generation, now_s))

    def received(self, subscription: str, id: int, ranges: list[Range]) -> None:
        live, _ = self._consumer(subscription, id)
        if live is not None:
            self._carry_out(live, live.core.received(id, ranges, self._clock.monotonic()))

    def nack(self, subscription: str, id: int, ranges: list[Range], delay_s: float) -> None:
        live, connected = self._consumer(subscription, id)
        if live is not None:
            if connected is not None:
                connected.stream.returned(ranges)
            self._carry_out(live, live.core.nack(id, ranges, delay_s, self._clock.monotonic()))

    def _consumer(self, subscription: str, id: int) -> tuple[_LiveSubscription | None, _Connected | None]:
        live = self._live.get(subscription)
        return live, live.connected.get(id) if live is not None else None

    def _disconnect(self, live: _LiveSubscription, id: int) -> _Connected:
        connected = live.connected.pop(id)
        if connected.joining is not None:
            connected.joining.cancel()
        self._metrics.consumers.dec()
        return connected

    # --- effects --------------------------------------------------------------------------------------------------

    def _carry_out(self, live: _LiveSubscription, effects: Iterable[SubscriptionEffect]) -> None:
        for effect in effects:
            if isinstance(effect, PersistAcks):
                self._writes.start(self._persist(live, effect))
                continue
            connected = live.connected.get(effect.consumer)
            if connected is None:
                continue
            match effect:
                case Deliver():
                    connected.stream.deliver(effect)
                case ConfirmAcks(_, request_ids):
                    self._metrics.acked.inc(len(request_ids))
                    for request_id in request_ids:
                        connected.stream.finish_ack(request_id)
                case RefuseAck(_, request_id, error):
                    connected.stream.finish_ack(request_id, error)
                case SetActive(_, active):
                    connected.stream.set_active(active)
                case Close(id, error):
                    connected.stream.close(error)
                    self._disconnect(live, id)
        self._tell_crowded(live)
        self._schedule(live)

    def _tell_crowded(self, live: _LiveSubscription) -> None:
        """A subscription that stands still for this reason is not to do so without a trace."""
        core = live.core
        is_crowded = core.is_crowded or (
            live.was_crowded and not core.is_relieved
        )  # not said of every message at the edge
        is_crowded = is_crowded and self._live.get(core.name) is live and self._closed is None
        if is_crowded == live.was_crowded:
            return
        live.was_crowded = is_crowded
        self._metrics.crowded.inc(1 if is_crowded else -1)
        counts = {"out": len(core.pending), "delayed": len(core.delayed), "acknowledged": len(core.acked)}
        (_log.warning if is_crowded else _log.info)(
            "subscription_crowded" if is_crowded else "subscription_flows", **self._log_context(core), **counts
        )

    def _warn(self, live: _LiveSubscription, event: str, error: SteleError) -> None:
        """Once a minute at most, of what lasts."""
        if live.lasting.setdefault(event, Rarely()).times(self._clock.monotonic()):
            _log.warning(event, **self._log_context(live.core), group=self._partition.group, error=error.message)

    def _schedule(self, live: _LiveSubscription) -> None:
        """Sees to it that what the core waits for comes: the next write of acknowledgements, the next timer."""
        if self._closed is not None or self._live.get(live.core.name) is not live:
            return
        loop = asyncio.get_running_loop()
        if live.flush is None and live.core.has_acks_to_write:
            live.flush = loop.call_later(self._ack_flush_interval_s, self._flush, live)
        at_s = live.core.next_timer()
        if at_s == float("inf") or (live.timer is not None and live.timer_at_s <= at_s):
            return
        if live.timer is not None:
            live.timer.cancel()
        live.timer_at_s = at_s
        live.timer = loop.call_later(max(TIMER_MIN_S, at_s - self._clock.monotonic()), self._timer, live)

    def _flush(self, live: _LiveSubscription) -> None:
        live.flush = None
        effects = live.core.flush_acks()
        if effects:
            self._carry_out(live, effects)
        else:  # a write is under way, or the cursor has no room before lower offsets are acknowledged
            self._schedule(live)

    def _timer(self, live: _LiveSubscription) -> None:
        live.timer = None
        self._carry_out(live, live.core.timer(self._clock.monotonic()))

    async def _persist(self, live: _LiveSubscription, acks: PersistAcks) -> None:
        """Written again until it is known to be committed; confirmed only then."""
        request = ack_of(live.core.name, acks)
        try:
            cursor = await self._write_acks(live, request)
        except Fenced as e:
            self._on_deposed(e)
        except Overloaded as e:
            # In the group once it has applied what it is full of; in the cursor once lower offsets are acknowledged, here or in others.
            self._warn(live, "acks_wait_for_room", e)
            live.core.persist_refused(acks.generation)
            live.without_room += 1
            wait_s = ROOM.after(live.without_room, self._rng)
            live.flush = live.flush or asyncio.get_running_loop().call_later(wait_s, self._flush, live)
        except SteleError as e:
            # For good: what is written again would be refused again.
            _log.warning("acks_refused", **self._log_context(live.core), reason=e.reason, error=e.message)
            self._drop(live, e)
        else:
            live.without_room = 0
            if cursor.generation != acks.generation:
                # Set anew by a seek whose answer is on its way or was lost: these acknowledgements came to nothing.
                self._set_anew(live, cursor)
            else:
                # AFTER the group has committed it: a confirmation that came sooner could be lost with this broker, or with the leader.
                self._carry_out(live, live.core.persisted(acks.generation))

    async def _write_acks(self, live: _LiveSubscription, request: datanode_pb2.AckCursorRequest) -> datanode_pb2.Cursor:
        """Acknowledgements wait for space: closing the consumers would deliver everything again, and make none."""
        while True:
            try:
                response: datanode_pb2.CursorResponse = await self._partition.call("AckCursor", request)
                return response.cursor
            except DiskFull as e:
                self._warn(live, "acks_wait_for_space", e)
                await asyncio.sleep(DISK_FULL_RETRY_S * self._rng.uniform(0.75, 1.25))

    # --- cursors --------------------------------------------------------------------------------------------------

    async def create(self, subscription: str, start: datanode_pb2.CreateCursorRequest) -> bool:
        """Whether it is new."""
        _, created = await self._find_or_create(subscription, start)
        return created

    async def delete(self, subscription: str) -> bool:
        """Whether it existed.  Raises ConsumerBusy while it has consumers."""
        live = self._live.get(subscription)
        if live is not None and live.connected:
            names = ",".join(c.name for c in live.connected.values())
            raise ConsumerBusy(f"subscription {subscription!r} has consumers: {names}", consumers=names)
        existed = (
            live is not None
        )  # BEFORE the call: it is repeated where an answer is lost, and what it removed is not there then
        request = datanode_pb2.DeleteCursorRequest(subscription=subscription)
        response = await self._call("DeleteCursor", request)
        live = self._live.get(subscription)
        if live is not None:
            gone = SubscriptionNotFound(f"subscription {subscription!r} was deleted", subscription=subscription)
            self._drop(live, gone)
        return existed or bool(response.existed)

    async def seek(self, subscription: str, request: datanode_pb2.ResetCursorRequest) -> int:
        """The position that it has now.  Connected consumers are closed with SubscriptionReset."""
        if subscription not in self._live:
            raise SubscriptionNotFound(f"there is no subscription {subscription!r}", subscription=subscription)
        request.subscription = subscription
        cursor = (await self._call("ResetCursor", request)).cursor
        live = self._live.get(subscription)
        if live is not None:
            self._set_anew(live, cursor)
        return int(cursor.ack_floor)

    def _set_anew(self, live: _LiveSubscription, cursor: datanode_pb2.Cursor) -> None:
        """The partition's cursor is of this generation now."""
        if cursor.generation <= live.core.generation:
            return
        moved = SubscriptionReset(f"subscription {live.core.name!r} was moved to offset {cursor.ack_floor}")
        acked = [(r.first, r.last) for r in cursor.acked]
        self._carry_out(live, live.core.reset(cursor.ack_floor, acked, cursor.generation, moved))
        _log.info("subscription_moved", **self._log_context(live.core), position=cursor.ack_floor)

    def _drop(self, live: _LiveSubscription, error: SteleError) -> None:
        """What is known of the subscription here is void: its consumers are closed, and who comes next finds it as the partition
        has it."""
        if self._live.get(live.core.name) is live:
            del self._live[live.core.name]
        self._cancel_timers(live)
        self._carry_out(live, live.core.close(error))

    async def list(self) -> list[broker_pb2.SubscriptionInfo]:
        """Every subscription, also one that nobody is connected to."""
        state = await self._call("Probe", datanode_pb2.ProbeRequest())
        self._reader.grow(state.high_watermark, state.log_start_offset)
        for live in self._live.values():
            self._carry_out(live, self._advance(live.core, self._clock.monotonic()))
        await self._learn_ages()
        route = self._partition.route
        return [
            broker_pb2.SubscriptionInfo(
                topic=route.topic,
                partition=route.partition,
                subscription=name,
                type=broker_pb2.SubscriptionType.ValueType(live.core.type or 0),
                ack_floor=live.core.floor,
                backlog=live.core.backlog(self._reader.end),
                unacked=live.core.unacked,
                consumers=[c.name for c in live.connected.values()],
                lag_ms=_milliseconds(self._reader.age_s(live.core.floor)),
            )
            for name, live in sorted(self._live.items())
        ]

    def backlogs(self) -> Sequence[tuple[str, int, float | None]]:
        """Of each subscription the messages that are not acknowledged, and how many seconds old the oldest one is.  What is not known of
        that is read meanwhile, for the next time."""
        found = [
            (name, live.core.backlog(self._reader.end), self._reader.age_s(live.core.floor))
            for name, live in self._live.items()
        ]
        asks = any(age_s is None for _, _, age_s in found) and self._closed is None
        if asks and (self._learning is None or self._learning.done()):
            self._learning = self._tasks.start(self._learn_ages())
        return found

    async def _learn_ages(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGES_TIMEOUT_S):
                for live in list(self._live.values()):
                    await self._reader.learn_age(live.core.floor)

    async def _find_or_create(
        self, name: str, request: datanode_pb2.CreateCursorRequest, must_exist: bool = False
    ) -> tuple[_LiveSubscription, bool]:
        self._check_open()
        if name in self._live:
            return self._live[name], False
        if must_exist:
            # An acknowledgement of nothing: what it says of the cursor is committed, and that there is none, too.
            response = await self._call("AckCursor", datanode_pb2.AckCursorRequest(subscription=name))
        else:
            request.subscription = name
            response = await self._call("CreateCursor", request)
        if name not in self._live:
            self._live[name] = self._live_from(response.cursor)
        return self._live[name], bool(response.created)

    def _check_open(self) -> None:
        if (error := self._closed or self._leaving) is not None:
            raise error

    async def _call(self, method: str, request: Any) -> Any:
        try:
            return await self._partition.call(method, request, CURSOR_TIMEOUT_S)
        except Fenced as e:
            self._on_deposed(e)
            raise self._closed or e from None

    def _live_from(self, cursor: datanode_pb2.Cursor) -> _LiveSubscription:
        self._reader.grow(cursor.ack_floor)
        return _LiveSubscription(subscription_of(cursor, self._reader.log_start, self._reader.end))

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self, error: SteleError) -> None:
        """Closes every consumer with ``error``.  What is not confirmed by now will not be."""
        if self._closed is not None:
            return
        self._closed = error
        for live in self._live.values():
            self._cancel_timers(live)
            self._carry_out(live, live.core.close(error))
        self._tasks.cancel_soon()
        self._writes.cancel_soon()

    async def stop(self) -> None:
        await self._tasks.cancel()
        await self._writes.cancel()

    async def hand_over(self, error: SteleError, within_s: float) -> None:
        """Closes every consumer with ``error`` once what they acknowledged is written: else the next owner delivers it again.  The
        next owner's fence, or ``within_s``, ends the writing."""
        self._leaving = self._leaving or error
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._flush_acks()
        self.close(error)

    async def _flush_acks(self) -> None:
        """Writes what was acknowledged so far."""
        for _ in range(2):  # what came while a write was under way goes with the next
            for live in self._live.values():
                self._flush(live)
            await self._writes.finished()

    def _cancel_timers(self, live: _LiveSubscription) -> None:
        for handle in (live.flush, live.timer):
            if handle is not None:
                handle.cancel()
        live.flush = live.timer = None

    def _log_context(self, core: Subscription) -> dict[str, object]:
        route = self._partition.route
        return {"topic": route.topic, "partition": route.partition, "subscription": core.name}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
