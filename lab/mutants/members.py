"""Showing a process as alive in ways that outlive it, hide it or show another's (R5.1 to R5.9)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from stele.services.coordination.claim import Decision, Seen, WritePace
from stele.services.coordination.kazoo_client import LeaseConnection
from stele.services.coordination.members import Holder, Membership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import MemberRecord, ZnodeRecord, encode
from stele.services.coordination.session import Session, SessionState
from stele.services.coordination.znode import CreateOp, Op
from stele.services.errors import CoordinationUnknown, NameTaken, RecordExists, RecordMissing


class PutDropsItsOptions(MetadataStore):
    """A put that finds no node to set falls back to a create that has forgotten what was asked for."""

    async def put(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False, version: int | None = None) -> int:
        while True:
            with suppress(CoordinationUnknown):
                try:
                    return (await self.session.set(path, encode(record))).version
                except RecordMissing:
                    await self.session.create(path, encode(record))
                    return 0


class RetryDropsItsOptions(MetadataStore):
    """The first attempt at a put is right; the one after a lost race or a lost connection is not."""

    async def put(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False, version: int | None = None) -> int:
        try:
            if await self.session.get(path) is None:
                await self.session.create(path, encode(record), ephemeral=ephemeral)
                return 0
            return (await self.session.set(path, encode(record))).version
        except (RecordMissing, CoordinationUnknown):
            return await super().put(path, record)


class TrustsTheWrite(Membership):
    """A registration that was written is believed, without looking whose node it became."""

    async def settle(self) -> None:
        seen = await self.read()
        try:
            if not seen.present:
                await self.create_node()
            elif seen.owner != self._session.session_id:
                await super().settle()
        except RecordExists:
            await self._session.set(self.path, encode(self.mine()))

    async def create_node(self) -> None:
        await self._session.create(self.path, encode(self.mine()), ephemeral=True)


class AdoptsALeftover(Membership):
    """A persistent node of the same name is written to and taken for one's own."""

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        holder = super().judge(seen)
        return Holder.US if holder is Holder.LEFTOVER else holder


class AdoptsThePreviousSession(Membership):
    """The node of one's own previous session is written to; it goes when that session does."""

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        holder = super().judge(seen)
        return Holder.US if holder is Holder.PAST else holder


class OwnNodeIsAStranger(Membership):
    """The node of one's own previous session is another's."""

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        holder = super().judge(seen)
        return Holder.OTHER if holder is Holder.PAST else holder


class OverwritesTheLive(Membership):
    """Whoever registers last gets the member node."""

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        holder = super().judge(seen)
        return Holder.PAST if holder in (Holder.OTHER, Holder.UNPROVEN) else holder


class AssumesSuccess(Membership):
    """A create whose answer was lost is taken for done."""

    async def settle(self) -> None:
        try:
            await self._session.create(self.path, encode(self.mine()), ephemeral=True)
        except CoordinationUnknown:
            return
        except RecordExists:
            await super().settle()


class AssumesFailure(Membership):
    """A create whose answer was lost is taken for not done."""

    async def settle(self) -> None:
        while True:
            try:
                await self._session.create(self.path, encode(self.mine()), ephemeral=True)
                return
            except CoordinationUnknown:
                continue
            except RecordExists:
                raise NameTaken(f"{self.path} is another's", name=self.name) from None


class RegistersOnce(Membership):
    """A registration is made at start and never looked at again."""

    async def register(self) -> None:
        await self.settle()


class ComesBackAfterLeaving(Membership):
    """The deletion of the node at a graceful stop looks like any other."""

    async def unregister(self) -> None:
        await self._session.delete(self.path)


BLOCKED_S = 3.0


class WorksInCallbacks(Session):
    """Work is done inside ZooKeeper's callback thread."""

    def _on_kazoo_state(self, state: str) -> None:
        if state == "CONNECTED" and self.cluster_id:
            try:
                # The answer would be read by the very thread that waits here.
                self._client.get_async(self.full("cluster")).get(timeout=BLOCKED_S)
            except Exception:
                pass
        super()._on_kazoo_state(state)


class _Unpaced(WritePace):
    async def keep(self) -> None:
        return


class StormsBack(Membership):
    """Nothing bounds how often a registration is put back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._claim._pace = self._keeper._pace = _Unpaced()


class RegistersForGood(Membership):
    """The member node is persistent, and a graceful stop hides it by deleting it."""

    def judge(self, seen: Seen[MemberRecord]) -> Holder:
        return Holder.US if seen.present else Holder.NOBODY

    def writes(self, decision: Decision, seen: Seen[MemberRecord], mine: MemberRecord) -> list[Op]:
        ops = super().writes(decision, seen, mine)
        return [CreateOp(op.path, encode(mine)) if isinstance(op, CreateOp) else op for op in ops]


class BelievesAnyTree(Session):
    """A new session is taken for one with the same cluster, whatever ZooKeeper holds by now."""

    async def _verify(self) -> None:
        self._unverified = False
        self._enter(SessionState.CONNECTED, new_session=True)


class CreatesWithoutItsName(Membership):
    """The member node is created as soon as there is none, whoever has the name."""

    async def read(self) -> Seen[MemberRecord]:
        return replace(await super().read(), name_taken=False)


class PingsWhateverTheLoopDoes(LeaseConnection):
    """The session is kept by a thread, whether or not anything that rests on it still happens."""

    def loop_stands_still(self) -> bool:
        return False
