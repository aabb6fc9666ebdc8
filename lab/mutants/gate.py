"""Datanodes that serve, lead or show themselves too early, or leave too late (F4)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from stele.datanode.batch_reader import LocatedBatch
from stele.datanode.directory import GroupSpec
from stele.datanode.gate import Gate
from stele.datanode.replica import Replica
from stele.datanode.role import Datanode
from stele.datanode.store import Store
from stele.services.errors import LogDamaged
from stele.services.raft.catch_up import CatchUp


class OpensPortFirst(Gate):
    """The client port opens first, so that clients reach partitions that are not loaded."""

    async def open(self) -> None:
        await self.open_port()
        await self.load()
        await self.settle()
        self.may_lead()
        await self.ready()


class SkipsCatchingUp(Gate):
    """A replica counts as settled once it is loaded, however far behind it is."""

    def settled(self) -> int:
        return len(self.store.replicas)


class CampaignsWhileLoading(Gate):
    """A replica may lead as soon as it is loaded, behind a port that is closed until the last one is."""

    async def open(self) -> None:
        self.may_lead()
        await super().open()


class WaitsForALeader(Gate):
    """A replica settles only under a leader, of which there is none when a whole cluster starts cold."""

    def settled(self) -> int:
        return sum(g.leader_store_id != 0 and g.settled for g in self.store.registry.groups())


class LoadsAllAtOnce(Store):
    """Every group is loaded at the same time, whatever the bound."""

    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        await super().load(1_000, loaded)


class LoadsOneByOne(Store):
    """One group is loaded after the other."""

    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        await super().load(1, loaded)


class StopsAtDamage(Store):
    """A damaged partition keeps the node from starting."""

    async def _load_one(self, group: int) -> None:
        spec = await asyncio.to_thread(self.directory.read_group, group)
        assert spec is not None
        self.replicas[group] = replica = self._replica(spec)
        await self._open(replica)


class DeletesDamage(StopsAtDamage):
    """A damaged partition is deleted."""

    async def _load_one(self, group: int) -> None:
        try:
            await super()._load_one(group)
        except LogDamaged:
            self.replicas.pop(group, None)
            await asyncio.to_thread(shutil.rmtree, self.directory.group_path(group))


class RegistersWhenReady(Datanode):
    """The node registers once it is ready, so that a node which loads looks dead."""

    async def _register(self, raft_endpoint: str) -> None:
        async def later() -> None:
            await self._runtime.ready.wait("port")
            await super(RegistersWhenReady, self)._register(raft_endpoint)
            await self._report("ready", self.store.loaded, self.store.total)

        self._tasks.start(later(), "register")


class _Eager(Replica):
    def read(self, offset: int, bytes_max: int) -> list[LocatedBatch]:
        return [] if self.group is None else super().read(offset, bytes_max)


class AnswersWhileLoading(Store):
    """A replica that is not loaded answers as if it were empty."""

    def _replica(self, spec: GroupSpec) -> Replica:
        return _Eager(spec, self.store_id, self._entry_bytes_max, self.disk)


class ClosesPortFirst(Datanode):
    """The port closes while the node is still registered and still leads."""

    async def drain(self) -> None:
        self.store.enter("draining")
        await self.close_port()
        await self.leave()
        await self.hand_over()


class WaitsForTheStuck(CatchUp):
    """A node waits for a replica for as long as its leader speaks to it, whether it comes any further or not."""

    def is_stuck(self, now: float) -> bool:
        return False
