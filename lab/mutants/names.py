"""Registering a name in ways that lose it, share it or take it from the living (F1)."""

from __future__ import annotations

from stele.services.coordination.claim import Decision, Seen
from stele.services.coordination.enrolment import Enrolment, Step
from stele.services.coordination.names import Guard, NameHold, guard_path, name_path
from stele.services.coordination.records import NameRecord, encode
from stele.services.coordination.znode import CreateOp, DeleteOp, SetOp
from stele.services.errors import CoordinationUnknown, NameTaken, RecordExists, SteleError


class UnknownIsAbsent(NameHold):
    """A read that ZooKeeper did not answer counts as "no such name", and the write that follows is unconditional."""

    async def read(self) -> Seen[NameRecord]:
        try:
            return await super().read()
        except CoordinationUnknown:
            return Seen(None, -1, 0)

    async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
        guard = CreateOp(guard_path(self.name), b"", ephemeral=True)
        try:
            await self._session.commit(
                [SetOp(name_path(self.name), encode(mine)), DeleteOp(guard_path(self.name)), guard]
            )
        except SteleError:
            await super().write(decision, seen, mine)


class AbsentIsDifferent(NameHold):
    """The name is in use (by this very process, whose candidacy is older than its name), and a record that cannot be found is taken
    for one that differs."""

    async def settle(self) -> None:
        candidates = await self._session.children("election") or []
        in_use = [node.value.decode() for c in candidates if (node := await self._session.get(f"election/{c}"))]
        if self.name in in_use and await self._session.get(name_path(self.name)) is None:
            raise NameTaken(f"server name {self.name} duplicate", name=self.name)
        await super().settle()


class LostRaceIsAnError(NameHold):
    """Losing the race to create the name is taken for the name being another's."""

    async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
        try:
            await self._session.commit(self.writes(decision, seen, mine))
        except RecordExists:
            raise NameTaken(f"somebody else created {self.name}", name=self.name) from None


class PresentIsTaken(NameHold):
    """A name that is there and guarded is taken, whoever holds it."""

    def judge(self, seen: Seen[NameRecord]) -> Guard:
        return Guard.LIVE if seen.owner else Guard.ABSENT


class TakesFromTheLive(NameHold):
    """Whoever comes last gets the name."""

    def judge(self, seen: Seen[NameRecord]) -> Guard:
        guard = super().judge(seen)
        return Guard.PAST if guard in (Guard.LIVE, Guard.UNPROVEN) else guard


class TakesOverBlindly(NameHold):
    """A dead owner's name is taken over with a set that carries no version."""

    async def settle(self) -> None:
        seen = await self.read()
        if seen.owner not in (0, self._session.session_id):
            raise NameTaken(f"{self.name} is held", name=self.name)
        if seen.owner or not seen.present:
            await super().settle()
            return
        await self.write(Decision.TAKE_OVER, seen, self.mine())

    async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
        if decision is Decision.TAKE_OVER:
            await self._session.set(name_path(self.name), encode(mine))
        else:
            await super().write(decision, seen, mine)


class NeverTakesOver(NameHold):
    """Another's record is another's for ever, so a node can never move."""

    async def settle(self) -> None:
        seen = await self.read()
        if seen.record is not None and seen.record.endpoint != self.endpoint:
            raise NameTaken(f"{self.name} is held", name=self.name)
        await super().settle()


class ChecksThenWrites(NameHold):
    """The name is looked up, and then written in a step of its own."""

    async def settle(self) -> None:
        seen = await self.read()
        if seen.record is not None and seen.record.endpoint != self.endpoint:
            raise NameTaken(f"{self.name} is held", name=self.name)
        try:
            await self._session.create(name_path(self.name), encode(self.mine()))
        except RecordExists:
            await self._session.set(name_path(self.name), encode(self.mine()))


class CampaignsFirst(Enrolment):
    """The process campaigns, and shows itself, before its port is open."""

    def order(self) -> list[Step]:
        return list(reversed(super().order()))


class TakesItsNameFirst(Enrolment):
    """The process registers its name before its port is open."""

    def order(self) -> list[Step]:
        port, name, *later = super().order()
        return [name, port, *later]


class ShowsItselfNameless(Enrolment):
    """The process shows itself as a member before its name is its own."""

    def order(self) -> list[Step]:
        port, name, member, *later = super().order()
        return [port, member, name, *later]


class CampaignsUnseen(Enrolment):
    """The process campaigns before it is a member."""

    def order(self) -> list[Step]:
        if self.campaign is None:
            return super().order()
        *before, member, campaign = super().order()
        return [*before, campaign, member]


class OwnPastIsAStranger(NameHold):
    """Whatever an earlier session left is another process's, and reason to exit."""

    def judge(self, seen: Seen[NameRecord]) -> Guard:
        return Guard.LIVE if seen.owner not in (0, self._session.session_id) else super().judge(seen)
