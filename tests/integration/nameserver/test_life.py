"""How a nameserver starts, meets others of its name, loses ZooKeeper and goes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from stele.nameserver import role
from stele.services.coordination.enrolment import Enrolment, Step
from stele.services.coordination.records import LeaderRecord, MemberRecord, NameRecord
from stele.services.errors import CoordinationUnknown, NameTaken, NoLeader, NotLeader, SteleError, Timeout
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


@pytest.mark.parametrize("mutant", ["names.TakesItsNameFirst", "names.ShowsItselfNameless", "names.CampaignsUnseen"])
async def test_r1_8_whoever_finds_a_nameserver_can_dial_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    metadata = await cluster.metadata()

    async def scenario(enrolment: type[Enrolment]) -> None:
        """After each step somebody outside looks for the process in ZooKeeper and dials whatever is there."""
        name = f"ns-{enrolment.__name__.lower()}"

        async def look() -> None:
            named = await metadata.get(f"names/{name}", NameRecord)
            member = await metadata.get(f"members/nameservers/{name}", MemberRecord)
            leader = await metadata.get("leader", LeaderRecord)
            with promise("whoever is found can be dialled"):
                for found in (named, member, leader):
                    if found is not None:
                        assert found.record.endpoint, f"{found.record} leads nowhere"
                        await cluster.channels.connected(found.record.endpoint, 2)
            with promise("a member has its name"):
                assert named is not None or member is None
            with promise("a leader is a member"):
                assert member is not None or leader is None

        async def elected() -> bool:
            return await metadata.get("leader", LeaderRecord) is not None

        class Observed(enrolment):  # type: ignore[misc, valid-type]
            def order(self) -> list[Step]:
                return [Step(partial(self._observed, step), step.undo) for step in super().order()]

            async def _observed(self, step: Step) -> None:
                await step.do()
                if step is self.campaign:  # nobody else stands for election
                    await eventually(elected)
                await look()

        monkeypatch.setattr(role, "Enrolment", Observed)
        started = await cluster.nameserver(name)
        await cluster.leader()
        await look()
        await started.drain()
        assert await metadata.get("leader", LeaderRecord) is None
        cluster.retire(name)

    await holds_and_mutant_fails(scenario, Enrolment, mutant)


async def test_f1_a_second_process_of_a_live_name_is_refused_and_the_first_goes_on(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    first = cluster.nameservers["ns1"]
    with pytest.raises(NameTaken) as refused:
        await cluster.nameserver("ns1")
    assert refused.value.facts["endpoint"] == first.endpoint
    cluster.nameservers["ns1"] = first
    assert (await cluster.ask("GetCluster", pb.GetClusterRequest())).leader == "ns1"


async def test_f1_a_fresh_cluster_registers_its_first_names_although_they_lead(cluster: Cluster) -> None:
    await cluster.start(nameservers=3)
    answers = [await cluster.ask("GetCluster", pb.GetClusterRequest(), of=n) for n in cluster.nameservers]
    assert len({a.cluster_id for a in answers}) == 1

    async def settled() -> bool:
        told = [await cluster.ask("GetCluster", pb.GetClusterRequest(), of=n) for n in cluster.nameservers]
        return all(len(t.nameservers) == 3 and t.leader and t.coordination_connected for t in told)

    await eventually(settled)
    listed = (await cluster.ask("ListNameservers", pb.ListNameserversRequest())).nameservers
    assert [n.name for n in listed] == ["ns1", "ns2", "ns3"]
    assert sum(n.leader for n in listed) == 1


async def test_without_zookeeper_reads_go_on_and_writes_say_why(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3, brokers=1)
    await cluster.create("demo/t", partitions=1)
    leader = await cluster.leader()
    await eventually(lambda: leader.view.current.lookup("demo/t").partitions[0].broker == "br1")
    cluster.zookeeper_of["ns1"].cut()
    await eventually(lambda: leader.session.fenced)
    found = await cluster.lookup("demo/t")
    assert found.topic.state == "ready"
    assert found.partitions[0].broker == "br1"
    assert not (await cluster.ask("GetCluster", pb.GetClusterRequest())).coordination_connected
    assert len((await cluster.ask("ListStores", pb.ListStoresRequest())).stores) == 3
    with pytest.raises((NoLeader, CoordinationUnknown)):
        await cluster.create("demo/u", partitions=1, timeout_s=1)
    with pytest.raises((CoordinationUnknown, Timeout)):
        await cluster.ask("Lookup", pb.LookupRequest(topic="demo/none"), timeout_s=2)
    cluster.zookeeper_of["ns1"].restore()
    await cluster.leader()
    await eventually(lambda: leader.view.synced)
    assert (await cluster.create("demo/u", partitions=1)).topic.state == "ready"
    assert "demo/t" in leader.view.current.catalog.topics


async def test_a_write_that_meets_the_loss_of_zookeeper_is_not_called_failed(cluster: Cluster) -> None:
    """The connection breaks between the question and the answer: it may have happened, and that is what is said."""
    await cluster.start(nameservers=1)
    leader = await cluster.leader()
    cluster.zookeeper_of["ns1"].drop_answers()
    writing = asyncio.create_task(
        cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="demo"), timeout_s=5)
    )
    await eventually(lambda: leader.session.fenced)
    with pytest.raises(SteleError) as unknown:
        await writing
    assert isinstance(unknown.value, CoordinationUnknown | Timeout | NoLeader | NotLeader)
    cluster.zookeeper_of["ns1"].restore()
    await cluster.leader()
    request = pb.CreateNamespaceRequest(namespace="demo", if_absent=True)
    await cluster.ask("CreateNamespace", request)
    namespaces = (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    assert [n.namespace for n in namespaces] == ["demo"]
