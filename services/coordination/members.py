"""Membership: the ephemeral node by which the cluster knows that a process lives (F5).

Guarantee: when ``register`` returns, ``members/<kind>/<name>`` holds our record and was read back as owned by our session (R5.2).  It is
put back under every new session and whenever somebody deletes it, until ``unregister`` (R5.7).  A persistent leftover and a node of
our own previous session are replaced, never adopted, since a ``set`` does not change the owner (R5.3, R5.4); the node of another live
process is ``NameTaken`` (R5.5).  After a crash the node is gone with the session, and ``live`` counts ephemeral nodes only (R5.9).

Usage: ``member = Membership(session, "brokers", "br1", MemberRecord(endpoint=...)); await member.register()``, after the name (R1.8).

Where the process holds the name of the same spelling, every write is checked against that record's version: a process that has lost
its name cannot touch its successor's node.  The node is created against the version of the cluster's record that was read before: whoever
raises the cluster's record format either finds the member, or is found by it (``FormatUnknown``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import structlog

from stele.services.coordination import incarnation
from stele.services.coordination.claim import Claim, Decision, Keeper, Seen
from stele.services.coordination.founding import joined
from stele.services.coordination.incarnation import Fate
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.names import name_path, owner_is
from stele.services.coordination.records import MemberRecord, NameRecord, decode, encode
from stele.services.coordination.schema import CLUSTER
from stele.services.coordination.session import Session
from stele.services.coordination.znode import CheckOp, CreateOp, DeleteOp, Op, SetOp
from stele.services.errors import (
    CoordinationUnknown,
    NameTaken,
    RecordMissing,
    RecordUnreadable,
    SteleError,
    VersionConflict,
)

log = structlog.get_logger()


class Holder(Enum):
    """Whose the node at our path is."""

    NOBODY = "nobody"
    US = "us"  # our session's
    LEFTOVER = "leftover"  # persistent: an older version's fault
    PAST = "past"  # of a session whose process is proven to be over, or to be this one
    OTHER = "other"  # of another live process
    UNPROVEN = "unproven"


def decide(holder: Holder, up_to_date: bool) -> Decision:
    """What registering should do about the node at our path.  Pure (R5.2–R5.5)."""
    if holder is Holder.US:
        return Decision.KEEP if up_to_date else Decision.REFRESH
    return {
        Holder.NOBODY: Decision.CREATE,
        Holder.LEFTOVER: Decision.REPLACE,
        Holder.PAST: Decision.REPLACE,
        Holder.OTHER: Decision.REFUSE,
        Holder.UNPROVEN: Decision.WAIT,
    }[holder]


def member_path(kind: str, name: str) -> str:
    return f"members/{kind}/{name}"


class Membership:
    """``kind`` is nameservers, datanodes or brokers.  ``on_taken`` is called on the loop if another process has the node after this one
    was cut off for longer than its session."""

    def __init__(
        self,
        session: Session,
        kind: str,
        name: str,
        record: MemberRecord,
        *,
        on_taken: Callable[[SteleError], None] | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.record = record
        self.path = member_path(kind, name)
        self._session = session
        self._claim = Claim(session, f"member {kind}/{name}", self)
        self._keeper = Keeper(session, f"member {kind}/{name}", self.settle, on_taken)
        self._relay = session.relay(self._keeper.on_watch)
        self._cluster_version = -1  # of the cluster's record, as it was read last; -1: there is none
        self._registered = False  # once; then the port was opened long ago, and proves nothing about others any more

    async def register(self) -> None:
        """NameTaken, FormatUnknown; CoordinationUnknown: whatever was written goes with the session."""
        self._claim.abandoned = False
        await self.settle()
        self._keeper.start()

    async def update(self, **changes: Any) -> None:
        """Changes fields of the record (``state="ready"``).  If ZooKeeper gives no answer the change is kept and written later."""
        self.record = dataclasses.replace(self.record, **changes)
        try:
            await self.settle()
        except CoordinationUnknown:
            self._keeper.poke()
            raise

    async def unregister(self) -> None:
        """The node is gone, unless ZooKeeper gives no answer: then it goes with the session.  Idempotent."""
        self._claim.abandoned = True  # before the deletion: the watch on it must not bring it back
        await self._keeper.stop()
        async with self._claim.turn:
            try:
                seen = await self.read()
                if seen.present and seen.owner == self._session.session_id:
                    await self._session.commit([*self._checks(seen), DeleteOp(self.path, seen.version)])
                    log.info("member_unregistered", kind=self.kind, name=self.name)
            except (RecordMissing, VersionConflict):
                pass
            except CoordinationUnknown as error:
                log.warning("member_unregister_unknown", kind=self.kind, name=self.name, error=str(error))

    async def settle(self) -> None:
        """The node is ours on return, and as ``mine`` says; see Claim."""
        await self._claim.settle()

    async def read(self) -> Seen[MemberRecord]:
        named = await self._session.get(name_path(self.name))
        held = named is not None and owner_is(
            decode(named.value, NameRecord, name_path(self.name)), self._session.incarnation
        )
        name_version = named.stat.version if named is not None and held else None
        taken = named is not None and not held
        node = await self._session.get(self.path, watch=self._relay)
        if node is None or node.stat.ephemeral_owner != self._session.session_id:
            await self._read_cluster()
        if node is None:
            await self._session.exists(self.path, watch=self._relay)
            return Seen(None, -1, 0, name_version, taken)
        try:
            record = decode(node.value, MemberRecord, self.path)
        except RecordUnreadable:
            record = None
        return Seen(record, node.stat.version, node.stat.ephemeral_owner, name_version, taken)

    async def _read_cluster(self) -> None:
        """FormatUnknown."""
        cluster = await self._session.get(CLUSTER)
        self._cluster_version = cluster.stat.version if cluster is not None else -1
        if cluster is not None:
            joined(cluster.value, self._session.record_format)

    def mine(self) -> MemberRecord:
        return dataclasses.replace(
            self.record,
            owner=self._session.incarnation,
            record_format=self._session.record_format,
            session_timeout_ms=round(self._session.negotiated_timeout_s * 1000),
        )

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        if not seen.present:
            # The name is another's by now, and so is the node that is to be here: whoever lost its name creates nothing.
            return Holder.UNPROVEN if seen.name_taken else Holder.NOBODY
        if seen.owner == self._session.session_id:
            return Holder.US
        if seen.owner == 0:
            return Holder.LEFTOVER
        if seen.record is None:
            return Holder.UNPROVEN
        opened = "" if self._registered else self.record.endpoint
        proven = incarnation.fate(seen.record.owner, seen.record.endpoint, self._session.incarnation, opened)
        if proven in (Fate.OWN, Fate.DEAD):
            return Holder.PAST
        if proven is Fate.ALIVE:
            return Holder.OTHER
        # Nothing is proven about its process, but the name is ours: it lost the name, and may write nothing any more.
        return Holder.UNPROVEN if seen.name_version is None else Holder.PAST

    def decide(self, seen: Seen[MemberRecord], mine: MemberRecord) -> Decision:
        return decide(self.judge(seen), seen.record == mine)

    async def write(self, decision: Decision, seen: Seen[MemberRecord], mine: MemberRecord) -> None:
        await self._session.commit([*self._checks(seen), *self.writes(decision, seen, mine)])
        log.info("member_registered", kind=self.kind, name=self.name, state=mine.state, how=decision.value)

    def kept(self, seen: Seen[MemberRecord]) -> None:
        self._registered = True

    def writes(self, decision: Decision, seen: Seen[MemberRecord], mine: MemberRecord) -> list[Op]:
        if decision is Decision.REFRESH:
            return [SetOp(self.path, encode(mine), seen.version)]
        create = CreateOp(self.path, encode(mine), ephemeral=True)
        cluster = [CheckOp(CLUSTER, self._cluster_version)] if self._cluster_version >= 0 else []
        return (
            [*cluster, DeleteOp(self.path, seen.version), create]
            if decision is Decision.REPLACE
            else [*cluster, create]
        )

    def _checks(self, seen: Seen[MemberRecord]) -> list[Op]:
        return [] if seen.name_version is None else [CheckOp(name_path(self.name), seen.name_version)]

    def refusal(self, seen: Seen[MemberRecord]) -> NameTaken:
        endpoint = seen.record.endpoint if seen.record else ""
        return NameTaken(
            f"{self.path} belongs to the live process at {endpoint or 'an unknown endpoint'} (session {seen.owner:#x})",
            name=self.name,
            endpoint=endpoint,
            session=f"{seen.owner:#x}",
        )


async def live(session: Session, kind: str) -> dict[str, MemberRecord]:
    """The live members by name.  A persistent node is a leftover and counts for nothing (R5.9)."""
    found = await MetadataStore(session).list(f"members/{kind}", MemberRecord)
    return {name: versioned.record for name, versioned in found.items() if versioned.stat.is_ephemeral}


def live_in(mirror: Mirror, kind: str) -> dict[str, MemberRecord]:
    """The same from a mirror of ``members``."""
    records = mirror.records(f"members/{kind}", MemberRecord)
    return {
        name: record
        for name, record in records.items()
        if (stat := mirror.stat(member_path(kind, name))) is not None and stat.is_ephemeral
    }


def known_nameservers(session: Session) -> Callable[[], Awaitable[list[str]]]:
    """Endpoints of the live nameservers; the last known ones while ZooKeeper gives no answer, or says that there are none."""
    known: list[str] = []

    async def endpoints() -> list[str]:
        nonlocal known
        with suppress(CoordinationUnknown):
            known = [record.endpoint for record in (await live(session, "nameservers")).values()] or known
        return known

    return endpoints
