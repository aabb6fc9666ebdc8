"""The newest events that one nameserver knows of, to be read and followed.

Guarantee: numbers grow within one life of a nameserver; the buffer holds the newest ``EVENTS_MAX``, and a follower that falls behind it
is told how many it missed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice

from stele.nameserver.events import ClusterEvent
from stele.services.clock import SYSTEM, Clock
from stele.services.events import EventKind, event_id
from stele.services.pb import nameserver_pb2

EVENTS_MAX = 10_000


class EventBuffer:
    """The newest events, to be read from any point on, and followed."""

    def __init__(self, events_max: int = EVENTS_MAX, clock: Clock = SYSTEM, name: str = "") -> None:
        # Numbers and times are this buffer's own: another life of its nameserver has another one.
        self.teller = uuid.uuid4().hex
        self._name, self._clock = name, clock
        self._began_s = clock.monotonic()
        self._events: deque[ClusterEvent] = deque(maxlen=events_max)
        self._next = 1
        self._first_news = 1
        self._grown = asyncio.Event()
        self._closed = False

    def record(self, events: Iterable[ClusterEvent]) -> list[ClusterEvent]:
        """Adds ``events`` and returns them as recorded."""
        recorded: list[ClusterEvent] = []
        now_s, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        for event in events:
            recorded_s = event.recorded_s or now_s
            time_ms = event.time_ms or now_ms - round((now_s - recorded_s) * 1000)
            kept = replace(event, facts=dict(event.facts), time_ms=time_ms, number=self._next, recorded_s=recorded_s)
            self._next += 1
            self._events.append(kept)
            recorded.append(kept)
        if recorded:
            self._wake()
        return recorded

    def record_found(self, events: Iterable[ClusterEvent]) -> None:
        """The same for what was so already when this nameserver began: when it happened, only its time says."""
        self.record(events)
        self._first_news = self._next

    def saw(self, kind: str, subject: str, cause: str, caused_by: str, facts: Mapping[str, str], ago_s: float) -> str:
        """What this nameserver alone has seen, so long ago; its id."""
        id = event_id(kind, subject, f"{self._name}.{self.teller[:8]}.{self._next}")
        at_s = self._clock.monotonic() - ago_s
        seen = {**facts, "seen_by": self._name}
        self.record([ClusterEvent(kind, subject, seen, id=id, cause=cause, caused_by=caused_by, recorded_s=at_s)])
        return id

    @property
    def now_s(self) -> float:
        """On the clock by which events are recorded."""
        return self._clock.monotonic()

    def ago(self, age_ms: int) -> float | None:
        """When that was, on the clock of this buffer; None: before it began, and no news of its own."""
        at_s = self._clock.monotonic() - age_ms / 1000
        return at_s if at_s > self._began_s else None

    def newest(
        self, subject: str, kinds: Collection[str], fits: Callable[[ClusterEvent], bool] = lambda event: True
    ) -> ClusterEvent | None:
        """The newest one of those kinds that is kept, found first or not."""
        return next((e for e in reversed(self._events) if e.subject == subject and e.kind in kinds and fits(e)), None)

    def is_found(self, event: ClusterEvent) -> bool:
        """Whether it was so when this nameserver began."""
        return event.number < self._first_news

    def age_ms(self, event: ClusterEvent) -> int:
        return round((self._clock.monotonic() - event.recorded_s) * 1000)

    def close(self) -> None:
        """Ends every follower."""
        self._closed = True
        self._wake()

    async def read(self, request: nameserver_pb2.EventsRequest) -> AsyncGenerator[ClusterEvent, None]:
        """Oldest first; with ``follow`` the events to come as well, whatever their times say.  What the buffer had to forget before a
        follower read it is told as one ``events_missed`` event."""
        goes_on = bool(request.teller) and request.teller == self.teller
        last, wanted_to = (request.after_number, 0) if goes_on else (0, self._next - 1)
        asked_s = self._clock.monotonic()
        while True:
            grown, newest = self._grown, self._next - 1
            missed = self._oldest - last - 1
            if last and missed > 0:
                yield self._missed(missed, asked_s)
            for event in list(islice(self._events, max(0, last + 1 - self._oldest), None)):
                if event.number > wanted_to or self._is_wanted(event, request, asked_s):
                    yield event
            last = max(last, newest)
            if not request.follow or self._closed:
                return
            if self._next - 1 == newest:
                await grown.wait()

    def _missed(self, count: int, asked_s: float) -> ClusterEvent:
        number = self._oldest - 1
        return ClusterEvent(
            EventKind.EVENTS_MISSED,
            "",
            {"count": str(count)},
            self._events[0].time_ms,
            event_id(EventKind.EVENTS_MISSED, self._name, f"{self.teller[:8]}.{number}"),
            "buffer_full",
            number=number,
            recorded_s=asked_s,
        )

    def _is_wanted(self, event: ClusterEvent, request: nameserver_pb2.EventsRequest, asked_s: float) -> bool:
        """Of what was there before it was asked for.  ``since_ms`` is compared with whatever clock gave the event its time, so it decides
        only about what its reader has never waited for."""
        if not request.teller or self.is_found(event):
            return event.time_ms >= request.since_ms
        return event.recorded_s >= asked_s - request.within_ms / 1000

    @property
    def _oldest(self) -> int:
        return self._next - len(self._events)

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
