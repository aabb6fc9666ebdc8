"""A nameserver that lags behind another is not believed by who was told more (fault P4)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.never_back import NeverBack, revision_of
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually

LOOKUP = pb.LookupRequest(topic="demo/t")
WATCHED_S = 30.0


def hold(cluster: Cluster, name: str) -> None:
    """The nameserver's view lags from here on, and nothing tells it so."""
    cluster.nameservers[name].view._running = False


def let_go(cluster: Cluster, name: str) -> None:
    view = cluster.nameservers[name].view
    view._running = True
    view._schedule_renewal()


async def test_p4_nobody_goes_back_with_a_nameserver_that_lags(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    leader = (await cluster.leader())._config.name
    (lagging,) = (name for name in cluster.nameservers if name != leader)
    await cluster.create("demo/t", partitions=1)
    await eventually(lambda: "demo/t" in cluster.nameservers[lagging].view.current.catalog.topics)
    hold(cluster, lagging)
    await cluster.create("demo/later", partitions=1, of=leader)

    async def scenario(kind: type[NeverBack]) -> None:
        async def endpoints() -> list[str]:
            return [ns.endpoint for ns in cluster.nameservers.values()]

        client = NameserverClient(cluster.channels, endpoints, never_back=kind())
        client._preferred = cluster.nameservers[leader].endpoint
        told = await client.call("Lookup", LOOKUP, 20)
        assert told.age_ms == 0
        assert told.as_of == cluster.nameservers[leader].view.as_of
        with promise("what a client is told never goes back"):
            client._preferred = cluster.nameservers[lagging].endpoint
            again = await client.call("Lookup", LOOKUP, 20)
            assert revision_of(again.as_of) >= revision_of(told.as_of)
            client._preferred = cluster.nameservers[lagging].endpoint
            async with asyncio.timeout(WATCHED_S), aclosing(client.watch_routing()) as watch:
                routing = await anext(watch)
            assert "demo/later" in [t.topic.topic for t in routing.topics]
            assert revision_of(routing.as_of) >= revision_of(again.as_of)

    await holds_and_mutant_fails(scenario, NeverBack, "ownership.TakesWhatIsOlder")
    let_go(cluster, lagging)
    views = [ns.view for ns in cluster.nameservers.values()]
    await eventually(lambda: views[0].as_of == views[1].as_of)


async def test_p4_where_the_one_that_knew_more_is_gone_its_successor_is_believed_in_time(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    client = cluster.client()
    client._never_back.takes((1 << 40, 0), asyncio.get_running_loop().time())  # of a ZooKeeper that is older now
    assert (await client.call("Lookup", LOOKUP, 30)).topic.topic == "demo/t"
    assert client._never_back.taken == revision_of(cluster.nameservers["ns1"].view.as_of)
