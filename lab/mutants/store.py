"""A store that takes what it cannot read for what is not there, or lets what is gone come back."""

from __future__ import annotations

import asyncio

from stele.datanode.directory import DataDirectory, GroupSpec, Quarantined
from stele.datanode.replica import Replica
from stele.datanode.store import Mandate, Store


class ForgetsWhatItCannotRead(Store):
    """A replica whose ``group.json`` cannot be read is listed nowhere, and is created anew in the folder that is there."""

    def _fail(self, group: int, problem: str, spec: GroupSpec | None, known: Replica | None = None) -> None:
        if spec is None:
            self.replicas.pop(group, None)
        else:
            super()._fail(group, problem, spec, known)

    async def create(self, spec: GroupSpec, mandate: Mandate) -> bool:
        async with self._locks.hold(spec.group):
            if spec.group in self.replicas:
                return False
            await asyncio.to_thread(self.directory.group_path(spec.group).mkdir, exist_ok=True)
            await asyncio.to_thread(self.directory.configure_group, spec)
            try:
                await self._open(self._replica(spec))
            except BaseException:
                self.replicas.pop(spec.group, None)
                await self.registry.delete(spec.group)
                raise
            return True


class KeepsTheQuarantined(Store):
    """What was set aside of a group stays of interest, although the group was rebuilt from it and then deleted."""

    async def _repair(self, aside: Quarantined) -> None:
        await super()._repair(aside)
        spent = aside.path.with_name(f"{aside.path.name}.rebuilt")
        if spent.exists():
            spent.rename(aside.path)

    async def delete(self, group: int, topic_id: int, mandate: Mandate) -> bool:
        self.replicas.pop(group).end()
        return await self.registry.delete(group)


class BeginsOverWhatItSetAside(Store):
    """A quarantined replica gives way to any that is created, one that votes from the start among them."""

    def _is_here(self, spec: GroupSpec) -> bool:
        return spec.group in self.replicas


class BelievesAnyFolder(DataDirectory):
    """Whatever stands where the store's folder stood is the store's."""

    def replaced(self) -> str:
        return ""


class ForgetsWhatItCannotDelete(Store):
    """A replica is off the list before its folder has gone, and stays so when that cannot be moved."""

    async def _bury(self, group: int) -> bool:
        replica = self.replicas.pop(group, None)
        if replica is not None:
            replica.end()
        return await self.registry.delete(group) or replica is not None


class ForgetsWhatItDeleted(Store):
    """Whoever orders a replica that is not here has it, from the beginning."""

    async def _record_deleted(self, group: int) -> None:
        """Nothing."""


class StopsAtWhatCannotBeMoved(Store):
    """A damaged replica that cannot be set aside keeps the node from starting."""

    async def _set_aside(self, group: int, problem: str, spec: GroupSpec | None) -> None:
        self.quarantined[group] = await asyncio.to_thread(self.directory.quarantine, group, problem, spec)
        self.replicas.pop(group, None)


class NeverTriesAgain(Store):
    """A replica that has failed stays so until the process is started again."""

    async def reopen(self, group: int) -> None:
        """Nothing."""
