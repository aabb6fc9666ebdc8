"""A watch-fed copy of a subtree.

Guarantee: once started, the copy follows every change within a round trip while the session is connected; it is read again as a
whole after every interruption (a connection that broke, a session that was lost), and until then keeps the last good view.  A
change is applied between two awaits: readers never see half of a batch.  A path that vanishes and comes back is followed again.

Usage: ``mirror = Mirror(session, "members", depth=2); await mirror.start(); mirror.snapshot["members/brokers/br1"]``.

It does not promise every intermediate value, and after an interruption it is behind until ``synced``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from stele.services.coordination.records import R, decode
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.coordination.subscribers import Subscribers
from stele.services.coordination.znode import Node, Stat
from stele.services.errors import CoordinationUnknown, RecordUnreadable
from stele.services.rarely import Rarely
from stele.services.tasks import Tasks

RETRY_DELAY_S = 0.1
READ_AT_ONCE = 128
START_S_MAX = 120.0

log = structlog.get_logger()

Changed = Callable[[frozenset[str]], None]


@dataclass(frozen=True, slots=True)
class _Reading:
    node: Node
    children: tuple[str, ...]


class Mirror:
    """``depth`` levels below ``path``: 0 is the node alone, 1 its children, and so on.  ``behind`` is shared by those that fall behind
    together, which is then said once."""

    def __init__(self, session: Session, path: str, depth: int, behind: Rarely | None = None) -> None:
        self.path = path
        self.depth = depth
        self._behind_since: float | None = asyncio.get_running_loop().time()
        self._behind = behind or Rarely()
        self._session = session
        self._nodes: dict[str, Node] = {}
        self._names: dict[str, set[str]] = {}
        self._decoded: dict[str, tuple[int, object]] = {}
        self._dirty: set[str] = set()
        self._all_dirty = True
        self._nodes_read = 0  # nodes so far, by which progress is seen
        self._wake = asyncio.Event()
        self._first = asyncio.Event()
        self._moved = asyncio.Event()
        self._subscribers: Subscribers[frozenset[str]] = Subscribers()
        self._relay = session.relay(self._on_watch)
        self._tasks = Tasks()
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Returns once the first whole view is there.  CoordinationUnknown once nothing came for longer than a request may take, at the
        latest after ``START_S_MAX``."""
        self._unsubscribe = self._session.subscribe(self._on_session)
        self._tasks.keep(self._run, f"mirror:{self.path}")
        read, deadline = -1, asyncio.get_running_loop().time() + START_S_MAX
        while not self._first.is_set():
            if self._nodes_read == read or asyncio.get_running_loop().time() >= deadline:
                await self.stop()
                raise CoordinationUnknown(f"no view of {self.path} in time", path=self.path)
            read = self._nodes_read
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._session.request_timeout_s * 2):
                    await self._first.wait()

    async def stop(self) -> None:
        self._unsubscribe()
        await self._tasks.cancel()

    @property
    def synced(self) -> bool:
        return self._behind_since is None

    @synced.setter
    def synced(self, synced: bool) -> None:
        if synced:
            self._behind_since = None
        else:
            self._fall_behind(0.0)

    def _fall_behind(self, for_s: float) -> None:
        """It is so already for some time."""
        if self._behind_since is None:
            self._behind_since = asyncio.get_running_loop().time() - for_s

    @property
    def behind_s(self) -> float:
        """For how long the copy has not been known to be whole; 0: it is."""
        return asyncio.get_running_loop().time() - self._behind_since if self._behind_since is not None else 0.0

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Mapping[str, Node]:
        """Path → node, live: what it holds changes between two awaits, never within one step."""
        return MappingProxyType(self._nodes)

    def get(self, path: str, record_type: type[R]) -> R | None:
        """The record in the copy; None if absent.  RecordUnreadable."""
        node = self._nodes.get(path)
        if node is None:
            return None
        known = self._decoded.get(path)
        if known is not None and known[0] == node.stat.mzxid and isinstance(known[1], record_type):
            return known[1]
        record = decode(node.value, record_type, path)
        self._decoded[path] = (node.stat.mzxid, record)
        return record

    def stat(self, path: str) -> Stat | None:
        node = self._nodes.get(path)
        return node.stat if node is not None else None

    def children(self, path: str) -> list[str]:
        """Names below ``path`` in the copy, in order."""
        return sorted(self._names.get(path, ()))

    def records(self, path: str, record_type: type[R]) -> dict[str, R]:
        """Name → record of the children of ``path``.  One that cannot be read is logged and left out: it must not hide the others."""
        found: dict[str, R] = {}
        for name in self.children(path):
            try:
                record = self.get(f"{path}/{name}", record_type)
            except RecordUnreadable as error:
                log.warning("record_unreadable", path=f"{path}/{name}", error=str(error))
                continue
            if record is not None:
                found[name] = record
        return found

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Calls ``callback`` on the loop with the paths that changed, after each batch."""
        return self._subscribers.add(callback)

    async def changed(self) -> None:
        """Waits for the next change."""
        await self._moved.wait()

    # --- following -------------------------------------------------------------------------------------------------

    def _on_session(self, event: SessionEvent) -> None:
        if event.state is SessionState.CONNECTED:
            self._all_dirty = True  # watches are gone, and what they would have told
            self._wake.set()
        else:
            # Since the last word, not since this is noticed: a process that stood still has missed what came meanwhile.
            self._fall_behind(event.unheard_s)

    def _on_watch(self, path: str | None) -> None:
        if path is None:
            return  # the session's own event follows
        self._dirty.add(path)
        self._wake.set()

    async def _run(self) -> None:
        # Whole, at each beginning: nobody knows what a run that failed had read.
        self.synced, self._all_dirty = False, True
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Taken BEFORE the reading: what changes during it is marked anew, and read once more.
            whole, self._all_dirty = self._all_dirty, False
            dirty, self._dirty = self._dirty, set()
            try:
                if whole:
                    # A new session may be with a server that is behind: catch up before believing what is missing.
                    await self._session.sync(self.path)
                self._apply(await self._read({self.path} if whole else dirty, whole))
            except CoordinationUnknown as error:
                if times := self._behind.times(asyncio.get_running_loop().time()):
                    log.info("mirror_behind", path=self.path, error=str(error), times=times)
                self.synced = False
                self._all_dirty = True
                self._wake.set()
                await asyncio.sleep(RETRY_DELAY_S)
                continue
            except Exception:
                self.synced = False  # at once: nobody may take it for whole until it was read anew
                raise
            if not self._all_dirty:
                self.synced = self._session.state is SessionState.CONNECTED
                self._first.set()

    async def _read(self, roots: set[str], whole: bool) -> dict[str, _Reading | None]:
        """What is at ``roots``, with a watch left on each and on its children, and what is below them: all of it, or as much as is not
        in the copy yet (the rest has its own watches)."""
        readings: dict[str, _Reading | None] = {}
        level = sorted(roots)
        while level:
            for begin in range(0, len(level), READ_AT_ONCE):
                # A request's time begins when it is made: it must not wait behind all others of a large tree.
                some = level[begin : begin + READ_AT_ONCE]
                readings.update(zip(some, await asyncio.gather(*map(self._read_one, some)), strict=True))
                self._nodes_read += len(some)
            below = (f"{path}/{name}" for path in level if (reading := readings[path]) for name in reading.children)
            level = [path for path in below if self._is_unread(path, readings, whole)]
        return readings

    def _is_unread(self, path: str, readings: dict[str, _Reading | None], whole: bool) -> bool:
        """Whether a child that has just been listed has to be read."""
        if path in readings:
            # Absent when it was read, listed since: it came back in between, BEFORE its parent's watch was set, which will not tell of it.
            return readings[path] is None
        return whole or path not in self._nodes

    async def _read_one(self, path: str) -> _Reading | None:
        # Reading leaves the watch, in one request: nothing can change between the two unseen.
        node = await self._session.get(path, watch=self._relay)
        if node is None:
            # Nobody's child watch would tell of the top's return.
            if path == self.path and await self._session.exists(path, watch=self._relay) is not None:
                self._on_watch(path)
            return None
        if self._level(path) >= self.depth:
            return _Reading(node, ())
        return _Reading(node, tuple(await self._session.children(path, watch=self._relay) or ()))

    def _level(self, path: str) -> int:
        return 0 if path == self.path else path[len(self.path) + 1 :].count("/") + 1

    def _apply(self, readings: dict[str, _Reading | None]) -> None:
        changed: set[str] = set()
        for path, reading in readings.items():
            stale = (
                {path}
                if reading is None
                else {f"{path}/{n}" for n in self._names.get(path, set()) - set(reading.children)}
            )
            for top in stale:
                changed |= self._remove(top)
        for path, reading in readings.items():
            if reading is not None and (path not in self._nodes or self._nodes[path].stat != reading.node.stat):
                self._nodes[path] = reading.node
                parent, _, name = path.rpartition("/")
                self._names.setdefault(parent, set()).add(name)
                changed.add(path)
        if changed:
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
            self._subscribers.publish(frozenset(changed))

    def _remove(self, path: str) -> set[str]:
        """Takes ``path`` and all below it out of the copy."""
        removed: set[str] = set()
        for name in list(self._names.get(path, ())):
            removed |= self._remove(f"{path}/{name}")
        self._names.pop(path, None)
        parent, _, name = path.rpartition("/")
        self._names.get(parent, set()).discard(name)
        if self._nodes.pop(path, None) is not None:
            self._decoded.pop(path, None)
            removed.add(path)
        return removed
