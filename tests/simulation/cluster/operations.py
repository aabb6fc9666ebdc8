"""Operations in a run of the cluster: a store is decommissioned under load, in half of the runs after the topic was given more partitions
and another replication and its former one again, and the nameserver that leads dies after writes of it.

Guarantee: what the operator asked for comes to its end in every run: the store is a tombstone, then buried, its process has ended and is
refused from then on; each partition has its three replicas elsewhere; no group ever had fewer voters than its replication.  Once as few
stores are left as a partition has replicas none may go.  At last a new store begins on the machine of the one that went.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from stele.admin import Admin
from stele.client import Client
from stele.operations import READ_TIMEOUT_S, WRITE_TIMEOUT_S
from stele.services.coordination.records import BuriedRecord, PartitionRecord, StoreRecord, decode
from stele.services.errors import NotEnoughStores, SteleError, StoreTombstone
from stele.services.raft.storage import Members
from tests.simulation.cluster.checks import ROOT
from tests.simulation.zookeeper.tree import Created, Deleted, Txn, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest, Server
    from tests.simulation.cluster.world import World

T = TypeVar("T")

KINDS = (
    "kill",
    "pause",
    "stall",
    "cut",
    "one-way cut",
    "isolate",
    "reset",
    "cut from zookeeper",
    "session expired",
    "zookeeper connection lost",
    "slow zookeeper",
    "power loss",
    "slow disk",
)
REPLICATION = 3
LEADERS_KILLED_MAX = 6
LOOK_S = 0.02
RETRY_S = 0.3


def _is_store(path: str) -> bool:
    return path.startswith("stores/") and path.removeprefix("stores/").isdigit()


class Operator:
    """One for a run that has operations."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._rng = world, rng
        # The writes after which the leader dies: one of them, some, each.  As many as there may be, so that the run ends.
        self.dies_share = rng.choice((0.0, 0.3, 1.0))
        self.dies_after = rng.randrange(12)
        self.writes = 0
        self.cancels = rng.random() < 0.3
        self.killed = 0
        self.store_id = 0
        self.done = False
        rng = world.stream("alterations")
        # Not where what happens is asked for by name: those runs are about what they name.
        self.alters = not world.options.kinds and rng.random() < 0.5
        self.added, self.replication = rng.randint(1, 3), rng.choice((2, 4))
        self.acts = False
        self.fewest = REPLICATION  # replicas that a partition may have now
        self._joining: set[int] = set()  # groups with a replica that may never have been there, until it counts

    def start(self) -> None:
        guest = self._world.workload.clients[self._world.hosts.clients[0]]
        self._world.workload.begin(guest, self._operate(guest))
        self._world.scheduler.after(LOOK_S, self._look)

    async def _operate(self, guest: Guest) -> None:
        while self._world.workload.main is None:  # noqa: ASYNC110 - another task sets it
            await asyncio.sleep(RETRY_S)
        client: Client = guest.client  # type: ignore[attr-defined]
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        admin = client.admin
        partitions = await self._until(guest, "list_partitions", admin.list_partitions, READ_TIMEOUT_S)
        chosen = self._rng.choice([r.store_id for p in partitions for r in p.replicas])
        if self.alters:
            await self._alter(guest, admin, len(partitions))
        self.store_id, self.acts = chosen, True
        self._world.say("operation", guest.host, f"decommission store {self.store_id}")
        await self._decommission(guest, admin, self.store_id)
        if self.cancels:
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            self._world.say("operation", guest.host, "cancel")
            try:
                named = f"decommission-{self.store_id}"
                await self._until(guest, "cancel_operation", lambda: admin.cancel_operation(named), WRITE_TIMEOUT_S)
            except StoreTombstone:
                self._world.say("operation", guest.host, "it was too late")
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            await self._decommission(guest, admin, self.store_id)
        while True:
            stores = await self._until(guest, "list_stores", admin.list_stores, READ_TIMEOUT_S)
            state = next((s.state for s in stores if s.store_id == self.store_id), "buried")
            if state == "buried":
                break
            if state == "tombstone":
                remove = partial(admin.remove_tombstones, [self.store_id])
                await self._until(guest, "remove_tombstones", remove, WRITE_TIMEOUT_S)
            await asyncio.sleep(RETRY_S)
        self._world.say("operation", guest.host, f"store {self.store_id} is buried")
        await self._try_another(guest, admin)
        await self._come_back()
        self.done = True

    async def _alter(self, guest: Guest, admin: Admin, partitions: int) -> None:
        """More partitions and another replication at once; then the former replication."""
        main = self._world.workload.main
        assert main is not None
        self.acts, self.fewest = True, min(self.replication, REPLICATION)
        for replication in (self.replication, REPLICATION):
            main.partitions = partitions + self.added
            self._world.say("operation", guest.host, f"{main.partitions} partitions, replication {replication}")
            alter = partial(admin.alter_topic, main.name, partitions=partitions + self.added, replication=replication)
            await self._until(guest, "alter_topic", alter, READ_TIMEOUT_S + WRITE_TIMEOUT_S)
            while not await self._is_altered(guest, admin, main.name, main.partitions, replication):  # noqa: ASYNC110 - the simulated cluster is asked, not this process
                await asyncio.sleep(RETRY_S)
        self.fewest = REPLICATION

    async def _is_altered(self, guest: Guest, admin: Admin, topic: str, partitions: int, replication: int) -> bool:
        found = await self._until(guest, "list_partitions", lambda: admin.list_partitions(topic), READ_TIMEOUT_S)
        if len(found) != partitions:
            return False
        voters = [[r for r in p.replicas if r.state in ("leader", "follower")] for p in found]
        return all(len(p.replicas) == len(v) == replication for p, v in zip(found, voters, strict=True))

    async def _decommission(self, guest: Guest, admin: Admin, store_id: int, *refusals: type[SteleError]) -> None:
        decommission = partial(admin.decommission_store, store_id)
        await self._until(guest, "decommission_store", decommission, WRITE_TIMEOUT_S, *refusals)

    async def _try_another(self, guest: Guest, admin: Admin) -> None:
        """One more, where too few would be left."""
        stores = await self._until(guest, "list_stores", admin.list_stores, READ_TIMEOUT_S)
        up = [s.store_id for s in stores if s.state == "up"]
        if len(up) == REPLICATION:
            try:
                await self._decommission(guest, admin, up[0], NotEnoughStores)
            except NotEnoughStores:
                return
            self._world.violated("too few stores", f"store {up[0]} of {up} is decommissioned")

    async def _come_back(self) -> None:
        """Its process is started again, and refused; then its disk is empty, and it is a new store."""
        server = await self._gone()
        server.wanted = True
        server.start()
        await self._gone()
        volume = self._world.volumes[server.name]
        for name in volume.listdir(volume.path):
            volume.lose(volume.path / name)
        server.wanted = True
        server.start()
        while server.process is None or not server.process.runtime.ready.is_open:  # noqa: ASYNC110 - a loop of its own
            await asyncio.sleep(RETRY_S)

    async def _gone(self) -> Server:
        while True:
            for server in self._world.servers.values():
                if not server.wanted and server.process is None:
                    return server
            await asyncio.sleep(RETRY_S)

    async def _until(
        self, guest: Guest, what: str, ask: Callable[[], Awaitable[T]], within_s: float, *refusals: type[SteleError]
    ) -> T:
        """Until it is answered, or refused by one of ``refusals`` or because the store is a tombstone."""
        while True:
            try:
                return await self._world.calls.within(guest, what, ask(), within_s)
            except (StoreTombstone, *refusals):
                raise
            except SteleError as error:
                self._world.say("operation refused", guest.host, f"{what}: {error!r}")
                await asyncio.sleep(RETRY_S)

    # --- what must hold -------------------------------------------------------------------------------------------------

    def committing(self, session: int, txn: Txn) -> None:
        """The leader dies once ZooKeeper has what it wrote, whether it has heard so or not."""
        changes = {c.path[len(ROOT) :]: c for c in txn.changes if isinstance(c, Created | Written | Deleted)}
        for path, change in changes.items():
            if path.startswith("partitions/") and isinstance(change, Written):
                self._check(path, decode(change.value, PartitionRecord))
            elif _is_store(path) and isinstance(change, Written):
                self._check_may_go(path, decode(change.value, StoreRecord))
        if self.acts and self.killed < LEADERS_KILLED_MAX and self._is_fatal(changes):
            host = next(
                (h for h in self._world.hosts.nameservers if self._world.zookeeper.session_of(h) == session), ""
            )
            if host:
                self.killed += 1
                server, down_s = self._world.servers[host], self._rng.uniform(0.05, 1.0)
                after_s = self._rng.choice((0.0, 0.0005, 0.003))
                self._world.scheduler.after(after_s, server.kill, down_s, "leader dies after a write")

    def _is_fatal(self, paths: Iterable[str]) -> bool:
        if not any(path.startswith(("partitions/", "stores/", "topics/")) for path in paths):
            return False
        self.writes += 1
        return self._rng.random() < self.dies_share if self.dies_share else self.writes - 1 == self.dies_after

    def _check(self, path: str, record: PartitionRecord) -> None:
        if len(record.replicas) < self.fewest or set(record.leaving) & set(record.replicas):
            self._world.violated("replica set", f"{path} becomes {record}")

    def _check_may_go(self, path: str, record: StoreRecord) -> None:
        """As many others stay as a partition has replicas."""
        nodes = self._world.zookeeper.tree.nodes
        others = [f"stores/{name}" for name in nodes[f"{ROOT}stores"].children if name.isdigit()]
        up = [
            other for other in others if decode(nodes[ROOT + other].value, StoreRecord).state == "up" and other != path
        ]
        if record.state == "offline" and len(up) < REPLICATION:
            self._world.violated("too few stores", f"{path} is to go, and of the others only {up} stay")

    def _look(self) -> None:
        """No folder is lost in these runs, but for one that a loss of power left unfinished, whose store then joins anew: else whatever
        takes voters from a group is a move."""
        for host in self._world.hosts.datanodes:
            process = self._world.servers[host].process
            store = getattr(process.role, "store", None) if process is not None else None
            for group in store.registry.groups() if store is not None else ():
                if group.is_leader:
                    self._check_voters(host, group.group_id, group.members)
        self._world.scheduler.after(LOOK_S, self._look)

    def _check_voters(self, host: str, group_id: int, members: Members) -> None:
        """A replica whose store was not heard while the partition was made may never have been there, and joins anew."""
        if len(members.voters) >= self.fewest:
            self._joining.discard(group_id)
        elif self._has_never_been_whole(group_id):
            self._joining.add(group_id)
        elif group_id not in self._joining:
            self._world.violated("voters", f"group {group_id} has {members} at {host}")

    def _has_never_been_whole(self, group_id: int) -> bool:
        """Fewer of its stores than it has replicas were ever heard to hold one; stores that are to join it do not count."""
        node = self._world.zookeeper.tree.nodes.get(f"{ROOT}partitions/{group_id}")
        if node is None or any(event == "unfinished_group_discarded" for _, event in self._world.logged):
            return True
        record = decode(node.value, PartitionRecord)
        return len(set(record.replicas) & set(record.materialised)) < self.fewest

    def ended(self) -> bool:
        """Buried, and its process gone."""
        if not self.done:
            return False
        nodes = self._world.zookeeper.tree.nodes
        buried = decode(nodes[f"{ROOT}stores/buried"].value, BuriedRecord)
        assert any(first <= self.store_id <= last for first, last in buried.intervals)
        assert f"{ROOT}stores/{self.store_id}" not in nodes
        return True
