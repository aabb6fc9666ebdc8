"""Simulated ZooKeeper servers: one order of transactions, sessions with timeouts, and everything that can go wrong with them.

Guarantee, as the real servers': a session outlives its connections and a restart of the servers, and ends by its timeout, by its
client's word, or when ``expire`` is called; a client that has seen more than a server has is turned away; without a majority nothing is
answered and no session expires.  ``server.py`` says what one connection may count on.

The place for faults: ``expire``, ``lose_connection`` (before or after the effect), ``stop`` and ``start`` (one server or all),
``roll_back``, ``wipe``, ``slowness``, ``fullness_s``; ``cut`` and ``silenced`` for single clients.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kazoo.exceptions import SessionExpiredError
from kazoo.protocol.serialization import Close, Connect, Create, Sync, Transaction

from tests.simulation.scheduler import Scheduler
from tests.simulation.zookeeper import wire
from tests.simulation.zookeeper.server import ClientEnd, Connection, Server
from tests.simulation.zookeeper.tree import (
    Closed,
    Created,
    Deleted,
    Opened,
    Pending,
    Refused,
    Tree,
    Txn,
    Written,
    is_write,
    prepare,
    prepare_all,
)

TICK_S = 0.5
TIMEOUT_MIN_MS, TIMEOUT_MAX_MS = 1_000, 60_000
SLOWEST_S = 8.0
WALL_BASE_MS = 1_700_000_000_000
FIRST_SESSION = 0x1_0000_0000_0001
_NOTHING = Txn(0, 0)


class Reach(Protocol):
    """The network of the simulated cluster."""

    def reaches(self, a: str, b: str) -> bool: ...


@dataclass(slots=True)
class _Session:
    """What the leader knows of it."""

    timeout_ms: int
    password: bytes
    deadline: float = 0.0
    connection: Connection | None = None


class Ensemble:
    """``reach`` decides who reaches whom, beside ``cut``.  With several servers each lags behind on its own."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        reach: Reach | None = None,
        servers: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.scheduler, self._rng, self._reach, self.say = scheduler, rng, reach, say
        self.log: list[Txn] = []
        self.history = 0  # counts roll-backs: what was on its way in an earlier history is void
        self.tree = Tree()  # the leader's
        self.sessions: dict[int, _Session] = {}
        names = ["zk"] if servers == 1 else [f"zk{number}" for number in range(1, servers + 1)]
        self.servers = [Server(self, name) for name in names]
        self.slowness = 1.0  # factor on every latency
        self.fullness_s = 0.0  # each request waits about so long behind others'
        self.lag_s = 0.002 if servers > 1 else 0.0
        self.latency_s = 0.0004
        self.cut: dict[str, None] = {}  # hosts of clients that reach no server
        self.silenced: dict[str, None] = {}  # hosts of clients that are heard and hear nothing
        self.committing: Callable[[int, Txn], None] = lambda session, txn: None  # told before the tree changes
        self.carried: Callable[[str, str, Any, float], None] | None = (
            None  # from, to, a request or an answer's bytes, when it arrives
        )
        self.judging: Callable[[Any], None] = lambda request: None  # told of each write before it is looked at
        self.reading: Callable[[str, str], None] = lambda host, path: None  # told of each read, likewise
        self.losing: dict[
            str, tuple[str, int]
        ] = {}  # host of a client → "before" or "after" the effect, writes before that one
        self.clients: dict[int, ClientEnd] = {}  # by session, of all that there were
        self.asked: dict[str, Server] = {}  # by host of a client, the one that it was connected to last
        self._next_session = FIRST_SESSION

    # --- time -------------------------------------------------------------------------------------------------------

    def time_ms(self) -> int:
        return WALL_BASE_MS + int(self.scheduler.now * 1000)

    def latency(self) -> float:
        return min(self._rng.expovariate(1.0) * self.latency_s * self.slowness, SLOWEST_S)

    def hop(self) -> float:
        """To the leader, its disk and a majority's, and back."""
        return min(self._rng.expovariate(1.0) * 0.001 * self.slowness, SLOWEST_S)

    def lag(self, server: Server) -> float:
        return min(self._rng.expovariate(1.0) * self.lag_s * self.slowness, SLOWEST_S) if self.lag_s else 0.0

    def queueing(self) -> float:
        return self._rng.uniform(0.0, 2.0) * self.fullness_s

    def reaches(self, a: str, b: str) -> bool:
        if a in self.cut or b in self.cut or b in self.silenced:
            return False
        return self._reach is None or self._reach.reaches(a, b)

    # --- connections ------------------------------------------------------------------------------------------------

    def dial(self, client: ClientEnd, server: Server, within_s: float) -> None:
        """``client.dialled`` is called, after ``within_s`` at the latest."""
        both = self.reaches(client.host, server.host) and self.reaches(server.host, client.host)
        if both:
            self.scheduler.after(2 * self.latency(), self._accept, client, server)
        else:
            self.scheduler.after(within_s, client.dialled, None)

    def _accept(self, client: ClientEnd, server: Server) -> None:
        if not server.up or not self.has_quorum:
            client.dialled(None)
            return
        connection = Connection(self, client, server)
        server.connections[connection] = None
        client.dialled(connection)

    def part(self, connection: Connection, tell_client: bool = True) -> None:
        """The connection is over.  Of what its client had sent a beginning may still be carried out, and nobody hears of it."""
        if not connection.alive:
            return
        connection.alive = False
        server = connection.server
        server.forget(connection)
        session = self.sessions.get(connection.session)
        if session is not None and session.connection is connection:
            session.connection = None
        under_way = [pair for pair in connection.under_way() if is_write(pair[0]) or isinstance(pair[0], Close)]
        for request, xid in under_way[: self._rng.randint(0, len(under_way))] if server.up else ():
            late_s = self.hop() + (self._rng.uniform(0.0, 0.5) if self._rng.random() < 0.2 else 0.0)
            self.scheduler.after(late_s, self.order, server, connection, request, xid, self.history)
        if tell_client and self.reaches(server.host, connection.client.host):  # else it finds out by itself
            self.scheduler.after(self.latency(), connection.client.broken, connection)

    # --- sessions ---------------------------------------------------------------------------------------------------

    def greet(self, connection: Connection, request: Connect) -> bool:
        server = connection.server
        if request.last_zxid_seen > server.tree.zxid:
            self.say(f"zookeeper turns {connection.client.host} away: it has seen {request.last_zxid_seen}")
            self.part(connection)
            return True
        self.scheduler.after(self.hop(), self._greet, connection, request, self.history)
        return True

    def _greet(self, connection: Connection, request: Connect, history: int) -> None:
        if not connection.alive or history != self.history or not self.has_quorum:
            self.part(connection)
            return
        session_id = request.session_id
        if session_id:
            session = self.sessions.get(session_id)
            if session is None or session.password != request.passwd:
                self.say(f"zookeeper does not know session {session_id:#x} of {connection.client.host}")
                connection.answer(wire.greeting(0, 0, b"\0" * 16))
                return
            self._attach(session_id, session, connection)
            connection.settled()
            return
        session_id, self._next_session = self._next_session, self._next_session + 1
        timeout_ms = min(TIMEOUT_MAX_MS, max(TIMEOUT_MIN_MS, request.time_out))
        password = self._rng.randbytes(16)
        index = self._commit((Opened(session_id, timeout_ms, password),))
        session = self.sessions[session_id] = _Session(timeout_ms, password)
        self._keep(session_id, session)

        def opened(_: Txn) -> None:
            if connection.alive and self.sessions.get(session_id) is session:
                self._attach(session_id, session, connection)
                connection.settled()

        connection.server.when_applied(index, opened)
        self._announce(index)

    def _attach(self, session_id: int, session: _Session, connection: Connection) -> None:
        former, session.connection, connection.session = session.connection, connection, session_id
        self.clients[session_id], self.asked[connection.client.host] = connection.client, connection.server
        if former is not None and former is not connection:
            self.part(former)
        self.touch(session_id, connection)
        connection.answer(wire.greeting(session.timeout_ms, session_id, session.password))

    def touch(self, session_id: int, connection: Connection) -> None:
        session = self.sessions.get(session_id)
        if session is not None and session.connection is connection:
            session.deadline = self._expiry(session)

    def _expiry(self, session: _Session) -> float:
        """Sessions end in steps of the tick."""
        return (int((self.scheduler.now + session.timeout_ms / 1000) / TICK_S) + 1) * TICK_S

    def _keep(self, session_id: int, session: _Session) -> None:
        session.deadline = max(session.deadline, self._expiry(session))
        self.scheduler.at(session.deadline, self._look_at, session_id, session)

    def _look_at(self, session_id: int, session: _Session) -> None:
        if self.sessions.get(session_id) is not session:
            return
        if not self.has_quorum:
            session.deadline = self._expiry(session)
        if self.scheduler.now < session.deadline:
            self.scheduler.at(session.deadline, self._look_at, session_id, session)
        else:
            self.expire(session_id)

    def expire(self, session_id: int) -> None:
        """The session is over, whatever its client thinks."""
        if session_id not in self.sessions or not self.has_quorum:
            return
        session = self.sessions.pop(session_id)
        self.say(f"zookeeper ends session {session_id:#x}")
        self._announce(self._commit((Closed(session_id),)))
        if session.connection is not None:
            self.part(session.connection)

    def session_of(self, host: str) -> int:
        """Of the client that is connected from there now; 0: none."""
        for session_id, session in self.sessions.items():
            if session.connection is not None and session.connection.client.host == host:
                return session_id
        return 0

    # --- the order of everything ------------------------------------------------------------------------------------

    def order(self, server: Server, connection: Connection, request: Any, xid: int, history: int) -> None:
        """A write, a sync or the end of a session reaches the leader."""
        if history != self.history or not self.has_quorum or not server.up:
            return
        session = self.sessions.get(connection.session)
        if isinstance(request, Sync):
            if server.applied == len(self.log):
                self._answer(connection, request, xid)
            else:
                server.when_applied(len(self.log) - 1, lambda _: self._answer(connection, request, xid))
            return
        if session is None:
            if connection.alive:
                connection.answer(wire.answer(xid, server.tree.zxid, SessionExpiredError.code))  # type: ignore[attr-defined]
            return
        if not connection.alive and session.connection is not None and session.connection.server is not server:
            return  # the session has moved: what its former server still has of it is refused
        self.judging(request)
        txn = self._judge(request, connection.session)
        self.committing(connection.session, txn)
        index = self._commit(txn.changes, txn.error, txn.errors)
        if isinstance(request, Close):
            del self.sessions[connection.session]
        lost = connection.alive and self.loses(connection, "after")
        if lost:
            self.say(f"zookeeper loses the answer to {type(request).__name__} of {connection.client.host}")
        elif connection.alive:
            server.when_applied(index, lambda txn: self._answer(connection, request, xid, txn))
        self._announce(index)
        if lost:
            self.part(connection)

    def _judge(self, request: Any, session_id: int) -> Txn:
        if isinstance(request, Close):
            return Txn(0, 0, (Closed(session_id),))
        if isinstance(request, Transaction):
            changes, errors = prepare_all(request.operations, self.tree, session_id)
            return Txn(0, 0, changes, 0, errors)
        try:
            return Txn(0, 0, (prepare(request, Pending(self.tree), session_id),))
        except Refused as refused:
            return Txn(0, 0, (), refused.code)

    def _commit(self, changes: tuple[Any, ...], error: int = 0, errors: tuple[int, ...] | None = None) -> int:
        txn = Txn(self.tree.zxid + 1, self.time_ms(), changes, error, errors)
        self.tree.apply(txn)
        self.log.append(txn)
        return len(self.log) - 1

    def _announce(self, index: int) -> None:
        for server in self.servers:
            if server.up:
                server.hear_of(index)

    def _answer(self, connection: Connection, request: Any, xid: int, txn: Txn = _NOTHING) -> None:
        """The connection's server has applied ``txn``."""
        tree = connection.server.tree
        if isinstance(request, Sync):
            connection.answer(wire.answer(xid, tree.zxid, 0, wire.string(request.path)))
        elif isinstance(request, Close):
            connection.answer(wire.answer(xid, txn.zxid, 0))
            self.scheduler.after(self.latency(), self.part, connection)
        elif isinstance(request, Transaction):
            connection.answer(wire.answer(xid, txn.zxid, 0, _results(request, txn, tree)))
        elif txn.error:
            connection.answer(wire.answer(xid, txn.zxid, txn.error))
        else:
            connection.answer(wire.answer(xid, txn.zxid, 0, _result(txn.changes[0], tree)))
        connection.settled()

    # --- faults -----------------------------------------------------------------------------------------------------

    @property
    def has_quorum(self) -> bool:
        return sum(server.up for server in self.servers) * 2 > len(self.servers)

    def lose_connection(self, host: str, when: str = "") -> None:
        """Of the clients there: now, or with their next write ("before" or "after" its effect)."""
        for server in self.servers:
            for connection in list(server.connections):
                if connection.client.host == host:
                    if when:
                        connection.lose_next = when
                    else:
                        self.part(connection)

    def loses(self, connection: Connection, when: str) -> bool:
        """Whether ``when`` comes for the write that arrived by ``connection``."""
        if connection.lose_next == when:
            return True
        host = connection.client.host
        losing, skip = self.losing.get(host, ("", 0))
        if losing != when:
            return False
        self.losing[host] = (when, skip - 1)
        if skip <= 0:
            del self.losing[host]
        return skip <= 0

    def stop(self, server: Server) -> None:
        """Its connections break; sessions go on as long as their timeouts and a majority say."""
        if server.up:
            server.up = False
            self.say(f"{server.host} stops")
            for connection in list(server.connections):
                self.part(connection)
            if not self.has_quorum:
                for other in self.servers:
                    for connection in list(other.connections):
                        self.part(connection)

    def start(self, server: Server) -> None:
        if not server.up:
            server.up = True
            self.say(f"{server.host} starts")
            server.begin_again()
            if self.has_quorum:
                for session in self.sessions.values():
                    session.deadline = max(session.deadline, self._expiry(session))

    def change(self, *changes: Created | Deleted) -> None:
        """By somebody else's hand."""
        self._announce(self._commit(changes))

    def roll_back(self, to: int) -> None:
        """Every server goes on from its copy after the first ``to`` transactions; what came later has never happened."""
        self.say(f"zookeeper is rolled back to {to} of {len(self.log)} transactions")
        self.put_back(self.log[:to])

    def wipe(self) -> None:
        self.roll_back(0)

    def put_back(self, log: list[Txn]) -> None:
        """Every server goes on from this history."""
        for server in self.servers:
            for connection in list(server.connections):
                self.part(connection)
        self.history += 1
        self.log, self.tree = list(log), Tree()
        for txn in self.log:
            self.tree.apply(txn)
        for server in self.servers:
            server.begin_again()
        self.sessions = {i: _Session(granted.timeout_ms, granted.password) for i, granted in self.tree.sessions.items()}
        for session_id, session in self.sessions.items():
            self._keep(session_id, session)

    def heal(self) -> None:
        self.slowness, self.fullness_s = 1.0, 0.0
        self.cut.clear()
        self.silenced.clear()
        self.losing.clear()
        for server in self.servers:
            self.start(server)
            for connection in server.connections:
                connection.lose_next = ""


def _result(change: Any, tree: Tree) -> bytes:
    if isinstance(change, Created):
        return wire.string(change.path)
    return wire.stat(tree.written[0]) if isinstance(change, Written) else b""


def _results(request: Transaction, txn: Txn, tree: Tree) -> bytes:
    if txn.errors is not None:
        return wire.transaction([(-1, wire.number(code)) for code in txn.errors])
    stats = iter(tree.written)
    found: list[tuple[int, bytes]] = []
    for operation, change in zip(request.operations, txn.changes, strict=True):
        if isinstance(change, Created):
            found.append((Create.type, wire.string(change.path)))
        else:
            found.append((operation.type, wire.stat(next(stats)) if isinstance(change, Written) else b""))
    return wire.transaction(found)
