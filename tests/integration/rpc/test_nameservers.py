"""The client of the nameservers: failover, what may be repeated, and a watch that never ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stele.services.errors import (
    ConnectionBroken,
    NoLeader,
    NotLeader,
    SteleError,
    StoreTombstone,
    StoreUnknown,
    TopicNotFound,
    Unreachable,
)
from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb import nameserver_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.servers import Server
from tests.integration.rpc.peer import NAMESERVER
from tests.integration.rpc.peers import Peer
from tests.support.eventually import eventually


class Scripted(nameserver_pb2_grpc.NameserverServicer):
    """A nameserver that does what ``act`` says to each call."""

    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.act = act
        self.calls = 0
        self.routings: list[pb.Routing] = []

    async def _answer(self, request: Any, _context: Any) -> Any:
        self.calls += 1
        said = self.act(request)
        if isinstance(said, Exception):
            raise said
        return await said if asyncio.iscoroutine(said) else said

    GetCluster = CreateTopic = DeleteTopic = Lookup = RegisterStore = ResolveStore = _answer

    async def WatchRouting(self, _request: Any, _context: Any) -> AsyncIterator[pb.Routing]:
        self.calls += 1
        for routing in self.routings:
            yield routing
        said = self.act(None)
        if isinstance(said, Exception):
            raise said
        if asyncio.iscoroutine(said):
            await said


class Cluster:
    def __init__(self) -> None:
        self.servers: list[Server] = []

    async def add(self, servicer: Scripted) -> str:
        server = Server("127.0.0.1", 0)
        server.add(nameserver_pb2_grpc.add_NameserverServicer_to_server, servicer, NAMESERVER)
        self.servers.append(server)
        return f"127.0.0.1:{await server.start()}"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    for server in made.servers:
        await server.stop()


async def hang() -> None:
    await asyncio.Event().wait()


async def break_off(server: Server) -> None:
    await asyncio.sleep(0.05)
    _ending.add(asyncio.get_running_loop().create_task(server.stop(0)))
    await hang()


_ending: set[asyncio.Task[None]] = set()
DEAD = "127.0.0.1:1"


def answering(name: str) -> Scripted:
    return Scripted(lambda _: pb.GetClusterResponse(answered_by=name))


async def test_a_read_goes_on_to_a_nameserver_that_answers(cluster: Cluster, channels: Channels) -> None:
    endpoint = await cluster.add(answering("ns2"))
    for seed in range(5):
        client = NameserverClient(channels, [DEAD, endpoint, "127.0.0.1:2"], rng=random.Random(seed))
        assert (await client.call("GetCluster", pb.GetClusterRequest(), 10)).answered_by == "ns2"


async def test_a_read_leaves_a_frozen_nameserver(cluster: Cluster, channels: Channels) -> None:
    frozen = Scripted(lambda _: hang())
    endpoints = [await cluster.add(frozen), await cluster.add(answering("ns2"))]
    for seed in range(4):
        client = NameserverClient(channels, endpoints, rng=random.Random(seed))
        assert (await client.call("GetCluster", pb.GetClusterRequest(), 30)).answered_by == "ns2"
    assert frozen.calls > 0


async def test_the_nameserver_that_served_is_asked_first(cluster: Cluster, channels: Channels) -> None:
    first, second = answering("ns1"), answering("ns2")
    client = NameserverClient(channels, [await cluster.add(first), await cluster.add(second)])
    for _ in range(20):
        await client.call("GetCluster", pb.GetClusterRequest(), 10)
    assert sorted([first.calls, second.calls]) == [0, 20]


async def test_a_write_follows_the_leader(cluster: Cluster, channels: Channels) -> None:
    leader = Scripted(lambda _: pb.CreateTopicResponse(created=True))
    at = await cluster.add(leader)
    followers = [Scripted(lambda _: NotLeader("ns1 does not lead", leader=at)) for _ in range(6)]
    endpoints = [await cluster.add(f) for f in followers]
    client = NameserverClient(channels, [*endpoints, at], rng=random.Random(3))
    assert (await client.call("CreateTopic", pb.CreateTopicRequest(topic="a/b"), 10)).created
    assert sum(f.calls for f in followers) <= 1
    await client.call("CreateTopic", pb.CreateTopicRequest(topic="a/c"), 10)
    assert sum(f.calls for f in followers) <= 1


async def test_no_leader_is_waited_for(cluster: Cluster, channels: Channels) -> None:
    def elects_later(_request: Any) -> Any:
        return NoLeader("none elected") if servicer.calls < 4 else pb.CreateTopicResponse(created=True)

    servicer = Scripted(elects_later)
    client = NameserverClient(channels, [await cluster.add(servicer)])
    assert (await client.call("CreateTopic", pb.CreateTopicRequest(topic="a/b"), 30)).created
    assert servicer.calls == 4


async def test_past_the_deadline_comes_what_stood_in_the_way(cluster: Cluster, channels: Channels) -> None:
    servicer = Scripted(lambda _: NoLeader("none elected"))
    client = NameserverClient(channels, [await cluster.add(servicer)])
    with pytest.raises(NoLeader):
        await client.call("CreateTopic", pb.CreateTopicRequest(topic="a/b"), 0.5)
    with pytest.raises(Unreachable):
        await NameserverClient(channels, [DEAD]).call("GetCluster", pb.GetClusterRequest(), 0.5)
    with pytest.raises(Unreachable, match="no nameserver is known"):
        await NameserverClient(channels, []).call("GetCluster", pb.GetClusterRequest(), 0.5)


async def test_a_final_answer_is_final(cluster: Cluster, channels: Channels) -> None:
    servicer = Scripted(lambda _: TopicNotFound("no topic a/b"))
    endpoints = [await cluster.add(servicer), await cluster.add(servicer)]
    with pytest.raises(TopicNotFound):
        await NameserverClient(channels, endpoints).call("Lookup", pb.LookupRequest(topic="a/b"), 10)
    assert servicer.calls == 1


@pytest.mark.parametrize(
    ("method", "request_", "repeated"),
    [
        ("DeleteTopic", pb.DeleteTopicRequest(topic="a/b"), False),
        ("CreateTopic", pb.CreateTopicRequest(topic="a/b"), False),
        ("CreateTopic", pb.CreateTopicRequest(topic="a/b", if_absent=True), True),
        ("RegisterStore", pb.RegisterStoreRequest(uuid="u"), True),
        ("Lookup", pb.LookupRequest(topic="a/b"), True),
    ],
)
async def test_an_unknown_outcome_is_repeated_only_where_that_is_harmless(
    method: str, request_: Any, repeated: bool, cluster: Cluster, channels: Channels
) -> None:
    breaking = Scripted(lambda _: break_off(cluster.servers[0]))
    answers = {
        "DeleteTopic": pb.DeleteTopicResponse(),
        "CreateTopic": pb.CreateTopicResponse(),
        "RegisterStore": pb.RegisterStoreResponse(),
        "Lookup": pb.LookupResponse(),
    }
    serving = Scripted(lambda _: answers[method])
    endpoints = [await cluster.add(breaking), await cluster.add(serving)]
    client = NameserverClient(channels, endpoints)
    client._preferred = endpoints[0]
    if repeated:
        await client.call(method, request_, 20)
        assert (breaking.calls, serving.calls) == (1, 1)
    else:
        with pytest.raises(ConnectionBroken) as raised:
            await client.call(method, request_, 20)
        assert not raised.value.definite
        assert (breaking.calls, serving.calls) == (1, 0)


async def test_endpoints_are_asked_for_anew(cluster: Cluster, channels: Channels) -> None:
    endpoint = await cluster.add(answering("ns9"))
    rounds = 0

    async def endpoints() -> list[str]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise Unreachable("ZooKeeper is away")
        return [DEAD] if rounds == 2 else [endpoint]

    client = NameserverClient(channels, endpoints)
    assert (await client.call("GetCluster", pb.GetClusterRequest(), 30)).answered_by == "ns9"


async def test_stores_resolve_typed(cluster: Cluster, channels: Channels) -> None:
    answers: dict[int, Any] = {
        1: pb.ResolveStoreResponse(store_id=1, endpoint="h:1", raft_endpoint="h:2"),
        2: StoreTombstone("removed", store_id=2),
        3: StoreUnknown("not yet", store_id=3),
    }
    client = NameserverClient(channels, [await cluster.add(Scripted(lambda request: answers[request.store_id]))])
    address = await client.lookup_store(1)
    assert (address.endpoint, address.raft_endpoint) == ("h:1", "h:2")
    for store_id, kind in ((2, StoreTombstone), (3, StoreUnknown)):
        with pytest.raises(kind):
            await client.lookup_store(store_id)


class Watch:
    """Collects who answered, as a process that follows the routing does."""

    def __init__(self, client: NameserverClient) -> None:
        self.seen: list[str] = []
        self._task = asyncio.create_task(self._follow(client))

    async def _follow(self, client: NameserverClient) -> None:
        async for routing in client.watch_routing():
            self.seen.append(routing.answered_by)

    async def until(self, names: set[str], within_s: float = 60) -> str:
        """The name that answered last, once it is one of ``names``."""
        await eventually(lambda: bool(self.seen) and self.seen[-1] in names, within_s, describe=lambda: self.seen[-5:])
        return self.seen[-1]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        assert self._task.cancelled(), "the watch never ends by itself"


async def test_the_watch_survives_kill_freeze_and_the_death_of_all(channels: Channels) -> None:
    peers = {peer.name: peer for peer in await asyncio.gather(*(Peer(f"ns{i}").start() for i in (1, 2, 3)))}
    watch = Watch(NameserverClient(channels, [peer.endpoint for peer in peers.values()]))
    try:
        first = await watch.until(set(peers))
        await peers[first].kill()
        second = await watch.until(set(peers) - {first})
        peers[second].pause()
        third = await watch.until(set(peers) - {first, second})
        await peers[third].kill()
        await peers[second].kill()
        await peers[first].start()
        await watch.until({first})
    finally:
        await watch.close()
        for peer in peers.values():
            await peer.kill()


async def test_the_watch_leaves_a_nameserver_that_falls_silent(cluster: Cluster, channels: Channels) -> None:
    """Its connection is fine and pings are answered; only the words are missing."""
    silent, alive = Scripted(lambda _: hang()), Scripted(lambda _: hang())
    silent.routings = [pb.Routing(answered_by="silent")]
    alive.routings = [pb.Routing(answered_by="alive")]
    endpoints = [await cluster.add(silent), await cluster.add(alive)]
    client = NameserverClient(channels, endpoints, silence_max_s=0.5)
    client._preferred = endpoints[0]
    watch = Watch(client)
    try:
        await watch.until({"silent"})
        await watch.until({"alive"})
    finally:
        await watch.close()


async def test_the_watch_paces_itself_when_nobody_serves(cluster: Cluster, channels: Channels) -> None:
    refusing = Scripted(lambda _: SteleError("no watching here"))
    watch = Watch(NameserverClient(channels, [await cluster.add(refusing)]))
    await eventually(lambda: refusing.calls >= 3, within_s=30)
    before = refusing.calls
    await asyncio.wait({watch._task}, timeout=1.0)
    await watch.close()
    assert refusing.calls - before < 20
    assert watch.seen == []
