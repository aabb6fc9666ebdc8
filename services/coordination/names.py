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

from collections.abc import Callable
from enum import Enum

import structlog

from stele.services.coordination import incarnation
from stele.services.coordination.claim import Claim, Decision, Keeper, Seen
from stele.services.coordination.incarnation import Fate
from stele.services.coordination.records import Incarnation, NameRecord, decode, encode
from stele.services.coordination.session import Session
from stele.services.coordination.znode import ANY_VERSION, CreateOp, DeleteOp, Op, SetOp
from stele.services.errors import (
    CoordinationUnknown,
    NameTaken,
    RecordMissing,
    SteleError,
    VersionConflict,
)

log = structlog.get_logger()


class Guard(Enum):
    """What is known of the session that guards a name."""

    ABSENT = "absent"  # it is over
    OURS = "ours"
    PAST = "past"  # it lives, but its process is proven to be over, or to be this one
    LIVE = "live"  # it lives, and so does its process, which is another
    UNPROVEN = "unproven"  # it lives; of its process nothing can be proven


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
        # Of the record, once held; then the port was opened long ago, and proves nothing about others any more.
        self.version = -1
        self._session = session
        self._claim = Claim(session, f"name {name}", self)
        self._keeper = Keeper(session, f"name {name}", self.settle, on_taken)
        self._relay = session.relay(self._keeper.on_watch)

    async def register(self) -> None:
        """Holds the name on return.  NameTaken naming the owner; CoordinationUnknown: nothing was concluded, nothing is kept."""
        await self.settle()
        self._keeper.start()

    async def release(self) -> None:
        """Lets the name go: another process may take it at once.  The record stays, for lookups."""
        await self._keeper.stop()
        async with self._claim.turn:
            try:
                seen = await self.read()
                if seen.record is not None and seen.owner == self._session.session_id:
                    await self._session.commit(self._checked(seen, self.mine(), [DeleteOp(guard_path(self.name))]))
            except (RecordMissing, VersionConflict):
                pass
            except CoordinationUnknown as error:
                log.warning("name_release_unknown", name=self.name, error=str(error))

    async def settle(self) -> None:
        """Holds the name on return; see Claim."""
        await self._claim.settle()

    async def read(self) -> Seen[NameRecord]:
        """Present or absent; every third answer raises (R1.1)."""
        node = await self._session.get(name_path(self.name))
        if node is None:
            return Seen(None, -1, 0)
        guard = await self._session.exists(guard_path(self.name), watch=self._relay)
        record = decode(node.value, NameRecord, name_path(self.name))
        leftover = guard is not None and not guard.is_ephemeral
        return Seen(record, node.stat.version, guard.ephemeral_owner if guard else 0, leftover=leftover)

    def mine(self) -> NameRecord:
        return NameRecord(
            endpoint=self.endpoint,
            session=self._session.session_id,
            session_timeout_ms=round(self._session.negotiated_timeout_s * 1000),
            owner=self._session.incarnation,
        )

    def judge(self, seen: Seen[NameRecord]) -> Guard:
        if seen.leftover:
            return Guard.PAST
        if seen.owner == 0 or seen.record is None:
            return Guard.ABSENT
        if seen.owner == self._session.session_id:
            return Guard.OURS
        opened = self.endpoint if self.version < 0 else ""
        proven = incarnation.fate(seen.record.owner, seen.record.endpoint, self._session.incarnation, opened)
        if proven in (Fate.OWN, Fate.DEAD):
            return Guard.PAST
        return Guard.LIVE if proven is Fate.ALIVE else Guard.UNPROVEN

    def decide(self, seen: Seen[NameRecord], mine: NameRecord) -> Decision:
        return decide(seen.record, mine, self.judge(seen))

    async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
        await self._session.commit(self.writes(decision, seen, mine))
        log.info("name_registered", name=self.name, endpoint=self.endpoint, how=decision.value)

    def kept(self, seen: Seen[NameRecord]) -> None:
        self.version = seen.version

    def writes(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> list[Op]:
        """One transaction: record and guard together, against what was read."""
        create_guard = CreateOp(guard_path(self.name), b"", ephemeral=True)
        if decision is Decision.CREATE:
            return [CreateOp(name_path(self.name), encode(mine)), create_guard]
        if decision is Decision.REPLACE:
            return self._checked(seen, mine, [DeleteOp(guard_path(self.name), ANY_VERSION), create_guard])
        return self._checked(seen, mine, [] if seen.owner == self._session.session_id else [create_guard])

    def _checked(self, seen: Seen[NameRecord], mine: NameRecord, ops: list[Op]) -> list[Op]:
        # The record's version grows with every change of owner, so it also says whose guard this is.
        return [SetOp(name_path(self.name), encode(mine), seen.version), *ops]

    def refusal(self, seen: Seen[NameRecord]) -> NameTaken:
        assert seen.record is not None
        owner = seen.record
        return NameTaken(
            f"the name {self.name} is held by the live process at {owner.endpoint} (session {seen.owner:#x})",
            name=self.name,
            endpoint=owner.endpoint,
            session=f"{seen.owner:#x}",
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
