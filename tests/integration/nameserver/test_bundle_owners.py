"""Bundles follow the live brokers, under rising epochs."""

from __future__ import annotations

from collections import Counter

from stele.nameserver.bundle_assignment import Pulse
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.view import View
from stele.services.coordination.records import BundleRecord
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.integration.nameserver.stand_ins import StandingBroker
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


async def start(cluster: Cluster, brokers: int, nameservers: int = 1) -> None:
    await cluster.start(nameservers=nameservers, brokers=brokers)
    leader = await cluster.leader()

    def all_alive() -> bool:
        members = leader.view.current.catalog.brokers.values()
        assert leader.controller is not None
        return len(members) == brokers and all(leader.controller.probes.pulse(m) is Pulse.ALIVE for m in members)

    await eventually(all_alive, describe=cluster.describe)
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="demo"))


async def owners(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """What ZooKeeper holds."""
    found = await (await cluster.metadata()).list("bundles/demo", BundleRecord)
    return {name: (v.record.broker, v.record.epoch) for name, v in found.items()}


async def shares(cluster: Cluster, within_s: float = 10.0, **wanted: int) -> dict[str, tuple[str, int]]:
    """The owners, once each broker has as many bundles as ``wanted`` says."""

    async def as_wanted() -> dict[str, tuple[str, int]] | None:
        now = await owners(cluster)
        return now if Counter(b for b, _ in now.values()) == Counter(wanted) else None

    return await eventually(as_wanted, within_s, describe=cluster.describe)  # type: ignore[return-value]


async def test_bundles_are_shared_evenly_and_told_by_lookup_and_listing(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    assert {epoch for _, epoch in (await shares(cluster, br1=8, br2=8)).values()} == {1}

    async def listed() -> bool:
        brokers = (await cluster.ask("ListBrokers", pb.ListBrokersRequest())).brokers
        return [(b.name, b.live, len(b.bundles)) for b in brokers] == [("br1", True, 8), ("br2", True, 8)]

    await eventually(listed)


async def test_a_joining_broker_is_given_its_share_gently(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    await cluster.broker("br3")
    after = await shares(cluster, br1=6, br2=5, br3=5)
    moved = {name for name in before if after[name] != before[name]}
    assert len(moved) == 5
    assert all(after[name] == ("br3", 2) for name in moved)


async def test_a_broker_whose_port_refuses_loses_its_bundles_before_its_session_ends(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    leader = await cluster.leader()
    await cluster.brokers["br1"].close_port()
    after = await shares(cluster, br2=16)
    assert "br1" in leader.view.current.catalog.brokers
    for name, (broker, epoch) in before.items():
        assert after[name][1] == (epoch + 1 if broker == "br1" else epoch)


async def test_a_crashed_broker_gets_bundles_again_only_once_it_registered_and_answers(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    await cluster.brokers["br1"].crash()
    await shares(cluster, br2=16)
    leader = await cluster.leader()
    await eventually(lambda: "br1" not in leader.view.current.catalog.brokers)
    assert Counter(b for b, _ in (await owners(cluster)).values()) == {"br2": 16}
    again = StandingBroker(cluster.hosts, cluster.name, "br1")
    await again.start()
    try:
        after = await shares(cluster, br1=8, br2=8)
        assert all(after[n][1] > epoch for n, (b, epoch) in before.items() if b == "br1")
    finally:
        await again.stop()


async def test_a_cut_off_broker_loses_its_bundles_with_its_session_and_gets_them_under_higher_epochs(
    cluster: Cluster,
) -> None:
    """Its port answers all the while; only ZooKeeper says that it is gone."""
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    broker = cluster.brokers["br1"]
    broker._zookeeper.cut()
    after = await shares(cluster, br2=16)
    broker._zookeeper.restore()
    again = await shares(cluster, br1=8, br2=8)
    for name, (owner, epoch) in before.items():
        if owner == "br1":
            assert again[name][1] > after[name][1] - 1 > epoch - 1


async def test_a_draining_broker_is_emptied_before_it_goes(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    await shares(cluster, br1=8, br2=8)
    await cluster.brokers["br1"].membership.update(state="draining")
    await shares(cluster, br2=16)


async def test_without_brokers_nobody_is_named(cluster: Cluster) -> None:
    await start(cluster, brokers=1)
    await shares(cluster, br1=16)
    await cluster.brokers["br1"].stop()
    after = await owners_unnamed(cluster)
    assert {epoch for _, epoch in after.values()} == {2}


async def owners_unnamed(cluster: Cluster) -> dict[str, tuple[str, int]]:
    async def unnamed() -> dict[str, tuple[str, int]] | None:
        now = await owners(cluster)
        return now if {b for b, _ in now.values()} == {""} else None

    return await eventually(unnamed, describe=cluster.describe)  # type: ignore[return-value]


async def test_a_new_leader_moves_nothing(cluster: Cluster) -> None:
    await start(cluster, brokers=2, nameservers=2)
    before = await shares(cluster, br1=8, br2=8)
    first = await cluster.leader()
    await cluster.crash(first._config.name)
    second = await cluster.leader()
    controller = second.controller
    assert controller is not None
    members = second.view.current.catalog.brokers
    await eventually(lambda: all(controller.probes.pulse(m) is Pulse.ALIVE for m in members.values()))
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="later", bundles=2))
    await eventually(lambda: sum(n.startswith("later/") for n in second.view.current.catalog.bundles) == 2)
    assert await owners(cluster) == before


async def test_r5_9_no_assignment_after_a_broker_is_gone_names_it(cluster: Cluster) -> None:
    """The leader decides on a view in which the broker is still there; ZooKeeper knows better."""
    await start(cluster, brokers=1)
    await shares(cluster, br1=16)
    leader = await cluster.leader()
    controller = leader.controller
    assert controller is not None
    with_broker = leader.view.current.catalog
    await cluster.brokers["br1"].stop()
    stale = await owners_unnamed(cluster)
    await eventually(lambda: {b.broker for b in leader.view.current.catalog.bundles.values()} == {""})
    seen = View(leader.view.current.catalog, {}, {}).catalog
    behind = type(seen)(namespaces=seen.namespaces, bundles=seen.bundles, brokers=with_broker.brokers)

    async def scenario(writer: BundleWriter) -> None:
        await writer.settle(behind)
        with promise("no assignment names a broker that is gone"):
            assert await owners(cluster) == stale, "a broker that is gone was given bundles"

    def alive(_: object) -> Pulse:
        return Pulse.ALIVE

    product = BundleWriter(controller.leadership, alive)
    await holds_and_mutant_fails(
        scenario, product, "ownership.WritesUnchecked", lambda mutant: mutant(controller.leadership, alive)
    )
