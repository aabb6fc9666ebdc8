"""kazoo's client, with the two facts it keeps to itself: the negotiated session timeout and when the server was last heard.

Guarantee: ``lease_from`` is never later than the moment at which the server last began our session's timeout anew, so a session
is certainly alive until ``lease_from + negotiated_timeout_s``, whatever kazoo believes (it reports no local loss of a session).

The methods run on kazoo's own threads: they only read clocks and store floats.  The names overridden are internal to the pinned
kazoo version.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import PING_XID, ConnectionHandler
from kazoo.protocol.serialization import Connect
from kazoo.retry import KazooRetry

from stele.services.clock import Clock

RECONNECT_DELAY_S_MAX = 1.0


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """A dead host among several may not eat the whole session timeout before the next one is tried."""

    def __init__(self, dial_timeout_s: float) -> None:
        super().__init__()
        self._dial_timeout_s = dial_timeout_s

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = min(kwargs.get("timeout") or self._dial_timeout_s, self._dial_timeout_s)
        return super().create_connection(*args, **kwargs)


class _Connection(ConnectionHandler):  # type: ignore[misc]
    def __init__(self, client: Client, retry: KazooRetry, clock: Clock) -> None:
        super().__init__(client, retry, logger=client.logger)
        self._clock = clock
        self._sent_at: deque[float] = deque()
        self._ping_sent_at = 0.0
        self.negotiated_timeout_s = 0.0
        self.lease_from = float("-inf")

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        now = self._clock.monotonic()
        if xid == PING_XID:
            self._ping_sent_at = now
        elif xid is not None and xid > 0:
            self._sent_at.append(now)
        super()._submit(request, timeout, xid)

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        sent_at = self._clock.monotonic()
        answer = super()._invoke(timeout, request, xid)
        # Before the base class reports CONNECTED, so that whoever hears of the session finds its timeout.
        if isinstance(request, Connect) and answer[0].time_out > 0:
            self._sent_at.clear()
            self.negotiated_timeout_s = answer[0].time_out / 1000.0
            self.lease_from = sent_at
        return answer

    def _read_response(self, header: Any, buffer: Any, offset: int) -> Any:
        # The answer proves that the server had the request; it began the timeout anew then, not before the request was sent.
        if self._sent_at:
            self.lease_from = max(self.lease_from, self._sent_at.popleft())
        return super()._read_response(header, buffer, offset)

    def _read_socket(self, read_timeout: float) -> Any:
        awaited = self.ping_outstanding.is_set()
        answer = super()._read_socket(read_timeout)
        if awaited and not self.ping_outstanding.is_set():
            self.lease_from = max(self.lease_from, self._ping_sent_at)
        return answer


class Client(KazooClient):  # type: ignore[misc]
    """A kazoo client that reconnects for ever with a bounded delay and never retries a command by itself."""

    def __init__(self, hosts: str, session_timeout_s: float, clock: Clock) -> None:
        servers = len(hosts.split(","))
        super().__init__(
            hosts=hosts,
            timeout=session_timeout_s,
            handler=_Handler(max(0.5, session_timeout_s / 3 / servers)),
            connection_retry={"max_tries": -1, "delay": 0.05, "backoff": 2, "max_delay": RECONNECT_DELAY_S_MAX},
            command_retry={"max_tries": 0},
            logger=_QUIET,
        )
        self._connection = _Connection(self, self._conn_retry.copy(), clock)

    @property
    def negotiated_timeout_s(self) -> float:
        return float(self._connection.negotiated_timeout_s)

    @property
    def lease_from(self) -> float:
        return float(self._connection.lease_from)


# kazoo writes sentences at every reconnection; the session writes one event per change of state instead.
_QUIET = logging.getLogger("kazoo.quiet")
_QUIET.setLevel(logging.CRITICAL)
