"""Registration of a logical name for this process (F1).

Guarantee: at any time at most one live process holds a name; a name is never taken from a live process; an unknown answer from
ZooKeeper changes nothing.

A name is two nodes: ``names/<name>``, persistent, says where the process is; ``names/<name>/live``, ephemeral, says that its session
lives.  Every change of owner writes both in one transaction against the version that was read, so check and write cannot come apart
(R1.6, R1.7), and the record's version identifies the owner: whoever deletes a guard, or a member node, does so under a check of it.

Usage: ``hold = await register_name(session, "ns1", "10.0.0.1:7000")``, after the port is open and before the member node (R1.8).  The
hold asserts itself again under a new session until ``release`` or the end of the session.

A previous run of the same process is recognised by ``incarnation.fate`` and replaced at once; where nothing can be proven, the end of
its session is waited for (R1.9): a live owner on another machine is therefore refused only after its session's timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import structlog

from stele.services.coordination import incarnation
from stele.services.coordination.claim import Keeper, WritePace
from stele.services.coordination.incarnation import Fate
from stele.services.coordination.records import Incarnation, NameRecord, decode, encode
from stele.services.coordination.session import Session
from stele.services.coordination.znode import ANY_VERSION, CreateOp, DeleteOp, Op, SetOp
from stele.services.errors import (
    CoordinationUnknown,
    NameTaken,
    RecordExists,
    RecordMissing,
    SteleError,
    VersionConflict,
)

ROUNDS_MAX = 24
WAIT_MARGIN_S = 1.5  # ZooKeeper expires sessions in steps of its tick
WAIT_STEP_S = 0.25

log = structlog.get_logger()


class Guard(Enum):
    """What is known of the session that guards a name."""

    ABSENT = "absent"  # it is over
    OURS = "ours"
    PAST = "past"  # it lives, but its process is proven to be over, or to be this one
    LIVE = "live"  # it lives, and so does its process, which is another
    UNPROVEN = "unproven"  # it lives; of its process nothing can be proven


class Decision(Enum):
    CREATE = "create"
    KEEP = "keep"
    REFRESH = "refresh"  # ours: write the record, create the guard if it is not ours yet
    TAKE_OVER = "take over"  # a dead owner's, by compare-and-set
    REPLACE = "replace"  # like those, in place of a past guard
    WAIT = "wait"
    REFUSE = "refuse"


def decide(record: NameRecord | None, mine: NameRecord, guard: Guard) -> Decision:
    """What registering ``mine`` should do, given what the name holds now.  Pure (R1.2–R1.6, R1.9)."""
    if record is None:
        return Decision.CREATE
    if guard is Guard.OURS:
        return Decision.KEEP if record == mine else Decision.REFRESH
    if guard is Guard.ABSENT:
        return Decision.REFRESH if record.endpoint == mine.endpoint else Decision.TAKE_OVER
    if guard is Guard.PAST:
        return Decision.REPLACE
    return Decision.REFUSE if guard is Guard.LIVE else Decision.WAIT


@dataclass(frozen=True, slots=True)
class Seen:
    record: NameRecord | None
    version: int
    guard_session: int  # 0: no guard


def name_path(name: str) -> str:
    return f"names/{name}"


def guard_path(name: str) -> str:
    return f"names/{name}/live"


class NameHold:
    """A name that this process registers and keeps."""

    def __init__(
        self, session: Session, name: str, endpoint: str, on_taken: Callable[[SteleError], None] | None = None
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.version = (
            -1
        )  # of the record, once held; then the port was opened long ago, and proves nothing about others any more
        self._session = session
        self._keeper = Keeper(session, f"name {name}", self.settle, on_taken)
        self._relay = session.relay(self._keeper.on_watch)
        self._pace = WritePace()
        self._turn = asyncio.Lock()

    async def register(self) -> None:
        """Holds the name on return.  NameTaken naming the owner; CoordinationUnknown: nothing was concluded, nothing is kept."""
        await self.settle()
        self._keeper.start()

    async def release(self) -> None:
        """Lets the name go: another process may take it at once.  The record stays, for lookups."""
        await self._keeper.stop()
        async with self._turn:
            try:
                seen = await self.read()
                if seen.record is not None and seen.guard_session == self._session.session_id:
                    await self._session.commit(self._checked(seen, self.mine(), [DeleteOp(guard_path(self.name))]))
            except (RecordMissing, VersionConflict):
                pass
            except CoordinationUnknown as error:
                log.warning("name_release_unknown", name=self.name, error=str(error))

    async def settle(self) -> None:
        """Reads, decides, writes, and goes round again.  The one way out is to have read that the name is ours: a write whose answer
        was lost is settled by reading (R5.6), a lost race by deciding anew (R1.3)."""
        async with self._turn:
            waited_for, deadline = 0, 0.0
            rounds = 0
            while rounds < ROUNDS_MAX:
                seen = await self.read()  # unknown is raised from here, before anything is written (R1.1)
                mine = self.mine()
                decision = decide(seen.record, mine, self.judge(seen))
                if decision is Decision.KEEP:
                    self.version = seen.version
                    return
                if decision is Decision.WAIT:
                    now = asyncio.get_running_loop().time()
                    if seen.guard_session != waited_for:
                        waited_for, deadline = seen.guard_session, now + self._owner_timeout_s(seen) + WAIT_MARGIN_S
                        log.info("name_waits_for_session", name=self.name, session=f"{waited_for:#x}")
                    if now < deadline:
                        await asyncio.sleep(WAIT_STEP_S)
                        continue
                if decision in (Decision.REFUSE, Decision.WAIT):
                    raise self._taken(seen)
                rounds += 1
                await self._pace.keep()
                await self._carry_out(decision, seen, mine)
            raise CoordinationUnknown(f"name {self.name}: not settled in {ROUNDS_MAX} rounds", name=self.name)

    async def _carry_out(self, decision: Decision, seen: Seen, mine: NameRecord) -> None:
        try:
            await self._session.commit(self.writes(decision, seen, mine))
            log.info("name_registered", name=self.name, endpoint=self.endpoint, how=decision.value)
        except (RecordExists, RecordMissing, VersionConflict):
            return  # somebody was faster: decide anew
        except CoordinationUnknown as error:
            log.info("name_write_unknown", name=self.name, error=str(error))

    async def read(self) -> Seen:
        """Present or absent; every third answer raises (R1.1)."""
        node = await self._session.get(name_path(self.name))
        if node is None:
            return Seen(None, -1, 0)
        guard = await self._session.exists(guard_path(self.name), watch=self._relay)
        record = decode(node.value, NameRecord, name_path(self.name))
        return Seen(record, node.stat.version, guard.ephemeral_owner if guard else 0)

    def mine(self) -> NameRecord:
        return NameRecord(
            endpoint=self.endpoint,
            session=self._session.session_id,
            session_timeout_ms=round(self._session.negotiated_timeout_s * 1000),
            owner=self._session.incarnation,
        )

    def judge(self, seen: Seen) -> Guard:
        if seen.guard_session == 0 or seen.record is None:
            return Guard.ABSENT
        if seen.guard_session == self._session.session_id:
            return Guard.OURS
        opened = self.endpoint if self.version < 0 else ""
        proven = incarnation.fate(seen.record.owner, seen.record.endpoint, self._session.incarnation, opened)
        if proven in (Fate.OWN, Fate.DEAD):
            return Guard.PAST
        return Guard.LIVE if proven is Fate.ALIVE else Guard.UNPROVEN

    def writes(self, decision: Decision, seen: Seen, mine: NameRecord) -> list[Op]:
        """One transaction: record and guard together, against what was read."""
        create_guard = CreateOp(guard_path(self.name), b"", ephemeral=True)
        if decision is Decision.CREATE:
            return [CreateOp(name_path(self.name), encode(mine)), create_guard]
        if decision is Decision.REPLACE:
            return self._checked(seen, mine, [DeleteOp(guard_path(self.name), ANY_VERSION), create_guard])
        return self._checked(seen, mine, [] if seen.guard_session == self._session.session_id else [create_guard])

    def _checked(self, seen: Seen, mine: NameRecord, ops: list[Op]) -> list[Op]:
        # The record's version grows with every change of owner, so it also says whose guard this is.
        return [SetOp(name_path(self.name), encode(mine), seen.version), *ops]

    def _owner_timeout_s(self, seen: Seen) -> float:
        recorded_ms = seen.record.session_timeout_ms if seen.record else 0
        return max(recorded_ms / 1000.0, self._session.negotiated_timeout_s)

    def _taken(self, seen: Seen) -> NameTaken:
        assert seen.record is not None
        owner = seen.record
        return NameTaken(
            f"the name {self.name} is held by the live process at {owner.endpoint} (session {seen.guard_session:#x})",
            name=self.name,
            endpoint=owner.endpoint,
            session=f"{seen.guard_session:#x}",
        )


async def register_name(
    session: Session, name: str, endpoint: str, *, on_taken: Callable[[SteleError], None] | None = None
) -> NameHold:
    """Registers ``name`` for ``endpoint`` and keeps it.  ``on_taken`` is called on the loop if another process takes it while this one
    was cut off for longer than its session."""
    hold = NameHold(session, name, endpoint, on_taken)
    await hold.register()
    return hold


def owner_is(record: NameRecord, mine: Incarnation) -> bool:
    return record.owner.instance == mine.instance
