"""Whether a process can be stopped is asked of those who know it, at that moment, over a real ZooKeeper."""

from __future__ import annotations

import pytest

from stele.services.errors import NameNotFound
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.eventually import eventually


async def asked(cluster: Cluster, name: str) -> list[str]:
    """The reasons why not; none: it is safe."""
    answer: pb.SafeToStopResponse = await cluster.ask("SafeToStop", pb.SafeToStopRequest(name=name))
    assert answer.safe == (not answer.reasons)
    return list(answer.reasons)


async def whole(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3, brokers=2)
    await cluster.create("demo/t", partitions=2)

    async def safe() -> bool:
        names = (*cluster.nameservers, *cluster.datanodes, *cluster.brokers)
        reasons = {name: await asked(cluster, name) for name in names}
        assert not any(reasons.values()), reasons
        return True

    await eventually(safe, within_s=10, describe=cluster.describe)


async def test_of_a_whole_cluster_each_process_can_be_stopped_whichever_nameserver_is_asked(cluster: Cluster) -> None:
    await whole(cluster)
    for of in cluster.nameservers:
        found = await cluster.ask("SafeToStop", pb.SafeToStopRequest(name="dn1"), of=of)
        assert (found.role, found.safe, list(found.reasons)) == ("datanode", True, [])
    with pytest.raises(NameNotFound, match="no process is called dn7"):
        await asked(cluster, "dn7")


async def test_a_store_that_is_gone_or_does_not_answer_makes_the_others_needed(cluster: Cluster) -> None:
    await whole(cluster)
    cluster.datanodes["dn3"].replicas.clear()  # it answers, and has nothing any more
    first, *_ = await asked(cluster, "dn1")
    assert first == "demo/t-0: 1 of 3 voters would be left, which is no majority: dn3 has no replica of it"
    await cluster.datanodes["dn3"].close_port()
    assert "dn3 does not answer" in (await asked(cluster, "dn1"))[0], "although it is registered"
    assert await asked(cluster, "dn3") == ["dn3 itself does not answer"]
    await cluster.datanodes["dn3"].stop()
    assert "dn3 is not registered" in (await asked(cluster, "dn1"))[0]
    assert await asked(cluster, "dn3") == ["dn3 itself is not registered"]


async def test_the_last_broker_and_the_last_nameserver_are_needed(cluster: Cluster) -> None:
    await whole(cluster)
    await cluster.brokers["br2"].close_port()
    assert await asked(cluster, "br1") == ["no other broker could take its bundles: br2 does not serve"]
    assert await asked(cluster, "br2") == ["br2 itself does not serve"]
    await cluster.brokers["br2"].stop()
    assert await asked(cluster, "br1") == ["no other broker could take its bundles: there is none"]
    leader = await cluster.leader()
    other = next(name for name, ns in cluster.nameservers.items() if ns is not leader)
    await cluster.nameservers[other]._server.stop(0)
    name = leader._config.name
    assert await asked(cluster, name) == [f"no other nameserver could lead: {other} does not answer"]
    await cluster.retire(other).drain()
    assert await asked(cluster, name) == ["no other nameserver could lead: there is none"]
