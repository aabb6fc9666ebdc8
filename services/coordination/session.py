"""The session with ZooKeeper: explicit states, awaitable requests, one stream of events.

Guarantee: every request ends within its timeout, in an answer or in ``CoordinationUnknown``, from which nothing may be concluded
(R1.1).  ``fenced`` is true before ZooKeeper can have expired the session, by this process's own clock.  Nothing runs in a kazoo
callback but the hand-over to the event loop (R5.8), and kazoo is never called on the event loop (``kazoo_client.py`` has the threads).
The session ends while the event loop stands still for longer than its timeout, and outlives every shorter stall.
A new session counts as connected only once the cluster's record was read under it and is the one that was known: a ZooKeeper that
lost it, or holds another cluster's, is none of ours (``on_mismatch``).

Usage: ``session = Session(hosts, cluster, session_timeout_s); await session.start(timeout_s=10)``.  Paths are relative to
``/stele/<cluster>`` and have no leading slash.

It does not promise that a request which ended in ``CoordinationUnknown`` had no effect, nor that it will have none later: read back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog
from kazoo.exceptions import NoAuthError, NoNodeError
from kazoo.protocol.states import EventType, KazooState, WatchedEvent

from stele.services.clock import SYSTEM, Clock
from stele.services.coordination import incarnation as incarnations
from stele.services.coordination.founding import joined, prepare
from stele.services.coordination.kazoo_client import STALL_SHARE, LeaseClient, first_failure, stat_of, translate
from stele.services.coordination.records import RECORD_FORMAT, Incarnation
from stele.services.coordination.schema import CLUSTER
from stele.services.coordination.subscribers import Subscribers
from stele.services.coordination.znode import ANY_VERSION, CheckOp, CreateOp, Node, Op, SetOp, Stat
from stele.services.errors import (
    ClusterMismatch,
    CoordinationRefused,
    CoordinationUnknown,
    CoordinationUnreachable,
    FormatUnknown,
    RecordExists,
    RecordMissing,
    SteleError,
)
from stele.services.tasks import Tasks

INFLIGHT_MAX = 128  # kazoo's wake-up socket blocks its caller at 278
REPEAT_DELAY_S = 0.05
EVENTS_PENDING_MAX = 1024
CLOSE_TIMEOUT_S = 15.0
BEATS_PER_TIMEOUT = 12  # of the event loop, which says by each that it turns

Connect = Callable[[str, float, Clock], LeaseClient]  # hosts, session timeout in seconds

log = structlog.get_logger()


class SessionState(Enum):
    CONNECTING = "connecting"  # no session yet
    CONNECTED = "connected"
    SUSPENDED = "suspended"  # the connection broke; the session may live
    LOST = "lost"  # the server said that the session is over; a new one is being opened
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SessionEvent:
    state: SessionState
    session_id: int
    fenced: bool  # SUSPENDED comes twice: when the connection breaks, and when the fence falls
    new_session: bool = False  # CONNECTED under another id than before: every ephemeral node of ours is gone
    unheard_s: float = (
        0.0  # SUSPENDED, LOST: for how long no server had answered by then, also while this process stood still
    )


def is_fenced(
    state: SessionState, now: float, lease_from: float, suspended_at: float, negotiated_timeout_s: float
) -> bool:
    """Whether the session may already be over at the server.  Losing the connection takes up to 2/3 of the timeout to notice, so a
    quarter after that is the last safe moment; the same bound holds for a process that was itself paused and noticed nothing."""
    if state not in (SessionState.CONNECTED, SessionState.SUSPENDED):
        return True
    if now - lease_from > negotiated_timeout_s * 11 / 12:
        return True
    return state is SessionState.SUSPENDED and now - suspended_at > negotiated_timeout_s / 4


class Session:
    """One per process.  Belongs to the event loop that called ``start``."""

    def __init__(
        self,
        hosts: str,
        cluster: str,
        session_timeout_s: float,
        clock: Clock = SYSTEM,
        *,
        request_timeout_s: float | None = None,
        incarnation: Incarnation | None = None,
        connect: Connect = LeaseClient,
        on_mismatch: Callable[[SteleError], None] | None = None,
        record_format: int = RECORD_FORMAT,
    ) -> None:
        """``on_mismatch`` is called on the loop, once, with ClusterMismatch or FormatUnknown; nothing is done under such a session.
        ``record_format``: the highest that this process knows."""
        self.hosts = hosts
        self.cluster = cluster
        self.root = f"/stele/{cluster}"
        self.session_timeout_s = session_timeout_s
        self.request_timeout_s = request_timeout_s if request_timeout_s is not None else max(1.0, session_timeout_s)
        self.state = SessionState.CONNECTING
        self.session_id = 0
        self.cluster_id = ""
        self.record_format = record_format
        self.incarnation = incarnation or incarnations.current()
        self._clock = clock
        self._started = False
        self._refusal: SteleError | None = None  # by every server, as it was to start
        self.problem = ""  # one line where the servers refuse us for a reason that no waiting mends
        self._on_mismatch = on_mismatch
        self._unverified = False
        self._tasks = Tasks()
        self._verifying: asyncio.Task[None] | None = None
        self._suspended_at = float("-inf")
        self._fence_timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self.on_answer: Callable[[str, float], None] = lambda operation, took_s: None
        self.longest_stall_s = 0.0  # by which a beat of the event loop was late
        self._client = connect(hosts, session_timeout_s, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = asyncio.Event()
        self._slots = asyncio.Semaphore(INFLIGHT_MAX)
        self._subscribers: Subscribers[SessionEvent] = Subscribers()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float = 10.0, *, prepares: bool = True) -> None:
        """Opens the session and creates what the cluster's tree needs; without ``prepares`` nothing, and ``cluster_id`` stays empty.
        CoordinationUnreachable if no server answers in time; CoordinationRefused, FormatUnknown."""
        self._loop = asyncio.get_running_loop()
        self._client.add_listener(self._on_kazoo_state)
        self._client.turned_at = self._clock.monotonic()
        self._beat()
        self._client.on_forgotten = lambda *zxids: self._hand_over(self._forgotten, *zxids)
        self._client.on_refused = lambda why: self._hand_over(self._refused, why)
        self._client.open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
                if self._refusal is not None:
                    raise self._refusal
                if prepares:
                    self.cluster_id = await prepare(self)
                self._started = True
        except (TimeoutError, CoordinationUnknown):
            await self.close()
            raise CoordinationUnreachable(
                f"no ZooKeeper server answered at {self.hosts} within {timeout_s:g} s", zookeeper=self.hosts
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the session: ZooKeeper removes its ephemeral nodes at once.  Idempotent."""
        if self.state is SessionState.CLOSED or self._loop is None:
            return
        if self._verifying is not None:
            self._verifying.cancel()
        if self._beating is not None:
            self._beating.cancel()
        # BEFORE kazoo stops: its last events, and requests that still wait, find the session closed and conclude nothing.
        self._enter(SessionState.CLOSED)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.end()
        except TimeoutError:
            log.warning("coordination_close_timeout", zookeeper=self.hosts)

    def _beat(self) -> None:
        """Says that the event loop turns; the client lets the session lapse when it has not heard that for long."""
        client, now = self._client, self._clock.monotonic()
        every_s = self.negotiated_timeout_s / BEATS_PER_TIMEOUT
        stood_s = now - client.turned_at
        client.turned_at = now
        self.longest_stall_s = max(self.longest_stall_s, stood_s - every_s)
        if stood_s > self.negotiated_timeout_s * STALL_SHARE:
            # A ping may have been left out, and the next one be due after the session's end: a request is one, too.
            log.warning("event_loop_turns_again", stood_s=round(stood_s, 2))
            with contextlib.suppress(RuntimeError):
                client.run(self._touch)
        assert self._loop is not None
        self._beating = self._loop.call_later(every_s, self._beat)

    def _touch(self) -> None:
        """On the submitter's thread.  Without a session there is nothing to keep."""
        with contextlib.suppress(Exception):
            self._client.exists_async(self.root)

    @property
    def negotiated_timeout_s(self) -> float:
        """What the server granted: the asked one clamped to its limits."""
        return self._client.negotiated_timeout_s or self.session_timeout_s

    @property
    def fenced(self) -> bool:
        """Self-fence: whatever rests on this session (leadership, ownership) is to be treated as void while this is true."""
        return is_fenced(
            self.state, self._clock.monotonic(), self._client.lease_from, self._suspended_at, self.negotiated_timeout_s
        )

    @property
    def unheard_s(self) -> float:
        """For how long, at most, no server has answered under this session."""
        return self._clock.monotonic() - self._client.lease_from

    @property
    def credentials(self) -> tuple[int, bytes]:
        """Id and password: whoever presents them can take the session over or end it."""
        return self._client.client_id or (0, b"")

    # --- events ----------------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[SessionEvent], None]) -> Callable[[], None]:
        """Calls ``callback`` on the loop for each change of state, until the returned function is called."""
        return self._subscribers.add(callback)

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Changes of state from now on; ends with CLOSED.  A reader that lags far behind loses the oldest."""
        queue: asyncio.Queue[SessionEvent] = asyncio.Queue(EVENTS_PENDING_MAX)

        def put(event: SessionEvent) -> None:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

        unsubscribe = self.subscribe(put)
        try:
            while True:
                event = await queue.get()
                yield event
                if event.state is SessionState.CLOSED:
                    return
        finally:
            unsubscribe()

    def _on_kazoo_state(self, state: str) -> None:
        """Runs on kazoo's connection thread."""
        # Now: when the loop hears of it, there may be an answer under the next session already.
        self._hand_over(self._follow, state, self._client._session_id or 0, self._client.lease_from)

    def _follow(self, state: str, session_id: int, heard_at: float) -> None:
        if self.state is SessionState.CLOSED:
            return
        if self._verifying is not None:
            self._verifying.cancel()
            self._verifying = None
        if state == KazooState.CONNECTED:
            new = session_id != self.session_id
            self.session_id = session_id
            self.problem = ""
            self._unverified = self._unverified or (new and bool(self.cluster_id))
            if self._unverified:
                self._verifying = self._tasks.keep(self._verify, "verify-cluster")
            else:
                self._enter(SessionState.CONNECTED, new_session=new)
        elif state == KazooState.SUSPENDED:
            self._enter(SessionState.SUSPENDED, unheard_s=self._clock.monotonic() - heard_at)
        else:
            self._enter(SessionState.LOST, unheard_s=self._clock.monotonic() - heard_at)

    async def _verify(self) -> None:
        """Reads the cluster's record under a new session, before anybody acts under it; again until there is an answer, or the next
        state of the connection begins it anew."""
        path = self.full(CLUSTER)
        while True:
            try:
                await self._once(lambda c: c.sync_async(path))  # the server may be behind the one before
                value, _ = await self._once(lambda c: c.get_async(path))
                found = joined(value, self.record_format).id
                break
            except FormatUnknown as unknown:
                self._mismatched(unknown)
                return
            except NoAuthError as refused:
                self._mismatched(translate(refused, "get", CLUSTER))
                return
            except NoNodeError:
                found = ""
                break
            except Exception as e:
                log.info("cluster_unverified", error=str(e))
                await asyncio.sleep(REPEAT_DELAY_S)
        if found == self.cluster_id:
            self._unverified = False
            self._enter(SessionState.CONNECTED, new_session=True)
            return
        held = f"the cluster {found} at {self.root}" if found else f"no {self.root} any more"
        error = ClusterMismatch(
            f"ZooKeeper at {self.hosts} holds {held}; this process belongs to the cluster {self.cluster_id}",
            expected=self.cluster_id,
            got=found,
        )
        self._mismatched(error)

    def _mismatched(self, error: BaseException) -> None:
        assert isinstance(error, SteleError)
        log.error("cluster_mismatch", reason=error.reason, error=error.message, zookeeper=self.hosts)
        self.problem = error.message
        if self._on_mismatch is not None:
            self._on_mismatch(error)

    def _forgotten(self, held: int, seen: int) -> None:
        """A server has closed our connection because it knows less than we have seen: it was put back to an older copy, or wiped."""
        if self.state is SessionState.CLOSED:
            return
        problem = (
            f"ZooKeeper at {self.hosts} has forgotten what it told us (it stands at transaction {held:#x}, we have seen {seen:#x}): "
            "it refuses every connection of this process; restore its data, or restart the process if that is the data to go on with"
        )
        if not self.problem:
            log.error("coordination_forgotten", zookeeper=self.hosts, held=f"{held:#x}", seen=f"{seen:#x}")
            self.problem = problem
            self._subscribers.publish(SessionEvent(self.state, self.session_id, self.fenced))

    def _refused(self, why: str) -> None:
        """No server lets us in.  That ends a start; a session that was there may come back, once somebody has mended it."""
        problem = f"ZooKeeper at {self.hosts} and this process do not trust one another: {why}"
        if not self._started:
            self._refusal = CoordinationRefused(problem, zookeeper=self.hosts)
            self._connected.set()
        elif self.problem != problem and self.state is not SessionState.CLOSED:
            log.error("coordination_refused", zookeeper=self.hosts, why=why)
            self.problem = problem
            self._subscribers.publish(SessionEvent(self.state, self.session_id, self.fenced))

    def _enter(self, state: SessionState, new_session: bool = False, unheard_s: float = 0.0) -> None:
        self.state = state
        if self._fence_timer is not None:
            self._fence_timer.cancel()
            self._fence_timer = None
        if state is SessionState.CONNECTED:
            self._connected.set()
        else:
            self._connected.clear()
        if state is SessionState.SUSPENDED:
            self._suspended_at = self._clock.monotonic()
            assert self._loop is not None
            self._fence_timer = self._loop.call_later(self.negotiated_timeout_s / 4 + 0.001, self._fall_fence)
        if state is SessionState.CLOSED:
            self._connected.set()  # waiters go on, and find it closed
        log.info("coordination_session", state=state.value, session=f"{self.session_id:#x}", new_session=new_session)
        self._subscribers.publish(SessionEvent(state, self.session_id, self.fenced, new_session, unheard_s))

    def _fall_fence(self) -> None:
        log.warning("coordination_fenced", session=f"{self.session_id:#x}")
        self._subscribers.publish(SessionEvent(self.state, self.session_id, fenced=True))

    def _hand_over(self, callback: Callable[..., None], *args: Any) -> None:
        """From a kazoo thread to the loop; a loop that is gone has nobody to tell."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass

    # --- requests --------------------------------------------------------------------------------------------------

    def relay(self, callback: Callable[[str | None], None]) -> Callable[[WatchedEvent], None]:
        """A watch for ``get``, ``exists`` and ``children``: calls ``callback`` on the loop with the path that changed, or with None
        when the connection broke and the watch is gone.  Keep the relay and pass the same one again: equal watches are set once."""

        def on_event(event: WatchedEvent) -> None:
            path = None if event.type == EventType.NONE else self.relative(event.path)
            self._hand_over(callback, path)

        return on_event

    async def get(self, path: str, *, watch: Any = None, timeout_s: float | None = None) -> Node | None:
        """The node, or None where ZooKeeper says that there is none.  Raises CoordinationUnknown for every third answer (R1.1)."""
        try:
            value, stat = await self._request(
                "get", path, lambda c: c.get_async(self.full(path), watch), timeout_s, repeat=True
            )
        except RecordMissing:
            return None
        return Node(value or b"", stat_of(stat))

    async def exists(self, path: str, *, watch: Any = None, timeout_s: float | None = None) -> Stat | None:
        """Present (its Stat) or absent (None); *unknown* raises CoordinationUnknown and is never folded into absent (R1.1)."""
        stat = await self._request(
            "exists", path, lambda c: c.exists_async(self.full(path), watch), timeout_s, repeat=True
        )
        return None if stat is None else stat_of(stat)

    async def children(self, path: str, *, watch: Any = None, timeout_s: float | None = None) -> list[str] | None:
        """Names of the children in order, or None where the node itself is absent."""
        try:
            names = await self._request(
                "children", path, lambda c: c.get_children_async(self.full(path), watch), timeout_s, repeat=True
            )
        except RecordMissing:
            return None
        return sorted(names)

    async def sync(self, path: str = "", *, timeout_s: float | None = None) -> None:
        """After it, reads see everything that was committed before it."""
        await self._request("sync", path, lambda c: c.sync_async(self.full(path)), timeout_s, repeat=True)

    async def create(
        self,
        path: str,
        value: bytes,
        *,
        ephemeral: bool = False,
        sequence: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        """The path that was created.  RecordExists, RecordMissing (its parent), CoordinationUnknown."""
        created = await self._request(
            "create",
            path,
            lambda c: c.create_async(self.full(path), value, ephemeral=ephemeral, sequence=sequence),
            timeout_s,
        )
        return self.relative(created)

    async def set(self, path: str, value: bytes, version: int = ANY_VERSION, *, timeout_s: float | None = None) -> Stat:
        """RecordMissing, VersionConflict, CoordinationUnknown."""
        return stat_of(
            await self._request("set", path, lambda c: c.set_async(self.full(path), value, version), timeout_s)
        )

    async def delete(self, path: str, version: int = ANY_VERSION, *, timeout_s: float | None = None) -> None:
        """RecordMissing, VersionConflict (also where the node has children), CoordinationUnknown."""
        await self._request("delete", path, lambda c: c.delete_async(self.full(path), version), timeout_s)

    async def commit(self, ops: Sequence[Op], *, timeout_s: float | None = None) -> list[Any]:
        """All of the operations or none.  One result per operation: path of a create, Stat of a set, True of the others.  Raises the
        error of the operation that failed; kazoo would have returned it."""

        def submit(client: LeaseClient) -> Any:
            transaction = client.transaction()
            for op in ops:
                if isinstance(op, CheckOp):
                    transaction.check(self.full(op.path), op.version)
                elif isinstance(op, CreateOp):
                    transaction.create(self.full(op.path), op.value, ephemeral=op.ephemeral, sequence=op.sequence)
                elif isinstance(op, SetOp):
                    transaction.set_data(self.full(op.path), op.value, op.version)
                else:
                    transaction.delete(self.full(op.path), op.version)
            return transaction.commit_async()

        results = await self._request("commit", ops[0].path, submit, timeout_s)
        failed = first_failure(results)
        if failed is not None:
            index, error = failed
            raise translate(error, type(ops[index]).__name__.removesuffix("Op").lower(), ops[index].path)
        return [
            self.relative(result) if isinstance(op, CreateOp) else stat_of(result) if isinstance(op, SetOp) else True
            for op, result in zip(ops, results, strict=True)
        ]

    async def ensure(self, path: str, value: bytes = b"") -> None:
        """The persistent node exists afterwards; a value that is there stays."""
        try:
            await self.create(path, value)
        except RecordExists:
            return

    async def ensure_root(self) -> None:
        parent = self.root.rpartition("/")[0]
        await self._request("create", "", lambda c: c.ensure_path_async(parent, c.shared_acl), None, repeat=True)
        await self._request("create", "", lambda c: c.ensure_path_async(self.root), None, repeat=True)

    async def _request(
        self,
        what: str,
        path: str,
        submit: Callable[[LeaseClient], Any],
        timeout_s: float | None,
        *,
        repeat: bool = False,
    ) -> Any:
        """``repeat``: a read, which may be asked again on the next connection within its timeout; a write never is."""
        limit_s = self.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    await self._connected.wait()
                    if self.state is SessionState.CLOSED:
                        raise CoordinationUnknown(f"{what} {path}: the session is closed", path=path)
                    asked_s = self._clock.monotonic()
                    try:
                        answer = await self._once(submit)
                    except Exception as error:
                        translated = translate(error, what, path)
                        if not isinstance(translated, CoordinationUnknown):
                            self.on_answer(what, self._clock.monotonic() - asked_s)
                            raise translated from None
                        if not repeat:
                            raise translated from None
                    else:
                        self.on_answer(what, self._clock.monotonic() - asked_s)
                        return answer
                    await asyncio.sleep(REPEAT_DELAY_S)
        except TimeoutError:
            raise CoordinationUnknown(
                f"{what} {path}: ZooKeeper gave no answer within {limit_s:g} s", path=path
            ) from None

    async def _once(self, submit: Callable[[LeaseClient], Any]) -> Any:
        assert self._loop is not None
        await self._slots.acquire()
        answer: asyncio.Future[Any] = self._loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            # The slot is held until kazoo is done with the request, not until the caller stops waiting: that bounds kazoo's queue.
            self._slots.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)

        def on_submitter_thread() -> None:
            try:
                result = submit(self._client)
                result.rawlink(lambda r: self._hand_over(settle, r.value, r.exception))
            except BaseException as error:
                self._hand_over(settle, None, error)

        try:
            self._client.run(on_submitter_thread)
        except RuntimeError:  # shut down
            self._slots.release()
            raise CoordinationUnknown("the session is closed") from None
        return await answer

    def full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def relative(self, path: str) -> str:
        return path[len(self.root) + 1 :]
