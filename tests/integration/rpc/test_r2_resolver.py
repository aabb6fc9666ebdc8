"""R2.1–R2.5 end to end: the resolver, the nameserver client and typed errors over real gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stele.services.errors import SteleError, StoreMismatch, StoreTombstone, StoreUnknown, Unreachable
from stele.services.pb import datanode_pb2, datanode_pb2_grpc, nameserver_pb2_grpc
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.resolution import ResolverPolicy, StoreAddress
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.servers import Server
from tests.integration.rpc.peer import NAMESERVER
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually

Policy = Callable[[random.Random], ResolverPolicy]


class Nameserver(nameserver_pb2_grpc.NameserverServicer):
    """Knows the stores that registered and those that were removed."""

    def __init__(self) -> None:
        self.stores: dict[int, str] = {}
        self.removed: set[int] = set()
        self.asked: list[int] = []

    async def ResolveStore(self, request: pb.ResolveStoreRequest, _context: Any) -> pb.ResolveStoreResponse:
        self.asked.append(request.store_id)
        if request.store_id in self.removed:
            raise StoreTombstone(f"store {request.store_id} was taken out of service", store_id=request.store_id)
        if request.store_id not in self.stores:
            raise StoreUnknown(f"invalid store ID {request.store_id}, not found", store_id=request.store_id)
        return pb.ResolveStoreResponse(store_id=request.store_id, endpoint=self.stores[request.store_id])


class Datanode(datanode_pb2_grpc.DatanodeServicer):
    def __init__(self, store_id: int) -> None:
        self.store_id = store_id

    async def DeleteReplica(self, request: Any, _context: Any) -> datanode_pb2.DeleteReplicaResponse:
        if request.to_store_id != self.store_id:
            raise StoreMismatch("meant for another store", expected=request.to_store_id, got=self.store_id)
        return datanode_pb2.DeleteReplicaResponse(existed=True)


class World:
    """One nameserver, any number of datanodes, and resolvers that ask over the wire."""

    def __init__(self) -> None:
        self.nameserver = Nameserver()
        self.channels = Channels()
        self._endpoint = ""
        self._servers: list[Server] = []
        self._resolvers: list[Resolver] = []

    async def start(self) -> World:
        self._endpoint = await self._serve(
            nameserver_pb2_grpc.add_NameserverServicer_to_server, self.nameserver, NAMESERVER
        )
        return self

    async def datanode(self, store_id: int) -> str:
        return await self._serve(
            datanode_pb2_grpc.add_DatanodeServicer_to_server, Datanode(store_id), "stele.v1.Datanode"
        )

    def resolver(self, policy: Policy, registry: CollectorRegistry | None = None) -> Resolver:
        client = NameserverClient(self.channels, [self._endpoint])
        made = Resolver(client.lookup_store, policy=policy(random.Random(1)), registry=registry)
        self._resolvers.append(made)
        return made

    async def _serve(self, adder: Any, servicer: Any, name: str) -> str:
        server = Server("127.0.0.1", 0)
        server.add(adder, servicer, name)
        self._servers.append(server)
        return f"127.0.0.1:{await server.start()}"

    async def close(self) -> None:
        for resolver in self._resolvers:
            await resolver.close()
        await self.channels.close()
        for server in self._servers:
            await server.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().start()
    yield made
    await made.close()


def fresh(scenario: Callable[[World, Policy], Awaitable[None]]) -> Callable[[Policy], Awaitable[None]]:
    """Each way gets a world of its own."""

    async def run(policy: Policy) -> None:
        world = await World().start()
        try:
            await scenario(world, policy)
        finally:
            await world.close()

    return run


async def cold_start(world: World, policy: Policy) -> None:
    resolver = world.resolver(policy)
    waiting = [asyncio.create_task(resolver.resolve(6365, timeout_s=30)) for _ in range(10)]
    await eventually(lambda: len(world.nameserver.asked) >= 2 or waiting[0].done(), within_s=20)
    world.nameserver.stores[6365] = "10.0.0.5:7000"
    results = await asyncio.gather(*waiting, return_exceptions=True)
    with promise("a store that starts late is reached as soon as it registers"):
        assert results == [StoreAddress("10.0.0.5:7000")] * 10
    asked = len(world.nameserver.asked)
    await resolver.resolve(6365)
    assert len(world.nameserver.asked) == asked, "known: no further lookup"


@pytest.mark.parametrize("mutant", ["resolver.NotFoundIsTombstone", "resolver.MatchesText"])
async def test_r2_4_a_cold_start_resolves_as_soon_as_the_store_registers(mutant: str) -> None:
    await holds_and_mutant_fails(fresh(cold_start), ResolverPolicy, mutant)


async def removed(world: World, policy: Policy) -> None:
    world.nameserver.removed.add(6365)
    resolver = world.resolver(policy)
    with capture_logs() as logs:
        for _ in range(5):
            with pytest.raises(StoreTombstone) as raised:
                await resolver.resolve(6365, timeout_s=10)
            assert raised.value.facts == {"store_id": "6365"}
    with promise("a removed store is asked for once"):
        assert world.nameserver.asked == [6365]
    assert [line["event"] for line in logs] == ["store_removed"]
    assert resolver.is_tombstone(6365)


async def test_r2_3_a_removed_store_is_asked_for_once() -> None:
    await holds_and_mutant_fails(fresh(removed), ResolverPolicy, "resolver.ForgetsTombstones")


async def reused(world: World, policy: Policy) -> None:
    """Store 1's address was given to store 2; store 1 came back elsewhere."""
    world.nameserver.stores[1] = await world.datanode(2)
    resolver = world.resolver(policy)
    complaints: list[dict[str, str]] = []

    async def send(store_id: int) -> bool:
        address = await resolver.resolve(store_id, timeout_s=10)
        stub = datanode_pb2_grpc.DatanodeStub(world.channels.get(address.endpoint))
        request = datanode_pb2.DeleteReplicaRequest(group=1, to_store_id=store_id)
        try:
            return bool((await call(stub.DeleteReplica, request, 10)).existed)
        except StoreMismatch as e:
            complaints.append(e.facts)
            resolver.invalidate(store_id, address)
            return False

    assert not await send(1)
    assert complaints == [{"expected": "1", "got": "2"}]
    world.nameserver.stores[1] = await world.datanode(1)
    with promise("an address that is another store's is resolved again"):
        await eventually(lambda: send(1), within_s=10)


async def test_r2_5_store_mismatch_resolves_again() -> None:
    await holds_and_mutant_fails(fresh(reused), ResolverPolicy, "resolver.KeepsTheAddress")


async def test_r2_4_each_attempt_is_counted_and_the_log_is_quiet(world: World) -> None:
    registry = CollectorRegistry()
    resolver = world.resolver(ResolverPolicy, registry)
    with capture_logs() as logs:
        waiting = asyncio.create_task(resolver.resolve(7))
        await eventually(lambda: len(world.nameserver.asked) >= 5, within_s=30)
        assert [line["event"] for line in logs] == ["store_unresolved"]
        world.nameserver.stores[7] = "h:1"
        assert await asyncio.wait_for(waiting, 10) == StoreAddress("h:1")
    assert [line["event"] for line in logs] == ["store_unresolved", "store_resolved"]

    def counted(outcome: str) -> float:
        return registry.get_sample_value("stele_resolver_lookups_total", {"outcome": outcome}) or 0.0

    assert counted("STORE_UNKNOWN") + counted("resolved") == len(world.nameserver.asked)
    assert counted("resolved") == 1


async def test_r2_4_past_the_timeout_comes_what_the_nameserver_said(world: World) -> None:
    resolver = world.resolver(ResolverPolicy)
    with pytest.raises(StoreUnknown) as raised:
        await resolver.resolve(8, timeout_s=0.5)
    assert raised.value.retryable
    asked = len(world.nameserver.asked)
    await asyncio.sleep(0)
    assert not resolver._tasks, "nobody waits, nothing is asked"
    assert len(world.nameserver.asked) == asked


async def test_r2_4_no_nameserver_is_retryable_too() -> None:
    failing = True

    async def lookup(store_id: int) -> StoreAddress:
        if failing:
            raise Unreachable("no nameserver")
        return StoreAddress(f"h:{store_id}")

    resolver = Resolver(lookup)
    with pytest.raises(Unreachable):
        await resolver.resolve(1, timeout_s=0.3)
    waiting = asyncio.create_task(resolver.resolve(1, timeout_s=30))
    failing = False
    assert await waiting == StoreAddress("h:1")
    await resolver.close()


async def test_a_fault_of_the_lookup_itself_reaches_the_caller_and_blocks_nothing() -> None:
    faults: list[Exception] = [KeyError("a fault of ours")]

    async def lookup(_store_id: int) -> StoreAddress:
        if faults:
            raise faults.pop()
        return StoreAddress("h:1")

    resolver = Resolver(lookup)
    with pytest.raises(KeyError):
        await resolver.resolve(1)
    assert await resolver.resolve(1, timeout_s=10) == StoreAddress("h:1")
    await resolver.close()


async def test_cancelled_and_closed_waiters_leave_nothing_behind() -> None:
    async def lookup(store_id: int) -> StoreAddress:
        raise StoreUnknown("never", store_id=store_id)

    resolver = Resolver(lookup)
    first, second = (asyncio.create_task(resolver.resolve(1)) for _ in range(2))
    await asyncio.wait({first}, timeout=0.05)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert not second.done(), "the other one still waits"
    await resolver.close()
    await asyncio.wait({second}, timeout=5)
    assert second.cancelled()
    assert not resolver._waiting
    assert not resolver._tasks


async def test_an_error_of_a_later_version_is_retryable() -> None:
    said: list[SteleError | StoreAddress] = [StoreAddress("h:1"), SteleError("?", reason="FROM_THE_FUTURE")]

    async def lookup(_store_id: int) -> StoreAddress:
        answer = said.pop()
        if isinstance(answer, SteleError):
            raise answer
        return answer

    resolver = Resolver(lookup)
    assert await resolver.resolve(1, timeout_s=10) == StoreAddress("h:1")
    await resolver.close()
