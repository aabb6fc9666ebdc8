"""One server of the simulated ensemble, and the connections of its clients.

Guarantee, as the real servers': what one connection asks is carried out and answered in its order; a server's reads show its own state,
which may lag behind; the answer to a write comes once the connection's own server has applied it, after the watch events that it causes
there; of what was under way when a connection breaks a beginning may still be carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from kazoo.exceptions import NoNodeError, UnimplementedError
from kazoo.protocol.serialization import Close, Connect, Exists, GetChildren, GetData, Ping, Sync

from tests.simulation.zookeeper import wire
from tests.simulation.zookeeper.tree import Event, Happened, Refused, Tree, Txn, is_write

if TYPE_CHECKING:
    from tests.simulation.zookeeper.ensemble import Ensemble

REQUEST_BYTES_MAX = 0xFFFFF  # a longer one breaks the connection


class ClientEnd(Protocol):
    """What a connection is to its client."""

    host: str

    def dialled(self, connection: Connection | None) -> None:
        """None: refused, or nobody answered."""

    def received(self, connection: Connection, answer: bytes) -> None: ...

    def broken(self, connection: Connection) -> None: ...


class Connection:
    """One TCP connection.  Each direction is in order; what is under way when it breaks is lost, or not."""

    def __init__(self, ensemble: Ensemble, client: ClientEnd, server: Server) -> None:
        self._ensemble, self.client, self.server = ensemble, client, server
        self.alive = True  # both ends, as far as anything that was sent can tell
        self.session = 0
        self.lose_next = ""  # "before" or "after" the effect of the next write
        self._to_server: deque[tuple[Any, int, int]] = deque()
        self._to_client: deque[bytes] = deque()
        self._arrives = {"server": 0.0, "client": 0.0}
        self._queue: deque[tuple[Any, int]] = deque()
        self._busy = False

    # --- the way there ----------------------------------------------------------------------------------------------

    def send(self, request: Any, xid: int, size: int) -> None:
        """By the client."""
        if self.alive:
            self._to_server.append((request, xid, size))
            self._carry("server", self._deliver, request)
        elif self._ensemble.reaches(self.server.host, self.client.host):
            self._ensemble.scheduler.after(self._ensemble.latency(), self.client.broken, self)

    def close(self) -> None:
        """By the client.  What was sent may still arrive."""
        if self.alive:
            self._ensemble.part(self, tell_client=False)

    def _carry(self, to: str, deliver: Callable[[], None], what: Any) -> None:
        ensemble = self._ensemble
        at = max(ensemble.scheduler.now + ensemble.latency(), self._arrives[to] + 1e-6)
        self._arrives[to] = at
        ensemble.scheduler.at(at, deliver)
        if ensemble.carried is not None:
            ends = (self.client.host, self.server.host)
            ensemble.carried(*(ends if to == "server" else reversed(ends)), what, at)

    def _deliver(self) -> None:
        if not self._to_server or not self.alive:
            return
        if not self._ensemble.reaches(self.client.host, self.server.host):
            self._hold("server", self._deliver)
            return
        request, xid, size = self._to_server.popleft()
        self.server.receive(self, request, xid, size)

    def _hold(self, to: str, deliver: Callable[[], None]) -> None:
        """TCP keeps it and tries again."""
        self._arrives[to] = self._ensemble.scheduler.now + 0.1
        self._ensemble.scheduler.at(self._arrives[to], deliver)

    def answer(self, content: bytes) -> None:
        """By the server."""
        if self.alive:
            self._to_client.append(content)
            self._carry("client", self._deliver_back, content)

    def _deliver_back(self) -> None:
        if not self._to_client or not self.alive:
            return
        if not self._ensemble.reaches(self.server.host, self.client.host):
            self._hold("client", self._deliver_back)
            return
        self.client.received(self, self._to_client.popleft())

    # --- one request after another ----------------------------------------------------------------------------------

    def put(self, request: Any, xid: int) -> None:
        self._queue.append((request, xid))
        self.go_on()

    def go_on(self) -> None:
        while self._queue and not self._busy:
            request, xid = self._queue.popleft()
            self._busy = self.server.handle(self, request, xid)

    def settled(self) -> None:
        self._busy = False
        self.go_on()

    def under_way(self) -> list[tuple[Any, int]]:
        """Requests that the server has not begun with."""
        return [*self._queue, *((request, xid) for request, xid, _ in self._to_server)]


class Server:
    """One of the ensemble: its tree, its connections and their watches."""

    def __init__(self, ensemble: Ensemble, host: str) -> None:
        self.host = host
        self.tree = Tree()
        self.up = True
        self.applied = 0  # transactions of the log
        self.applied_at: dict[int, float] = {}  # by zxid, when it did so first
        self.connections: dict[Connection, None] = {}
        self._ensemble = ensemble
        self._data_watches: dict[str, dict[Connection, None]] = {}
        self._child_watches: dict[str, dict[Connection, None]] = {}
        self._waiting: dict[int, list[Callable[[Txn], None]]] = {}  # by index in the log
        self._catches_up_at = 0.0

    # --- following --------------------------------------------------------------------------------------------------

    def hear_of(self, index: int) -> None:
        """The transaction at ``index`` is committed."""
        ensemble = self._ensemble
        self._catches_up_at = max(ensemble.scheduler.now + ensemble.lag(self), self._catches_up_at)
        ensemble.scheduler.at(self._catches_up_at, self._catch_up, index, ensemble.history)

    def _catch_up(self, index: int, history: int) -> None:
        if self.up and history == self._ensemble.history:
            while self.applied <= index:
                self._apply(self._ensemble.log[self.applied])

    def when_applied(self, index: int, then: Callable[[Txn], None]) -> None:
        self._waiting.setdefault(index, []).append(then)

    def _apply(self, txn: Txn) -> None:
        index, self.applied = self.applied, self.applied + 1
        self.applied_at.setdefault(txn.zxid, self._ensemble.scheduler.now)
        for event in self.tree.apply(txn):
            self._tell(event)
        for then in self._waiting.pop(index, ()):
            then(txn)

    def begin_again(self) -> None:
        """From the log as it is now: after a restart."""
        self.tree, self.applied = Tree(), 0
        self._waiting.clear()
        self._data_watches.clear()
        self._child_watches.clear()
        while self.applied < len(self._ensemble.log):
            self._apply(self._ensemble.log[self.applied])

    # --- watches ----------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Each watch is told once, and a connection that watches a node in both ways hears once of its end."""
        told: dict[Connection, None] = {}
        if event.kind is not Happened.CHILD:
            told |= self._data_watches.pop(event.path, {})
        if event.kind in (Happened.CHILD, Happened.DELETED):
            told |= self._child_watches.pop(event.path, {})
        for connection in told:
            connection.answer(wire.watch_event(event))

    def _watch(self, watches: dict[str, dict[Connection, None]], path: str, connection: Connection) -> None:
        watches.setdefault(path, {})[connection] = None

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        for watches in (self._data_watches, self._child_watches):
            for path in [path for path, watching in watches.items() if connection in watching]:
                del watches[path][connection]
                if not watches[path]:
                    del watches[path]

    # --- requests ---------------------------------------------------------------------------------------------------

    def receive(self, connection: Connection, request: Any, xid: int, size: int) -> None:
        if size > REQUEST_BYTES_MAX:
            self._ensemble.part(connection)
            return
        self._ensemble.touch(connection.session, connection)
        connection.put(request, xid)

    def handle(self, connection: Connection, request: Any, xid: int) -> bool:
        """True: the next one has to wait until ``connection.settled``."""
        ensemble = self._ensemble
        if isinstance(request, Connect):
            return ensemble.greet(connection, request)
        if wait_s := ensemble.queueing():
            ensemble.scheduler.after(wait_s, self._handle_later, connection, request, xid)
            return True
        return self._handle(connection, request, xid)

    def _handle_later(self, connection: Connection, request: Any, xid: int) -> None:
        if not self._handle(connection, request, xid):
            connection.settled()

    def _handle(self, connection: Connection, request: Any, xid: int) -> bool:
        ensemble = self._ensemble
        if not self.up:
            return True
        if is_write(request) or isinstance(request, Close | Sync):
            if is_write(request) and self._ensemble.loses(connection, "before"):
                ensemble.part(connection)
                return True
            ensemble.scheduler.after(ensemble.hop(), ensemble.order, self, connection, request, xid, ensemble.history)
            return True
        if not isinstance(request, Ping):
            ensemble.reading(connection.client.host, request.path)
        try:
            body = self._read(connection, request)
            connection.answer(wire.answer(xid, self.tree.zxid, 0, body))
        except Refused as refused:
            connection.answer(wire.answer(xid, self.tree.zxid, refused.code))
        return False

    def _read(self, connection: Connection, request: Any) -> bytes:
        if isinstance(request, Ping):
            return b""
        node = self.tree.nodes.get(request.path)
        if isinstance(request, Exists):
            if request.watcher:
                self._watch(self._data_watches, request.path, connection)
            if node is None:
                raise Refused(NoNodeError)
            return wire.stat(node.stat())
        if node is None:
            raise Refused(NoNodeError)
        if isinstance(request, GetData):
            if request.watcher:
                self._watch(self._data_watches, request.path, connection)
            return wire.buffer(node.value) + wire.stat(node.stat())
        if isinstance(request, GetChildren):
            if request.watcher:
                self._watch(self._child_watches, request.path, connection)
            return wire.strings(list(node.children))
        raise Refused(UnimplementedError)
