"""Bundles follow the live brokers, under rising epochs."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from stele.nameserver.bundle_assignment import Pulse
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.view import View
from stele.services.bundles import ranges
from stele.services.coordination.records import BrokerRecord, BundleRecord, NamespaceRecord
from stele.services.errors import BrokerNotFound, BundleNotFound, InvalidArgument, NamespaceNotFound, NotEnoughBrokers
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


# --- what operators ask -------------------------------------------------------------------------------------------------


async def drain(cluster: Cluster, broker: str, drained: bool = True) -> None:
    await cluster.ask("DrainBroker", pb.DrainBrokerRequest(broker=broker, drained=drained))


async def listed(cluster: Cluster) -> dict[str, pb.BundleInfo]:
    return {b.bundle: b for b in (await cluster.ask("ListBundles", pb.ListBundlesRequest(namespace="demo"))).bundles}


async def test_a_drained_broker_is_emptied_and_stays_so_through_restarts_and_elections(cluster: Cluster) -> None:
    await start(cluster, brokers=2, nameservers=2)
    before = await shares(cluster, br1=8, br2=8)
    await drain(cluster, "br1")
    after = await shares(cluster, br2=16)
    assert all(after[name][1] == epoch + (broker == "br1") for name, (broker, epoch) in before.items())
    await drain(cluster, "br1")  # as was asked before
    record = await (await cluster.metadata()).get("brokers/br1", BrokerRecord)
    assert record is not None
    assert record.record.drained
    await cluster.brokers["br1"].stop()
    await cluster.broker("br1")
    await cluster.crash((await cluster.leader())._config.name)
    second = await cluster.leader()

    def probed() -> bool:
        members = second.view.current.catalog.brokers.values()
        assert second.controller is not None
        return len(members) == 2 and all(second.controller.probes.pulse(m) is Pulse.ALIVE for m in members)

    await eventually(probed, describe=cluster.describe)
    # Whatever is assigned next is assigned with the new one registered and answering.
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="later", bundles=4))
    await eventually(lambda: sum(n.startswith("later/") for n in second.view.current.catalog.bundles) == 4)
    assert {b.broker for b in second.view.current.catalog.bundles.values()} == {"br2"}
    routing = second.view.current.routing()
    assert {m.name: m.state for m in routing.brokers} == {"br1": "drained", "br2": "ready"}
    infos = {b.name: b for b in (await cluster.ask("ListBrokers", pb.ListBrokersRequest())).brokers}
    assert (infos["br1"].drained, infos["br1"].member.state, list(infos["br1"].bundles)) == (True, "ready", [])
    await drain(cluster, "br1", False)
    await eventually(
        lambda: Counter(b.broker for b in second.view.current.catalog.bundles.values()) == {"br1": 10, "br2": 10},
        describe=cluster.describe,
    )
    await drain(cluster, "br1", False)


async def test_a_broker_is_drained_only_while_another_one_could_take_its_bundles(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    with pytest.raises(BrokerNotFound, match="'br9'"):
        await drain(cluster, "br9")
    with pytest.raises(BrokerNotFound, match="'br9'"):
        await drain(cluster, "br9", False)
    with pytest.raises(InvalidArgument):
        await drain(cluster, "../br1")
    await drain(cluster, "br2")
    with pytest.raises(NotEnoughBrokers, match="bundles of br1: br2 is drained"):
        await drain(cluster, "br1")
    await drain(cluster, "br2", False)
    await shares(cluster, br1=8, br2=8)
    await cluster.brokers["br2"].close_port()
    await shares(cluster, br1=16)
    with pytest.raises(NotEnoughBrokers, match="br2 is refused"):
        await drain(cluster, "br1")
    with pytest.raises(NotEnoughBrokers):
        await cluster.ask("UnloadBroker", pb.UnloadBrokerRequest(broker="br1"))
    assert {b for b, _ in (await owners(cluster)).values()} == {"br1"}
    assert before.keys() == (await owners(cluster)).keys()


async def test_where_every_broker_is_drained_the_cluster_says_so(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    await shares(cluster, br1=8, br2=8)
    await drain(cluster, "br1")
    await shares(cluster, br2=16)
    await cluster.brokers["br2"].crash()
    await owners_unnamed(cluster)
    leader = await cluster.leader()
    await eventually(lambda: "every broker is drained" in " ".join(leader.view.current.problems()))
    await drain(cluster, "br1", False)
    await shares(cluster, br1=16)
    assert not leader.view.current.problems()


async def test_a_bundle_is_moved_under_a_higher_epoch_and_stays_where_it_was_put(cluster: Cluster) -> None:
    await start(cluster, brokers=3)
    before = await shares(cluster, br1=6, br2=5, br3=5)
    name = next(n for n, (broker, _) in sorted(before.items()) if broker == "br1")

    async def move(bundle: str, to: str) -> None:
        await cluster.ask("MoveBundle", pb.MoveBundleRequest(bundle=bundle, broker=to))

    await move(f"demo/{name}", "br2")
    now = (await listed(cluster))[f"demo/{name}"]
    assert (now.broker, now.epoch, now.cause) == ("br2", 2, "operator")
    await move(f"demo/{name}", "br2")  # as was asked before
    after = await shares(cluster, br1=5, br2=6, br3=5)
    assert after[name] == ("br2", 2)
    assert {n for n in before if before[n] != after[n]} == {name}
    stays = next(n for n, (broker, _) in after.items() if broker == "br2" and n != name)
    await move(f"demo/{stays}", "br2")
    now = (await listed(cluster))[f"demo/{stays}"]
    assert (now.broker, now.epoch, now.cause) == (*after[stays], "operator"), "the word alone is recorded"
    with pytest.raises(BundleNotFound, match="no bundle 'demo/x'"):
        await move("demo/x", "br2")
    with pytest.raises(BrokerNotFound):
        await move(f"demo/{name}", "br9")
    await drain(cluster, "br3")
    await shares(cluster, br1=8, br2=8)
    with pytest.raises(InvalidArgument, match="br3 is drained"):
        await move(f"demo/{name}", "br3")
    with pytest.raises(NamespaceNotFound):
        await cluster.ask("ListBundles", pb.ListBundlesRequest(namespace="none"))


async def test_bundles_of_a_broker_are_given_to_others_once(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    before = await shares(cluster, br1=8, br2=8)
    chosen = [f"demo/{n}" for n, (broker, _) in sorted(before.items()) if broker == "br1"][:2]
    other = next(f"demo/{n}" for n, (broker, _) in before.items() if broker == "br2")

    async def unload(*bundles: str) -> dict[str, str]:
        answer = await cluster.ask("UnloadBroker", pb.UnloadBrokerRequest(broker="br1", bundles=bundles))
        return {m.bundle: m.broker for m in answer.moved}

    assert await unload(*chosen, other) == dict.fromkeys(chosen, "br2"), "what another one has is left alone"
    assert await unload(*chosen) == {}
    await shares(cluster, br1=8, br2=8)
    assert {n: b.broker for n, b in (await listed(cluster)).items() if n in chosen} == dict.fromkeys(chosen, "br2")
    assert len(await unload()) == 8
    await shares(cluster, br1=8, br2=8)
    with pytest.raises(BundleNotFound):
        await unload("demo/x")
    with pytest.raises(BrokerNotFound):
        await cluster.ask("UnloadBroker", pb.UnloadBrokerRequest(broker="br9"))


async def test_two_operators_drain_two_brokers_at_once_and_one_of_them_is_refused(cluster: Cluster) -> None:
    await start(cluster, brokers=2)
    await shares(cluster, br1=8, br2=8)
    both = await asyncio.gather(drain(cluster, "br1"), drain(cluster, "br2"), return_exceptions=True)
    assert sorted(type(e) for e in both if e is not None) == [NotEnoughBrokers]


# --- splitting ----------------------------------------------------------------------------------------------------------


async def test_a_bundle_is_split_with_its_owner_and_a_higher_epoch_in_one_transaction(cluster: Cluster) -> None:
    await start(cluster, brokers=2, nameservers=2)
    before = await shares(cluster, br1=8, br2=8)
    name = "00000000-0fffffff"
    owner, epoch = before[name]
    request = pb.SplitBundleRequest(bundle=f"demo/{name}")
    two = ["demo/00000000-07ffffff", "demo/08000000-0fffffff"]
    metadata = await cluster.metadata()
    version = (await metadata.get("namespaces/demo", NamespaceRecord)).version  # type: ignore[union-attr]
    assert list((await cluster.ask("SplitBundle", request)).bundles) == two
    assert list((await cluster.ask("SplitBundle", request)).bundles) == two, "as was asked before"
    namespace = await metadata.get("namespaces/demo", NamespaceRecord)
    assert namespace is not None
    assert (namespace.record.bundles, namespace.record.splits, namespace.version) == (16, (1 << 27,), version + 1)
    known = [await metadata.get(f"bundles/demo/{r}", BundleRecord) for r in (name, *(t[5:] for t in two))]
    assert [(k.record.broker, k.record.epoch) for k in known if k] == [("", epoch + 1), *[(owner, epoch + 1)] * 2]
    assert len({k.stat.mzxid for k in (*known, namespace) if k}) == 1, "one transaction: nothing is between"
    assert [n for n in await listed(cluster) if n in (*two, f"demo/{name}")] == two
    (info,) = (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    assert info.bundles == 17
    again = pb.CreateNamespaceRequest(namespace="demo", if_absent=True)
    assert not (await cluster.ask("CreateNamespace", again)).created, "with the same settings"
    # Whoever leads next finds nothing to do, and goes on with the halves as with all others.
    await cluster.crash((await cluster.leader())._config.name)
    await cluster.leader()
    await drain(cluster, owner)
    taker = "br2" if owner == "br1" else "br1"

    async def moved() -> bool:
        now = await owners(cluster)
        return all(b == (taker if n != name else "") for n, (b, _) in now.items())

    await eventually(moved, describe=cluster.describe)
    assert (await owners(cluster))[name] == ("", epoch + 1)


async def test_halves_are_split_again_and_what_is_no_bundle_is_refused(cluster: Cluster) -> None:
    await start(cluster, brokers=1)
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="one", bundles=1))

    async def split(bundle: str) -> list[str]:
        return list((await cluster.ask("SplitBundle", pb.SplitBundleRequest(bundle=bundle))).bundles)

    lower, upper = await split("one/00000000-ffffffff")
    assert await split(lower) == ["one/00000000-3fffffff", "one/40000000-7fffffff"]
    assert await split(upper) == ["one/80000000-bfffffff", "one/c0000000-ffffffff"]
    assert await split(lower) == ["one/00000000-3fffffff", "one/40000000-7fffffff"], "as was asked before"
    for wrong in (
        "one/00000000-ffffffff",
        "one/00000000-0fffffff",
        "none/00000000-ffffffff",
        "x",
        "../x/1-2",
        "",
    ):
        with pytest.raises(BundleNotFound):
            await split(wrong)
    leader = await cluster.leader()
    assert sum(b.startswith("one/") for b in leader.view.current.catalog.wanted_bundles) == 4


async def test_a_namespace_that_comes_back_after_a_split_is_cut_as_at_first_under_higher_epochs(
    cluster: Cluster,
) -> None:
    await start(cluster, brokers=1)
    one = pb.CreateNamespaceRequest(namespace="one", bundles=1)
    await cluster.ask("CreateNamespace", one)
    await cluster.ask("SplitBundle", pb.SplitBundleRequest(bundle="one/00000000-ffffffff"))
    metadata = await cluster.metadata()

    async def recorded() -> dict[str, tuple[str, int]]:
        found = await metadata.list("bundles/one", BundleRecord)
        return {name: (v.record.broker, v.record.epoch) for name, v in found.items()}

    async def owned(*names: str) -> bool:
        now = await recorded()
        return {n for n, (broker, _) in now.items() if broker} == set(names)

    await eventually(lambda: owned("00000000-7fffffff", "80000000-ffffffff"), describe=cluster.describe)
    before = await recorded()
    await cluster.ask("DeleteNamespace", pb.DeleteNamespaceRequest(namespace="one"))
    await eventually(owned, describe=cluster.describe)
    await cluster.ask("CreateNamespace", one)
    await eventually(lambda: owned("00000000-ffffffff"), describe=cluster.describe)
    assert (await recorded())["00000000-ffffffff"][1] > before["00000000-ffffffff"][1]
    two = (await cluster.ask("SplitBundle", pb.SplitBundleRequest(bundle="one/00000000-ffffffff"))).bundles
    now = await recorded()
    assert all(now[b[4:]][1] > before[b[4:]][1] for b in two)


# --- balance ------------------------------------------------------------------------------------------------------------


async def test_bundles_are_evened_out_by_what_goes_through_them_whoever_leads(cluster: Cluster) -> None:
    """Of sixteen bundles two carry everything: they come to have owners of their own, and stay there under the next leader."""
    await cluster.start(nameservers=2)
    hot = {f"demo/{r}": 4_000.0 for r in ranges(16)[:2]}
    await cluster.broker("br1", rates=hot)
    leader = await cluster.leader()
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="demo"))
    await shares(cluster, br1=16)
    await cluster.broker("br2", rates=hot)

    async def parted() -> dict[str, tuple[str, int]] | None:
        now = await owners(cluster)
        return now if {now[b[5:]][0] for b in hot} == {"br1", "br2"} else None

    before = await eventually(parted, 30, describe=cluster.describe)
    costs = leader.controller.traffic.costs  # type: ignore[union-attr]
    assert all(30 < costs[b] < 50 for b in hot), "about forty times what a bundle costs by being there"
    await cluster.crash(leader._config.name)
    second = await cluster.leader()
    members = second.view.current.catalog.brokers
    assert second.controller is not None
    traffic = second.controller.traffic
    await eventually(lambda: all(map(traffic.knows, members.values())), 20, describe=cluster.describe)
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="later", bundles=1))
    await eventually(lambda: "later/00000000-ffffffff" in second.view.current.catalog.bundles)
    now = await owners(cluster)
    assert {b: now[b[5:]] for b in hot} == {b: before[b[5:]] for b in hot}  # type: ignore[index]
