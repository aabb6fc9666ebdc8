"""How something in ZooKeeper becomes ours, and stays ours for as long as the process lives (R5.6–R5.8).

Guarantee: :meth:`Claim.settle` has one way out, to have read that the thing is ours: a write whose answer was lost is settled by reading
(R5.6), a lost race by deciding anew (R1.3), and an unknown answer to the reading is raised before anything is written (R1.1).  The
decision itself is a function of what was read; names.py and members.py each have theirs.

A :class:`Keeper`'s ``assert_once`` runs again at once after every new session, whenever ``poke`` is called and every few seconds, one
run at a time, on the event loop, never in a ZooKeeper callback.  By its :class:`WritePace` the first write after a quiet time goes out
at once; writes that follow one another are at least a doubling pause apart, up to ``PAUSE_S_MAX``, so whoever keeps undoing a
registration does not set the pace at which it is put back.

Not promised: success while ZooKeeper cannot be reached; the keeper goes on trying.  A definite refusal ends it and is reported once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

import structlog

from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.records import MemberRecord, NameRecord
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.errors import (
    CoordinationUnknown,
    NameTaken,
    RecordExists,
    RecordMissing,
    SteleError,
    VersionConflict,
)
from stele.services.tasks import Tasks

ROUNDS_MAX = 24
WAIT_MARGIN_S = 1.5  # ZooKeeper expires sessions in steps of its tick
WAIT_STEP_S = 0.25
REASSERT_S = 5.0
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.5  # below the second within which a lost registration has to be back (R5.7)
QUIET_S = 2.0

C = TypeVar("C", NameRecord, MemberRecord)

log = structlog.get_logger()


class Decision(Enum):
    """What claiming should do about what was read."""

    CREATE = "create"
    KEEP = "keep"
    REFRESH = "refresh"  # ours: write what differs
    TAKE_OVER = "take over"  # a dead owner's, by compare-and-set
    REPLACE = "replace"  # in place of a past run's ephemeral node, which a set would not make ours
    WAIT = "wait"  # until its owner's session has expired, or shows that it lives
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Seen(Generic[C]):
    """What was read at one moment."""

    record: C | None  # None: no node, or one that is no such record
    version: int  # of the node that writes are made against; -1: there is none
    owner: int  # session of the ephemeral node; 0: there is none, or a persistent one
    name_version: int | None = None  # of the name's record where it is checked beside the node; None: it is not ours
    name_taken: bool = False  # there is such a record, and it is another process's
    leftover: bool = False  # of a name: its guard is persistent, and no sign of life

    @property
    def present(self) -> bool:
        return self.version >= 0


class Claimed(Protocol[C]):
    """What is claimed.  ``mine`` is the record that should be there; ``decide`` is pure."""

    async def read(self) -> Seen[C]:
        """Present or absent; every third answer raises (R1.1)."""
        ...

    def mine(self) -> C: ...

    def decide(self, seen: Seen[C], mine: C) -> Decision: ...

    async def write(self, decision: Decision, seen: Seen[C], mine: C) -> None:
        """In one transaction, against the versions in ``seen``."""
        ...

    def kept(self, seen: Seen[C]) -> None:
        """Called when ``seen`` shows that it is ours."""
        ...

    def refusal(self, seen: Seen[C]) -> NameTaken: ...


class Claim(Generic[C]):
    """One per claimed thing: its rounds of reading, deciding, writing and reading back."""

    def __init__(self, session: Session, what: str, claimed: Claimed[C]) -> None:
        self.turn = asyncio.Lock()  # held by whoever writes
        self.abandoned = False  # set by who no longer wants it: a settling under way then returns without it
        self._session = session
        self._what = what
        self._claimed: Claimed[C] = claimed
        self._pace = WritePace()

    async def settle(self) -> None:
        """NameTaken: another live process's, also when nothing could be proven of it and its session outlived its timeout.
        CoordinationUnknown: nothing was concluded."""
        async with self.turn:
            waited_for, deadline, rounds = 0, 0.0, 0
            while rounds < ROUNDS_MAX and not self.abandoned:
                # Read before anything is written: from an unknown answer nothing may follow (R1.1).
                seen = await self._claimed.read()
                mine = self._claimed.mine()
                decision = self._claimed.decide(seen, mine)
                if decision is Decision.KEEP:
                    self._claimed.kept(seen)
                    return
                if decision is Decision.WAIT:
                    now = asyncio.get_running_loop().time()
                    if seen.owner != waited_for:
                        waited_for, deadline = seen.owner, now + self._owner_timeout_s(seen) + WAIT_MARGIN_S
                        log.info("claim_waits_for_session", what=self._what, session=f"{waited_for:#x}")
                    if now < deadline:
                        await asyncio.sleep(WAIT_STEP_S)
                        continue
                if decision in (Decision.REFUSE, Decision.WAIT):
                    raise self._claimed.refusal(seen)
                rounds += 1
                await self._pace.keep()
                await self._write(decision, seen, mine)
            if not self.abandoned:
                raise CoordinationUnknown(f"{self._what}: not settled in {ROUNDS_MAX} rounds", what=self._what)

    async def _write(self, decision: Decision, seen: Seen[C], mine: C) -> None:
        """Whatever comes of it, the next round reads: only reading shows whose it is (R5.2)."""
        try:
            await self._claimed.write(decision, seen, mine)
        except (RecordExists, RecordMissing, VersionConflict):
            return  # somebody was faster: decide anew
        except CoordinationUnknown as error:
            log.info("claim_write_unknown", what=self._what, error=str(error))

    def _owner_timeout_s(self, seen: Seen[C]) -> float:
        recorded_ms = seen.record.session_timeout_ms if seen.record is not None else 0
        return max(recorded_ms / 1000.0, self._session.negotiated_timeout_s)


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
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        if self._task is None:
            self._unsubscribe = self._session.subscribe(self._on_session)
            self._task = self._tasks.keep(self._run, f"keeper:{self.what}")

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
