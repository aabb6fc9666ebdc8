"""kazoo's own client under virtual time: its states, queues, watchers and errors are kazoo's code, its lease the product's; only the
socket and the threads are simulated.

Guarantee: what kazoo's connection thread does, it does here at the same moments: pings, what it takes for a broken connection, the order
of hosts, the pauses between attempts.  Each of the threads between kazoo and the event loop (connection, watches, completions, the
product's submitter) keeps its own order and runs a moment late, so that what comes from two of them may change places.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol

from kazoo.exceptions import ConnectionDropped
from kazoo.handlers.threading import AsyncResult, KazooTimeoutError
from kazoo.protocol.connection import CLOSE_RESPONSE
from kazoo.protocol.serialization import CloseInstance, Connect, ReplyHeader
from kazoo.protocol.states import Callback, KeeperState
from kazoo.retry import KazooRetry

from stele.services.clock import Clock
from stele.services.coordination.kazoo_client import (
    RECONNECT_DELAY_S_MAX,
    RECONNECT_DELAY_S_MIN,
    LeaseClient,
    LeaseConnection,
)
from tests.simulation.loop import SimulatedHandle, SimulatedLoop
from tests.simulation.zookeeper.ensemble import Ensemble
from tests.simulation.zookeeper.server import Connection, Server

DIAL_S_MIN = 0.5
STOP_POLL_S = 0.05


class Process(Protocol):
    """Whose client it is."""

    @property
    def host(self) -> str: ...

    @property
    def loop(self) -> SimulatedLoop: ...


def clients_of(ensemble: Ensemble, process: Process, rng: random.Random) -> Callable[..., SimulatedClient]:
    """What a Session of ``process`` connects with."""

    def connect(hosts: str, session_timeout_s: float, clock: Clock) -> SimulatedClient:
        return SimulatedClient(hosts, session_timeout_s, LoopClock(process.loop), ensemble, process, rng)

    return connect


class LoopClock:
    """A process's clock, also while no loop runs: a thread asks."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.monotonic = loop.time

    def wall_ms(self) -> int:
        return round(self.monotonic() * 1000)


class _Thread:
    """One thread of a process: one piece of work after the other, each a moment after it was put.  It stands still while the process is
    paused and is gone with it."""

    def __init__(self, ensemble: Ensemble, loop: SimulatedLoop, rng: random.Random) -> None:
        self._scheduler, self._loop, self._rng = ensemble.scheduler, loop, rng
        self._free_at = 0.0

    def put(self, work: Callable[[], object]) -> None:
        rng = self._rng
        late_s = rng.uniform(0.001, 0.05) if rng.random() < 0.01 else rng.expovariate(1.0) * 50e-6
        self._free_at = max(self._scheduler.now + late_s, self._free_at + 1e-7)
        self._scheduler.at(self._free_at, self._run, work)

    def after(self, delay_s: float, work: Callable[[], object]) -> None:
        self._scheduler.after(delay_s / self._loop._drift, self._run, work)

    def _run(self, work: Callable[[], object]) -> None:
        if self._loop.dead:
            return
        if self._loop.paused and not getattr(self._loop, "stalled", False):
            self._loop._inbox.append(SimulatedHandle(self._scheduler.after, (0.0, self._run, work), None))
            return
        work()


class _Handler:
    """Of kazoo's, which keeps a thread for watches and one for completions."""

    name = "simulated"
    timeout_exception = KazooTimeoutError
    sleep_func = staticmethod(time.sleep)  # which kazoo compares with its retry's; nothing calls it
    running = True

    def __init__(self, watches: _Thread, completions: _Thread) -> None:
        self.callback_queue, self.completion_queue = watches, completions

    def start(self) -> None:
        """Runs already."""

    def stop(self) -> None:
        """Ends with the process."""

    @staticmethod
    def event_object() -> Any:
        return _Flag()

    @staticmethod
    def lock_object() -> Any:
        return _NoLock()

    rlock_object = lock_object

    def async_result(self) -> Any:
        return AsyncResult(self)

    def dispatch_callback(self, callback: Callback) -> None:
        self.callback_queue.put(lambda: callback.func(*callback.args))


class _Flag:
    """A threading.Event that nobody waits for."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._is_set


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Ordered(dict[Any, None]):
    """A set in the order of its making: the addresses of watchers decide nothing."""

    def add(self, item: Any) -> None:
        self[item] = None


class _WakeUp:
    """Both ends of the pair of sockets by which kazoo wakes its connection thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def send(self, _: bytes) -> None:
        self._wake()

    def recv(self, _: int) -> bytes:
        return b"\0"

    def close(self) -> None:
        """Nothing."""


class SimulatedConnection(LeaseConnection):
    """What kazoo's connection thread does, as events."""

    def __init__(self, client: SimulatedClient, retry: KazooRetry, clock: Clock) -> None:
        super().__init__(client, retry, clock)
        self.host, self.process = client.host, client.process
        self._ensemble, self._rng, self._thread = client.ensemble, client.rng, client.connection_thread
        self._connection: Connection | None = None
        self._greeted = False
        self._hosts: deque[Server] = deque()
        self._delay_s = RECONNECT_DELAY_S_MIN
        self._dial_s = max(DIAL_S_MIN, client._session_timeout / 3000.0 / len(client.ensemble.servers))
        self._answer = (ReplyHeader(0, 0, 0), b"", 0)
        self._request: Any = None
        self._asked_at = 0.0
        self._last_send = 0.0
        self._waiting = 0  # counts what has ended a wait: timers of earlier ones are void
        self._attempt = 0

    # --- kazoo's own interface ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._read_sock = self._write_sock = _WakeUp(self._woken)
        self.connection_closed.clear()
        self.connection_stopped.clear()
        self._thread.put(self._try_next)

    def stop(self, timeout: float | None = None) -> bool:
        return bool(self.connection_stopped.is_set())

    # --- dialling -----------------------------------------------------------------------------------------------------

    def _try_next(self) -> None:
        client = self.client
        if client._stopped.is_set():
            self._end()
            return
        if not self._hosts:
            self._hosts.extend(self._rng.sample(self._ensemble.servers, len(self._ensemble.servers)))
        if client._state != KeeperState.CONNECTING:
            client._session_callback(KeeperState.CONNECTING)
        self._xid = 0
        self._ensemble.dial(self, self._hosts.popleft(), self._dial_s)

    def _retry(self) -> None:
        """The next host at once; after the last one, a pause."""
        if self._hosts or self.client._stopped.is_set():
            self._thread.put(self._try_next)
            return
        pause_s = self._delay_s * self._rng.uniform(0.6, 1.4)
        self._delay_s = min(self._delay_s * 2, RECONNECT_DELAY_S_MAX)
        self._thread.after(pause_s, self._try_next)

    def dialled(self, connection: Connection | None) -> None:
        self._thread.put(lambda: self._dialled(connection))

    def _dialled(self, connection: Connection | None) -> None:
        if connection is None or not connection.alive or self.loop_stands_still():
            if connection is not None:
                connection.close()
            self._drop()
            return
        client = self.client
        self._connection, self._greeted = connection, False
        self._asked_at = self._clock.monotonic()
        connection.send(
            Connect(
                0,
                client.last_zxid,
                client._session_timeout,
                client._session_id or 0,
                client._session_passwd,
                client.read_only,
            ),
            0,
            0,
        )
        within_s = client._session_timeout / 1000.0 / len(self._ensemble.servers)
        self._thread.after(
            within_s, lambda: self._drop() if self._connection is connection and not self._greeted else None
        )

    def _greet(self, content: bytes) -> None:
        client = self.client
        self._greeted = True
        answer, _ = Connect.deserialize(content, 0)
        if answer.time_out <= 0:
            self._delay_s = RECONNECT_DELAY_S_MIN
            self._part()
            client._session_callback(KeeperState.EXPIRED_SESSION)
            self._retry()
            return
        self._granted(answer.time_out / 1000.0, self._asked_at)
        client._session_id, client._session_passwd = answer.session_id, answer.passwd
        self._delay_s = RECONNECT_DELAY_S_MIN
        self.ping_outstanding.clear()
        client._session_callback(KeeperState.CONNECTED)
        self._last_send = self._clock.monotonic()
        self._send_queued()

    # --- a connection that stands ---------------------------------------------------------------------------------------

    @property
    def _read_timeout_s(self) -> float:
        return self.negotiated_timeout_s * 2.0 / 3.0

    def received(self, connection: Connection, answer: bytes) -> None:
        self._thread.put(lambda: self._read_one(connection, answer))

    def _read_one(self, connection: Connection, content: bytes) -> None:
        if self._connection is not connection:
            return
        if not self._greeted:
            self._greet(content)
            return
        header, offset = ReplyHeader.deserialize(content, 0)
        self._answer = (header, content, offset)
        if self._read_socket(self._read_timeout_s) == CLOSE_RESPONSE:
            self._part()
            self.client._session_callback(KeeperState.CLOSED)
            self._end()
            return
        self._wait()

    def _read_header(self, timeout: float) -> Any:
        return self._answer

    def broken(self, connection: Connection) -> None:
        self._thread.put(lambda: self._drop() if self._connection is connection else None)

    def _woken(self) -> None:
        self._thread.put(self._send_queued)

    def _send_queued(self) -> None:
        if self._connection is None or not self._greeted:
            return
        try:
            while self.client._queue:
                self._send_request(self._read_timeout_s, self._read_timeout_s)
                self._last_send = self._clock.monotonic()
        except ConnectionDropped:
            self._drop()
            return
        self._wait()

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        self._request, self._request_xid = request, xid or 0
        super()._submit(request, timeout, xid)

    def _write(self, msg: bytes, timeout: float) -> None:
        """The request itself is handed over: the server need not read it."""
        if self._connection is None:
            raise ConnectionDropped("no connection")
        self._connection.send(self._request, self._request_xid, len(msg) - 4)

    def _wait(self) -> None:
        """As kazoo's thread waits for its sockets: until it is time to ping, or the answer to a ping is overdue."""
        self._waiting += 1
        jitter_s = self._rng.randint(1, 40) / 100.0
        deadline = self._last_send + self._read_timeout_s / 2.0 - jitter_s
        wait_s = max(deadline - self._clock.monotonic(), jitter_s)
        self._thread.after(wait_s, lambda number=self._waiting: self._waited(number, deadline))  # type: ignore[misc]

    def _waited(self, number: int, deadline: float) -> None:
        if number != self._waiting or self._connection is None or not self._greeted:
            return
        if self.ping_outstanding.is_set():
            self.ping_outstanding.clear()
            self._drop()
            return
        if self._clock.monotonic() >= deadline:
            self._send_ping(self._read_timeout_s)
            self._last_send = self._clock.monotonic()
        self._wait()

    # --- its end ----------------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _drop(self) -> None:
        self._part()
        if self.client._state != KeeperState.CONNECTING:
            self.client._session_callback(KeeperState.CONNECTING)
        self._retry()

    def _end(self) -> None:
        self.connection_stopped.set()
        self.client._session_callback(KeeperState.CLOSED)


class SimulatedClient(LeaseClient):
    """One per session."""

    def __init__(
        self,
        hosts: str,
        session_timeout_s: float,
        clock: Clock,
        ensemble: Ensemble,
        process: Process,
        rng: random.Random,
    ) -> None:
        self.ensemble, self.process, self.host, self.rng = ensemble, process, process.host, rng
        self.connection_thread, watches, completions, self._submitter_thread = (
            _Thread(ensemble, process.loop, rng) for _ in range(4)
        )
        super().__init__(hosts, session_timeout_s, clock, _Handler(watches, completions), SimulatedConnection)
        self._ended = False

    def _reset_watchers(self) -> None:
        super()._reset_watchers()
        self._child_watchers, self._data_watchers = defaultdict(_Ordered), defaultdict(_Ordered)

    def open(self) -> None:
        self._stopped.clear()
        self._writer_stopped.clear()
        self._connection.start()

    async def end(self) -> None:
        self._ended = True
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._queue.append((CloseInstance, None))
        self._connection._woken()
        while not self._connection.connection_stopped.is_set():  # noqa: ASYNC110 - a thread's flag
            await asyncio.sleep(STOP_POLL_S)

    def run(self, work: Callable[[], object]) -> None:
        if self._ended:
            raise RuntimeError("the client has been stopped")
        self._submitter_thread.put(work)
