"""Keeps a registration asserted for as long as its process lives, at a bounded pace (R5.7, R5.8).

Guarantee: a :class:`Keeper`'s ``assert_once`` runs again at once after every new session, whenever ``poke`` is called and every few
seconds, one run at a time, on the event loop, never in a ZooKeeper callback.  By its :class:`WritePace` the first write after a quiet
time goes out at once; writes that follow one another are at least a doubling pause apart, up to ``PAUSE_S_MAX``, so whoever keeps
undoing a registration does not set the pace at which it is put back.

It does not promise success while ZooKeeper cannot be reached; it goes on trying.  A definite refusal ends it and is reported once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.errors import SteleError

REASSERT_S = 5.0
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.5  # below the second within which a lost registration has to be back (R5.7)
QUIET_S = 2.0

log = structlog.get_logger()


def next_pause(pause_s: float, since_last_s: float) -> float:
    """The least time between the last write and the next one.  Pure."""
    return 0.0 if since_last_s > QUIET_S else min(PAUSE_S_MAX, max(PAUSE_S_MIN, pause_s * 2))


class WritePace:
    """One per registration."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._last = float("-inf")

    async def keep(self) -> None:
        """Returns when the next write may go out."""
        since = self._clock.monotonic() - self._last
        self._pause_s = next_pause(self._pause_s, since)
        await asyncio.sleep(max(0.0, self._pause_s - since))
        self._last = self._clock.monotonic()


class Keeper:
    def __init__(
        self,
        session: Session,
        what: str,
        assert_once: Callable[[], Awaitable[object]],
        on_refused: Callable[[SteleError], None] | None = None,
        reassert_s: float = REASSERT_S,
    ) -> None:
        self.what = what
        self._session = session
        self._assert_once = assert_once
        self._on_refused = on_refused
        self._pace = WritePace()
        self._reassert_s = reassert_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        if self._task is None:
            self._unsubscribe = self._session.subscribe(self._on_session)
            self._task = asyncio.create_task(self._run(), name=f"keeper:{self.what}")

    async def stop(self) -> None:
        self._unsubscribe()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def poke(self) -> None:
        self._wake.set()

    def on_watch(self, path: str | None) -> None:
        """For ``Session.relay``: something changed at the node.  A broken connection says nothing about it."""
        if path is not None:
            self.poke()

    def _on_session(self, event: SessionEvent) -> None:
        if event.state is SessionState.CONNECTED:
            self.poke()  # a new session has none of our nodes; a resumed one has lost its watches
        elif event.state is SessionState.CLOSED and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._reassert_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self._pace.keep()
            self._wake.clear()
            if self._session.state is not SessionState.CONNECTED:
                continue
            try:
                await self._assert_once()
            except SteleError as error:
                if error.definite and not error.retryable:
                    log.error("registration_refused", what=self.what, reason=error.reason, error=str(error))
                    if self._on_refused is not None:
                        self._on_refused(error)
                    return
                log.warning("registration_unsettled", what=self.what, reason=error.reason, error=str(error))
                self.poke()
            except Exception:
                # A fault of ours must not end the keeping: the process would live on, unseen by the cluster.
                log.exception("registration_failed", what=self.what)
                self.poke()
