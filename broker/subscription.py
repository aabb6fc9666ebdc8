"""One subscription of one partition: who is given which message, and what is acknowledged.  Pure: no clock, socket or task here.

Guarantee: a message is delivered again until it is acknowledged, and is out with one consumer at a time.  ``exclusive`` and ``failover``
deliver in the order of offsets; what a consumer leaves behind comes first, lowest offset first.  What is handed back (nack) comes again
later, each time after a longer wait, and holds up nothing else.  How often a message was delivered again is written to the cursor, and so
outlives this broker.  An acknowledgement is confirmed only after ``persisted``.

Every offset from ``floor`` up to ``read_position`` is in exactly one place::

                 ┌────────────── nack, ack timeout, consumer gone ─────────────┐
                 ▼                                                             │
    unread ──► (credit) ──► pending with a consumer ──► acked ──► below floor  │
                 ▲                   └─────────────────────────────────────────┤
                 │                                                             ▼
              waiting ◄──────────── delay over ──────────────────────────── delayed

The shell calls a method per event and carries out the effects it returns, in order.  Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stele.broker.cursor_writes import CursorWrite, CursorWrites, Range, Redelivered
from stele.broker.ranges import RangeMap
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
from stele.services.errors import ConsumerBusy, InvalidArgument, StaleAck, SteleError

CREDIT_MESSAGES_MAX = 1_000_000
TURN_MESSAGES_MAX = 1_000  # SHARED: how much one consumer is given before the next has its turn
RANGES_MAX = 8_000  # ranges that are out, delayed or acknowledged out of order; past it nothing new is delivered
NACK_BACKOFF = Backoff(first_s=0.1, max_s=60.0)  # by how often a message was handed back
DUE_SLOT_S = 0.1  # what is due within one is due together: neighbours that were handed back one by one stay one range


class SubscriptionType(enum.IntEnum):
    """Numbered as in broker.proto."""

    EXCLUSIVE = 1
    FAILOVER = 2
    SHARED = 3


@dataclass(frozen=True, slots=True)
class _Out:
    """A message that is out with a consumer: on its way or waiting there, ``due_s`` infinite, until the consumer has received it."""

    consumer: int
    due_s: float
    redelivery_count: int


@dataclass(frozen=True, slots=True)
class _Later:
    """A message that is delivered again, not before ``at_s``."""

    at_s: float
    redelivery_count: int


@dataclass(slots=True)
class ConsumerState:
    id: int
    name: str
    credit: int  # messages it may still be sent
    ack_timeout_s: float  # 0: none
    heard_s: float  # when it last received, acknowledged or handed back anything


class Subscription:
    """Delivery state of one subscription; see the module's docstring."""

    def __init__(
        self,
        name: str,
        floor: int,
        acked: Iterable[Range] = (),
        generation: int = 0,
        log_start: int = 0,
        end: int = 0,
        redelivered: Iterable[Redelivered] = (),
    ) -> None:
        self.name = name
        self.type: SubscriptionType | None = None
        self.consumers: dict[int, ConsumerState] = {}  # in order of arrival
        self._turn = 0  # SHARED: id of the consumer served last
        self.end = end  # offset after the last committed message that is known
        self._begin(floor, acked, generation, redelivered)
        if log_start > floor:
            self.trim(log_start, 0.0)

    def _begin(
        self, floor: int, acked: Iterable[Range], generation: int, redelivered: Iterable[Redelivered] = ()
    ) -> None:
        self.floor = floor  # every offset below it is acknowledged
        self.generation = generation
        self.acked: RangeMap[None] = RangeMap((a, b, None) for a, b in acked if b >= floor)
        self.read_position = floor  # the next offset that was never delivered
        self.pending: RangeMap[_Out] = RangeMap()
        self.waiting: RangeMap[int] = RangeMap()  # value: redelivery count
        self.delayed: RangeMap[_Later] = RangeMap()
        self._counts: RangeMap[int] = RangeMap(
            redelivered
        )  # of what is unread here: how often former owners delivered it again
        self._writes = CursorWrites(self.acked)
        self._wake_s = math.inf  # no later than the first ack timeout and the end of the first delay
        self._raise_floor()

    # --- consumers ------------------------------------------------------------------------------------------------

    def add_consumer(
        self, consumer: int, name: str, type: SubscriptionType, credit: int, ack_timeout_s: float, now_s: float
    ) -> list[SubscriptionEffect]:
        """Raises ConsumerBusy."""
        if self.consumers and (self.type is not type or type is SubscriptionType.EXCLUSIVE):
            assert self.type is not None
            names = ",".join(c.name for c in self.consumers.values())
            raise ConsumerBusy(
                f"subscription {self.name!r} is in use as {self.type.name.lower()} by {names}",
                type=self.type.name,
                consumers=names,
            )
        self.type = type
        self.consumers[consumer] = ConsumerState(consumer, name, min(credit, CREDIT_MESSAGES_MAX), ack_timeout_s, now_s)
        return self._dispatch(now_s)

    def remove_consumer(self, consumer: int, now_s: float) -> list[SubscriptionEffect]:
        """What it had not acknowledged is delivered again.  An unknown consumer is no error."""
        if consumer not in self.consumers:
            return []
        was_active = self.is_active(consumer)
        del self.consumers[consumer]
        self._writes.forget(consumer)
        self._return_all_of(consumer)
        effects: list[SubscriptionEffect] = []
        if not self.consumers:
            self.type = None
        elif was_active and self.type is SubscriptionType.FAILOVER:
            effects.append(SetActive(next(iter(self.consumers)), True))
        return effects + self._dispatch(now_s)

    def is_active(self, consumer: int) -> bool:
        """SHARED: everyone is.  Else the one that arrived first."""
        return consumer in self.consumers and (
            self.type is SubscriptionType.SHARED or next(iter(self.consumers)) == consumer
        )

    def credit(self, consumer: int, messages: int, now_s: float) -> list[SubscriptionEffect]:
        if consumer not in self.consumers:
            return []
        c = self.consumers[consumer]
        c.credit = min(c.credit + messages, CREDIT_MESSAGES_MAX)
        return self._dispatch(now_s)

    # --- the log --------------------------------------------------------------------------------------------------

    def available(self, end: int, now_s: float) -> list[SubscriptionEffect]:
        """Messages below ``end`` are committed.  A lower value than before (a replica that lags) changes nothing."""
        if end <= self.end:
            return []
        self.end = end
        return self._dispatch(now_s)

    def trim(self, log_start: int, now_s: float) -> list[SubscriptionEffect]:
        """Messages below ``log_start`` are gone: they count as acknowledged."""
        if log_start <= self.floor:
            return []
        self._settle(self.floor, log_start - 1)
        self.floor = log_start
        self.end = max(self.end, log_start)
        self._raise_floor()
        return self._dispatch(now_s)

    # --- acknowledgements -----------------------------------------------------------------------------------------

    def ack(
        self, consumer: int, request_id: int, ranges: Sequence[Range], cumulative: bool, generation: int, now_s: float
    ) -> list[SubscriptionEffect]:
        """Accepted for every committed offset, also one that this broker has not delivered: its predecessor may have.  Refused
        for another ``generation``: what was delivered before the cursor was set anew is owed again, whoever acknowledges it."""
        if consumer not in self.consumers:
            return []
        try:
            self._check_generation(generation)
            ranges = self._checked(ranges, cumulative)
        except SteleError as e:
            return [RefuseAck(consumer, request_id, e)]
        self.consumers[consumer].heard_s = now_s
        for first, last in ranges:
            for a, b in self.acked.gaps(max(first, self.floor), last):
                self._settle(a, b)
                self._writes.ack(a, b)
            if last >= self.floor:
                self.acked.set(max(first, self.floor), last, None)
        self._raise_floor()
        self._writes.ask(consumer, request_id)
        return self._dispatch(now_s)

    def _check_generation(self, generation: int) -> None:
        if generation != self.generation:
            raise StaleAck(
                f"subscription {self.name!r} was moved or made anew since the message was delivered",
                generation=generation,
                current=self.generation,
            )

    def _checked(self, ranges: Sequence[Range], cumulative: bool) -> Sequence[Range]:
        if not ranges:
            raise InvalidArgument("an acknowledgement names at least one range of offsets")
        if cumulative:
            if self.type is SubscriptionType.SHARED:
                raise InvalidArgument(
                    "cumulative acknowledgement is for exclusive and failover subscriptions, this one is shared"
                )
            ranges = [(min(self.floor, ranges[0][1]), ranges[0][1])]
        for first, last in ranges:
            if first > last or last >= self.end:
                raise InvalidArgument(
                    f"acknowledged offsets run upwards and are below {self.end}, not {first}..{last}", end=self.end
                )
        return ranges

    def received(self, consumer: int, ranges: Sequence[Range], now_s: float) -> list[SubscriptionEffect]:
        """Its user has these now: the time for acknowledging them begins.  What waits at the consumer keeps its place there."""
        if consumer not in self.consumers:
            return []
        c = self.consumers[consumer]
        c.heard_s = now_s
        if c.ack_timeout_s > 0:
            due_s = now_s + c.ack_timeout_s
            for a, b, out in self._out_with(consumer, ranges):
                if out.due_s == math.inf:
                    self.pending.set(a, b, replace(out, due_s=due_s))
                    self._wake_s = min(self._wake_s, due_s)
        return []

    def nack(self, consumer: int, ranges: Sequence[Range], delay_s: float, now_s: float) -> list[SubscriptionEffect]:
        """Only what is out with this consumer counts; the rest is somebody else's by now.  It comes again after ``delay_s``, and each
        time that it is handed back after a longer wait at least, so that what always fails holds up nothing else."""
        if consumer not in self.consumers:
            return []
        self.consumers[consumer].heard_s = now_s
        for a, b, out in self._out_with(consumer, ranges):
            self.pending.take(a, b)
            count = out.redelivery_count + 1
            at_s = now_s + max(delay_s, NACK_BACKOFF.ceiling_s(count))
            at_s = math.ceil(at_s / DUE_SLOT_S) * DUE_SLOT_S
            self.delayed.set(a, b, _Later(at_s, count))
            self._writes.redeliver(a, b, count)
            self._wake_s = min(self._wake_s, at_s)
        return self._dispatch(now_s)

    def _out_with(self, consumer: int, ranges: Sequence[Range]) -> list[tuple[int, int, _Out]]:
        return [
            (a, b, out)
            for first, last in ranges
            if first <= last
            for a, b, out in self.pending.within(first, last)
            if out.consumer == consumer
        ]

    # --- writing --------------------------------------------------------------------------------------------------

    @property
    def has_acks_to_write(self) -> bool:
        return self._writes.is_due

    def flush_acks(self) -> list[SubscriptionEffect]:
        """The next write of acknowledgements; nothing while one is under way."""
        match self._writes.next(self.floor):
            case None:
                return []
            case CursorWrite(ranges, redelivered):
                return [PersistAcks(ranges, self.generation, redelivered)]
            case durable:
                return _confirmations(durable)

    def persisted(self, generation: int) -> list[SubscriptionEffect]:
        if not self._writes.is_under_way or generation != self.generation:
            return []  # the subscription was reset meanwhile
        return _confirmations(self._writes.succeeded())

    def persist_refused(self, generation: int) -> None:
        """The cursor has no room for so many holes: what is below the floor is written alone, then everything is tried again."""
        if generation == self.generation:
            self._writes.refused()

    # --- time, seek -----------------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """When ``timer`` is to be called; infinity: not at all."""
        return self._wake_s

    def timer(self, now_s: float) -> list[SubscriptionEffect]:
        if now_s < self._wake_s:
            return []
        self._wake_s = math.inf
        silent: set[int] = set()
        for first, last, out in self.pending:
            if out.due_s <= now_s:
                self._return(first, last)
                c = self.consumers[out.consumer]
                if c.heard_s <= out.due_s - c.ack_timeout_s:
                    silent.add(c.id)
            else:
                self._wake_s = min(self._wake_s, out.due_s)
        for consumer in silent:
            self._return_all_of(
                consumer
            )  # it has done nothing since it received that: what waits there is others' to have
        for first, last, later in self.delayed:
            if later.at_s <= now_s:
                self.delayed.take(first, last)
                self.waiting.set(first, last, later.redelivery_count)
            else:
                self._wake_s = min(self._wake_s, later.at_s)
        return self._dispatch(now_s)

    def reset(self, floor: int, acked: Iterable[Range], generation: int, error: SteleError) -> list[SubscriptionEffect]:
        """The cursor was set anew: every consumer is closed with ``error`` and starts over when it comes back."""
        effects = self.close(error)
        self.end = max(self.end, floor)
        self._begin(floor, acked, generation)
        return effects

    def close(self, error: SteleError) -> list[SubscriptionEffect]:
        """Closes every consumer; unconfirmed acknowledgements stay unconfirmed, so those messages are delivered again."""
        closed: list[SubscriptionEffect] = [Close(c, error) for c in self.consumers]
        self.consumers.clear()
        self.type = None
        for first, last, _ in self.pending:
            self._return(first, last)
        self._writes.forget_all()
        return closed

    # --- questions ------------------------------------------------------------------------------------------------

    def held(self, consumer: int, first: int, last: int) -> list[Range]:
        """Which of these are still out with the consumer."""
        return [(a, b) for a, b, out in self.pending.within(first, last) if out.consumer == consumer]

    @property
    def unacked(self) -> int:
        return self.pending.count

    @property
    def is_crowded(self) -> bool:
        """So many ranges are out, delayed or acknowledged out of order that nothing new is delivered."""
        return self._ranges >= RANGES_MAX

    @property
    def is_relieved(self) -> bool:
        """Not ``is_crowded`` by so far that the next few messages do not make it so again."""
        return self._ranges * 2 < RANGES_MAX

    @property
    def _ranges(self) -> int:
        return len(self.pending) + len(self.delayed) + len(self.acked)

    def backlog(self, end: int) -> int:
        """Messages below ``end`` that are not acknowledged."""
        if end <= self.floor:
            return 0
        return end - self.floor - sum(b - a + 1 for a, b, _ in self.acked.within(self.floor, end - 1))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _settle(self, first: int, last: int) -> None:
        """These are done with, wherever they were."""
        self.pending.take(first, last)
        self.waiting.take(first, last)
        self.delayed.take(first, last)
        self._counts.take(first, last)
        self._writes.settle(first, last)

    def _raise_floor(self) -> None:
        self.floor = self.acked.next_free(self.floor)
        self.acked.take(0, self.floor - 1)
        self.read_position = max(self.read_position, self.floor)

    def _return(self, first: int, last: int) -> None:
        """They are delivered again as soon as somebody can take them."""
        for a, b, out in self.pending.take(first, last):
            self.waiting.set(a, b, out.redelivery_count + 1)
            self._writes.redeliver(a, b, out.redelivery_count + 1)

    def _return_all_of(self, consumer: int) -> None:
        for first, last, out in self.pending:
            if out.consumer == consumer:
                self._return(first, last)

    def _dispatch(self, now_s: float) -> list[SubscriptionEffect]:
        effects: list[SubscriptionEffect] = []
        share = self._share()
        while (ready := self._next_ready()) is not None:
            consumer = self._next_consumer()
            if consumer is None:
                break
            first, last, redelivery_count = ready
            last = min(last, first + min(consumer.credit, share) - 1)
            self.waiting.take(first, last)
            self._counts.take(first, last)
            self.pending.set(first, last, _Out(consumer.id, math.inf, redelivery_count))
            self.read_position = max(self.read_position, last + 1)
            consumer.credit -= last - first + 1
            effects.append(Deliver(consumer.id, first, last, redelivery_count))
        return effects

    def _next_ready(self) -> tuple[int, int, int] | None:
        """The lowest range that may go out now: what comes again before what is new."""
        again = self.waiting.head()
        if again is not None:
            return again
        self.read_position = self.acked.next_free(self.read_position)
        if self.read_position >= self.end or self.is_crowded:
            return None
        first, stop = self.read_position, self.acked.next_taken(self.read_position)
        last = (self.end if stop is None else min(self.end, stop)) - 1
        for a, b, count in self._counts.within(first, last):
            return (first, b, count) if a == first else (first, a - 1, 0)
        return first, last, 0

    def _able(self) -> Iterator[ConsumerState]:
        for c in self.consumers.values():
            if c.credit > 0:
                yield c
            if self.type is not SubscriptionType.SHARED:
                return

    def _next_consumer(self) -> ConsumerState | None:
        able = list(self._able())
        if not able:
            return None
        if self.type is SubscriptionType.SHARED:
            chosen = next((c for c in able if c.id > self._turn), able[0])
            self._turn = chosen.id
            return chosen
        return able[0]

    def _share(self) -> int:
        """SHARED: an even part of what is ready, so that few messages do not all go to one consumer."""
        if self.type is not SubscriptionType.SHARED:
            return CREDIT_MESSAGES_MAX
        ready = self.waiting.count + self.end - self.read_position
        able = sum(1 for _ in self._able())
        return max(1, min(TURN_MESSAGES_MAX, math.ceil(ready / max(1, able))))

    def validate(self) -> None:
        for ranges in (self.acked, self.pending, self.waiting, self.delayed, self._counts):
            ranges.validate()
        self._writes.validate()
        assert self.floor <= self.read_position <= max(self.end, self.floor), (self.floor, self.read_position, self.end)
        assert self.floor not in self.acked, "the floor is the lowest offset that is not acknowledged"
        placed: RangeMap[str] = RangeMap()
        for place, ranges in (
            ("acked", self.acked),
            ("pending", self.pending),
            ("waiting", self.waiting),
            ("delayed", self.delayed),
        ):
            for first, last, _ in ranges:
                assert first >= self.floor, f"{place} {first}..{last} is below the floor {self.floor}"
                assert not placed.within(first, last), f"{first}..{last} is {place} and {placed.within(first, last)}"
                assert place == "acked" or last < self.read_position, f"{place} {first}..{last} was never read"
                placed.set(first, last, place)
        assert not placed.gaps(self.floor, self.read_position - 1), (
            f"nowhere: {placed.gaps(self.floor, self.read_position - 1)}"
        )
        for _, _, out in self.pending:
            assert out.consumer in self.consumers, f"out with {out.consumer}, who is gone"
            assert out.due_s >= self._wake_s, "a due time before the next timer"
            assert self.type is SubscriptionType.SHARED or self.is_active(out.consumer), (
                "out with a consumer that is not active"
            )
        assert all(later.at_s >= self._wake_s for _, _, later in self.delayed)
        assert all(0 <= c.credit <= CREDIT_MESSAGES_MAX for c in self.consumers.values())
        assert bool(self.consumers) == (self.type is not None)
        assert self.type is not SubscriptionType.EXCLUSIVE or len(self.consumers) == 1


def _confirmations(requests: Mapping[int, list[int]]) -> list[SubscriptionEffect]:
    return [ConfirmAcks(consumer, tuple(request_ids)) for consumer, request_ids in requests.items()]
