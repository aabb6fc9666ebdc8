"""Following events over nameservers that come and go.  Pure.

Guarantee: what happened since is told whichever nameserver goes on, whatever the clocks of nameservers and client say: the one that told
the last event goes on by number, another one with what it recorded since about then, by its own time that has passed.  What was told
already is left out; in doubt it is told again.
"""

from __future__ import annotations

from collections import OrderedDict

from stele.services.pb import nameserver_pb2

MARGIN_S = 30.0  # nameservers hear of the same thing at about the same time
TOLD_MAX = 20_000


class EventFeed:
    """``request`` for each connection, then ``takes`` for each event that comes over it."""

    def __init__(self, follow: bool, since_ms: int) -> None:
        self._follow, self._since_ms = follow, since_ms
        self._teller, self._last = "", 0
        self._last_s = 0.0  # when the last event was recorded, by the client's clock
        self._asked_s = 0.0
        self._told: OrderedDict[str, None] = OrderedDict()

    def request(self, now_s: float) -> nameserver_pb2.EventsRequest:
        self._asked_s = now_s
        request = nameserver_pb2.EventsRequest(follow=self._follow, since_ms=self._since_ms)
        if self._teller:
            request.teller, request.after_number = self._teller, self._last
            request.within_ms = round((now_s - self._last_s + MARGIN_S) * 1000)
        return request

    def takes(self, event: nameserver_pb2.Event, now_s: float) -> bool:
        """Whether the event is news.  What happened after the question is always."""
        recorded_s = now_s - event.age_ms / 1000
        self._teller, self._last, self._last_s = event.teller, event.number, recorded_s
        is_told = event.id in self._told
        self._told[event.id] = None
        self._told.move_to_end(event.id)
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        return not is_told or recorded_s >= self._asked_s
