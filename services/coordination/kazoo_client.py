"""kazoo's client, with the two facts it keeps to itself (the negotiated session timeout, and when the server was last heard), the
threads on which it may be called, and what its answers mean: its stats become ours, its errors the error tree's.

Guarantee: the session lives no longer than the event loop turns.  kazoo pings from a thread of its own; once the loop has stood still for
``STALL_SHARE`` of the session's timeout it pings and connects no more, so that the server ends the session, at the latest a timeout
after that and never before the loop has stood still for a whole timeout.

Guarantee: ``lease_from`` is never later than the moment at which the server last began our session's timeout anew, so a session
is certainly alive until ``lease_from + negotiated_timeout_s``, whatever kazoo believes (it reports no local loss of a session).  Only
the answers that ZooKeeper gives about a node are definite; every other failure is ``CoordinationUnknown``.

The methods of the connection run on kazoo's own threads: they only read clocks, store floats and log a loop that stands still, since it
cannot say so itself.  The names overridden are internal to the pinned kazoo version.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionDropped,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
    SessionClosedRequireSaslError,
)
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import PING_XID, ConnectionHandler
from kazoo.protocol.serialization import Connect
from kazoo.retry import KazooRetry

from stele.services.clock import Clock
from stele.services.coordination.access import ZooKeeperAccess
from stele.services.coordination.znode import Stat
from stele.services.errors import (
    CoordinationRefused,
    CoordinationUnknown,
    RecordExists,
    RecordMissing,
    SteleError,
    VersionConflict,
)

ASK_TIMEOUT_S = 1.0
# kazoo pings three times in each timeout: with more than a third, the last ping falls into the stall, not before it.
STALL_SHARE = 1 / 2
RECONNECT_DELAY_S_MIN, RECONNECT_DELAY_S_MAX = 0.05, 1.0

log = structlog.get_logger()


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """``distrusted`` has the servers with which no encryption came about when they were dialled last, and why."""

    def __init__(self, dial_timeout_s: float, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._dial_timeout_s, self._tls = dial_timeout_s, tls
        self.distrusted: dict[tuple[str, int], str] = {}

    def create_connection(self, address: tuple[str, int], hostname: str | None = None, **kwargs: Any) -> Any:
        kwargs["timeout"] = min(kwargs.get("timeout") or self._dial_timeout_s, self._dial_timeout_s)
        connection = super().create_connection(address=address, hostname=hostname, **kwargs)
        if self._tls is None:
            return connection
        try:
            encrypted = self._tls.wrap_socket(connection, server_hostname=hostname or address[0])
        except OSError as e:
            connection.close()
            self.distrust(address, e)
            raise
        self.distrusted.pop(address, None)
        return encrypted

    def distrust(self, address: tuple[str, int], error: BaseException | None) -> None:
        """A connection that breaks, or times out, says nothing of certificates."""
        if isinstance(error, ssl.SSLError):
            self.distrusted[address] = getattr(error, "verify_message", "") or error.reason or "no TLS is spoken there"


class LeaseConnection(ConnectionHandler):  # type: ignore[misc]
    def __init__(self, client: LeaseClient, retry: KazooRetry, clock: Clock) -> None:
        super().__init__(client, retry, logger=client.logger)
        self._clock = clock
        self._sent_at: deque[float] = deque()
        self._ping_sent_at = 0.0
        self._host, self._address = "", ("", 0)
        self.negotiated_timeout_s = 0.0
        self.lease_from = float("-inf")
        self._reported_stall = 0.0
        self._behind: dict[tuple[str, int], int] = {}  # servers that, dialled last, knew less than we: what they held

    def loop_stands_still(self) -> bool:
        """Whether the event loop has not turned for so long that what rests on the session may no longer count on it."""
        turned_at = self.client.turned_at
        timeout_s = self.negotiated_timeout_s or self.client._session_timeout / 1000.0
        standing_s = self._clock.monotonic() - turned_at
        if standing_s <= timeout_s * STALL_SHARE:
            return False
        if self._reported_stall != turned_at:
            self._reported_stall = turned_at
            log.error("event_loop_stalled", standing_s=round(standing_s, 2), at=_place(self.client.loop_thread))
        return True

    def _connect(self, host: Any, hostip: str, port: int) -> Any:
        self._host, self._address = host, (hostip, port)
        self._behind.pop(self._address, None)
        if self.loop_stands_still():  # a connection begins the session's timeout anew, as a ping does
            raise ConnectionDropped("the event loop stands still")
        try:
            return super()._connect(host, hostip, port)
        except ConnectionDropped:
            self._check_trusted()
            raise
        except AuthFailedError:
            self.client.on_refused("it does not take the digest credentials")
            raise

    def _check_trusted(self) -> None:
        """Tells once that every server was dialled, and none of them trusts us, or is trusted."""
        distrusted = getattr(self.handler, "distrusted", {})
        if distrusted and len(distrusted) >= len(self.client.hosts):
            self.client.on_refused("; ".join(f"{host}:{port}: {why}" for (host, port), why in distrusted.items()))

    def _send_ping(self, connect_timeout: float) -> None:
        if not self.loop_stands_still():
            super()._send_ping(connect_timeout)

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        now = self._clock.monotonic()
        if xid == PING_XID:
            self._ping_sent_at = now
        elif xid is not None and xid > 0:
            self._sent_at.append(now)
        super()._submit(request, timeout, xid)

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        sent_at = self._clock.monotonic()
        if isinstance(request, Connect) and request.session_id and len(self.client.hosts) > 1:
            timeout = min(timeout, self.client.dial_timeout_s)  # nor may one that takes the connection and stands still
        try:
            answer = super()._invoke(timeout, request, xid)
        except ConnectionDropped as dropped:
            if isinstance(request, Connect):
                if isinstance(dropped.__context__, ssl.SSLError):  # our certificate was refused
                    self.handler.distrust(self._address, dropped.__context__)
                self._refused(request.last_zxid_seen)
            raise
        # Before the base class reports CONNECTED, so that whoever hears of the session finds its timeout.
        if isinstance(request, Connect) and answer[0].time_out > 0:
            self._granted(answer[0].time_out / 1000.0, sent_at)
        return answer

    def _refused(self, seen: int) -> None:
        """The server took the connection and closed it instead of granting a session.  It does that, without a word, where the client has
        seen more transactions than it has.  In an ensemble one may be behind the others for a moment: nothing is forgotten before
        each of them says so."""
        if seen <= 0:
            return
        held = self.zxid_of_server()
        if 0 <= held < seen:
            self._behind[self._address] = held
            if len(self._behind) >= len(self.client.hosts):
                self.client.on_forgotten(max(self._behind.values()), seen)

    def zxid_of_server(self) -> int:
        """The last transaction of the server that was dialled last, as it says itself; -1 if it does not."""
        try:
            dialled = {"address": self._address, "hostname": self._host, "timeout": ASK_TIMEOUT_S}
            with self.handler.create_connection(**dialled) as asking:
                asking.settimeout(ASK_TIMEOUT_S)
                asking.sendall(b"srvr")
                said = b""
                while chunk := asking.recv(4096):
                    said += chunk
        except OSError:
            return -1
        found = re.search(rb"^Zxid: 0x([0-9a-f]+)$", said, re.MULTILINE)
        return int(found[1], 16) if found is not None else -1

    def _granted(self, timeout_s: float, asked_at: float) -> None:
        self._sent_at.clear()
        self._behind.clear()
        self.negotiated_timeout_s = timeout_s
        self.lease_from = asked_at

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


class LeaseClient(KazooClient):  # type: ignore[misc]
    """A kazoo client that reconnects for ever with a bounded delay and never retries a command by itself.

    ``open`` and ``end`` belong to the event loop; kazoo's own methods, which may block, to work given to ``run``."""

    def __init__(
        self,
        hosts: str,
        session_timeout_s: float,
        clock: Clock,
        handler: Any = None,
        connection: Callable[[LeaseClient, KazooRetry, Clock], LeaseConnection] | None = None,
        access: ZooKeeperAccess = ZooKeeperAccess(),
    ) -> None:
        # A dead host among several may not eat the whole session timeout before the next one is tried.
        self.dial_timeout_s = max(0.5, session_timeout_s / 3 / len(hosts.split(",")))
        super().__init__(
            hosts=hosts,
            timeout=session_timeout_s,
            handler=handler or _Handler(self.dial_timeout_s, access.tls),
            auth_data=[("digest", access.credentials)] if access.credentials else None,
            default_acl=access.acl,
            connection_retry={
                "max_tries": -1,
                "delay": RECONNECT_DELAY_S_MIN,
                "backoff": 2,
                "max_delay": RECONNECT_DELAY_S_MAX,
            },
            command_retry={"max_tries": 0},
            logger=_QUIET,
        )
        self._connection = (connection or LeaseConnection)(self, self._conn_retry.copy(), clock)
        self.turned_at = float(
            "inf"
        )  # when the event loop last said that it turns; until it begins to, nothing rests on it
        self.loop_thread = 0
        self.shared_acl = access.shared_acl  # of what holds clusters together
        # Called on kazoo's thread.
        self.on_forgotten: Callable[[int, int], None] = lambda held, seen: None
        self.on_refused: Callable[[str], None] = lambda why: None
        # One thread keeps requests in the order in which they were made; starting and stopping may block for seconds.
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix="zookeeper-submit")
        self._control = ThreadPoolExecutor(1, thread_name_prefix="zookeeper-control")

    def open(self) -> None:
        """Begins to connect."""
        self.loop_thread = threading.get_ident()
        asyncio.get_running_loop().run_in_executor(self._control, self.start_async)

    async def end(self) -> None:
        """Ends the session and what it took, also where waiting for it is given up."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._control, self._stop_and_close)
        finally:
            self._submitter.shutdown(wait=False, cancel_futures=True)
            self._control.shutdown(wait=False)

    def _stop_and_close(self) -> None:
        self.stop()
        self.close()

    def run(self, work: Callable[[], None]) -> None:
        """Does ``work`` off the loop, after what was given before.  RuntimeError once it has ended."""
        self._submitter.submit(work)

    @property
    def negotiated_timeout_s(self) -> float:
        return float(self._connection.negotiated_timeout_s)

    @property
    def lease_from(self) -> float:
        return float(self._connection.lease_from)


def _place(thread: int) -> str:
    """Where in our code a thread is, for whoever looks for what holds it up."""
    frame = sys._current_frames().get(thread)
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith("stele."):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_globals['__name__']}:{frame.f_lineno} {frame.f_code.co_name}"


# kazoo writes sentences at every reconnection; the session writes one event per change of state instead.
_QUIET = logging.getLogger("kazoo.quiet")
_QUIET.setLevel(logging.CRITICAL)


# --- what an answer means ------------------------------------------------------------------------------------------------


def stat_of(stat: Any) -> Stat:
    return Stat(
        version=stat.version,
        czxid=stat.czxid,
        mzxid=stat.mzxid,
        ephemeral_owner=stat.ephemeralOwner,
        created_ms=stat.ctime,
        modified_ms=stat.mtime,
        children=stat.numChildren,
        pzxid=stat.pzxid,
    )


def translate(error: BaseException, what: str, path: str) -> BaseException:
    """Only the answers that ZooKeeper gives about a node are definite; whatever else went wrong leaves the outcome unknown."""
    if isinstance(error, SteleError) or not isinstance(error, Exception):
        return error
    if isinstance(error, NoNodeError):
        return RecordMissing(f"{what} {path}: no such record", path=path)
    if isinstance(error, NodeExistsError):
        return RecordExists(f"{what} {path}: the record exists", path=path)
    if isinstance(error, BadVersionError):
        return VersionConflict(f"{what} {path}: the record has changed", path=path)
    if isinstance(error, AuthFailedError):
        return CoordinationRefused(f"{what} {path}: ZooKeeper does not take the digest credentials", path=path)
    if isinstance(error, NoAuthError):
        return CoordinationRefused(
            f"{what} {path}: ZooKeeper's ACL there does not allow it to these credentials", path=path
        )
    if isinstance(error, SessionClosedRequireSaslError):
        return CoordinationRefused(f"{what} {path}: ZooKeeper takes no request without credentials", path=path)
    if isinstance(error, NotEmptyError):
        return VersionConflict(f"{what} {path}: the record has children", path=path)
    return CoordinationUnknown(f"{what} {path}: {type(error).__name__} {error}".rstrip(), path=path)


def first_failure(results: Sequence[Any]) -> tuple[int, Exception] | None:
    """Index and error of the operation that failed a transaction; the others only say that they were rolled back."""
    rolled_back: tuple[int, Exception] | None = None
    for index, result in enumerate(results):
        if isinstance(result, Exception):
            if not isinstance(result, RolledBackError | RuntimeInconsistency):
                return index, result
            rolled_back = rolled_back or (index, result)
    return rolled_back
