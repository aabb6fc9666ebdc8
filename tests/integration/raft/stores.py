"""Three stores in one process: real files, real gRPC between them, and a list of commands as the replicated state."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from stele.datanode.storage import opener
from stele.services.errors import NotLeader, ProposalLost
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry
from stele.services.raft.timing import Timing
from stele.services.raft.transport import RaftTransport
from stele.services.rpc.channels import Channels
from stele.services.rpc.resolution import StoreAddress
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.servers import Server
from tests.support.eventually import eventually

TIMING = Timing(heartbeat_s=0.05, election_min_s=0.4, election_max_s=0.8, idle_s=0.4)


class Commands:
    """The replicated state: every command, in order."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.applied.append(payload)
        return len(self.applied)

    def snapshot(self) -> tuple[bytes, int]:
        return b"\n".join(self.applied), len(self.applied)

    def restore(self, state: bytes) -> None:
        if state.startswith(b"?"):
            raise ValueError("not a list of commands")
        self.applied = state.split(b"\n") if state else []


class Store:
    """One store of the group: its server, transport and registry."""

    def __init__(self, store_id: int, directory: Path, addresses: dict[int, StoreAddress], **options: Any) -> None:
        self.store_id = store_id
        self.directory = directory
        self.addresses = addresses
        self.options = options
        self.machines: dict[int, Commands] = {}
        self.port = 0

    async def start(self) -> None:
        async def lookup(store_id: int) -> StoreAddress:
            return self.addresses[store_id]

        self.channels = Channels()
        self.resolver = Resolver(lookup, rng=random.Random(self.store_id))
        self.transport = RaftTransport(
            self.store_id, "cluster", self.channels, self.resolver, random.Random(self.store_id), timing=TIMING
        )
        self.server = Server("127.0.0.1", self.port)
        self.server.add(raft_pb2_grpc.add_RaftServicer_to_server, self.transport, "stele.v1.Raft")
        self.port = await self.server.start()
        self.addresses[self.store_id] = StoreAddress("", f"127.0.0.1:{self.port}")
        self.registry = Registry(
            self.store_id,
            self.directory / "groups",
            self.transport,
            self.options.get("open_storage", opener(64 << 20, 0)),
            observed_ms=lambda: round(time.monotonic() * 1000),
            rng=random.Random(self.store_id),
            timing=TIMING,
            **{k: v for k, v in self.options.items() if k != "open_storage"},
        )
        self.registry.may_lead = True

    async def create(self, group_id: int, members: list[int]) -> Group:
        machine = self.machines.setdefault(group_id, Commands())
        self.registry.path(group_id).mkdir(parents=True, exist_ok=True)
        return await self.registry.create(group_id, members, machine)

    async def stop(self) -> None:
        await self.registry.close()
        await self.transport.close()
        await self.server.stop(0)
        await self.resolver.close()
        await self.channels.close()
        self.machines.clear()


class Stores:
    """``async with Stores(path) as stores``: three started stores; ``await stores.group(1)`` creates a group on all of them.

    ``spare`` more stores run beside them and belong to no group until they join one.
    """

    def __init__(self, directory: Path, count: int = 3, spare: int = 0, **options: Any) -> None:
        self.addresses: dict[int, StoreAddress] = {}
        self.first = list(range(1, count + 1))
        self.stores = {i: Store(i, directory / str(i), self.addresses, **options) for i in range(1, count + spare + 1)}

    async def __aenter__(self) -> Stores:
        for store in self.stores.values():
            await store.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for store in self.stores.values():
            await store.stop()

    async def group(self, group_id: int) -> None:
        for store in self.stores.values():
            if store.store_id in self.first:
                await store.create(group_id, self.first)

    def replicas(self, group_id: int) -> list[Group]:
        return [g for s in self.stores.values() if (g := s.registry.get(group_id)) is not None]

    async def leader(self, group_id: int, within_s: float = 10.0) -> Group:
        """One that a majority follows: it has committed in its own term, and nobody is in a higher one."""

        def find() -> Group | None:
            replicas = self.replicas(group_id)
            newest = max((r.term for r in replicas), default=0)
            current = [g for g in replicas if g.is_leader and g.term == newest]
            return next((g for g in current if g.journal.term_at(g.commit_index) == newest), None)

        found = await eventually(find, within_s, describe=lambda: self.describe(group_id))
        assert found is not None
        return found

    async def propose(self, group_id: int, payload: bytes) -> Group:
        """Has ``payload`` stored once, whoever leads meanwhile: on a loaded machine leaders change.  Returns the leader that stored it."""

        async def stored() -> Group | None:
            leader = await self.leader(group_id)
            try:
                await leader.read_index()  # what was proposed before is stored now, or never
                if payload not in self.stores[leader.store_id].machines[group_id].applied:
                    await leader.propose(payload)
            except (NotLeader, ProposalLost):
                return None
            return leader

        return await eventually(stored, 20, describe=lambda: self.describe(group_id))

    def describe(self, group_id: int) -> list[str]:
        return [
            f"store {g.store_id}: {g.state} term {g.term} leader {g.leader_store_id} "
            f"commit {g.commit_index} last {g.last_index} {g.problem}"
            for g in self.replicas(group_id)
        ]
