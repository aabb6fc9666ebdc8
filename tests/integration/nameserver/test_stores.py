"""Store ids: given out once, remembered for ever, refused with a type (F2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from stele.nameserver.catalog import Catalog
from stele.nameserver.controller import Controller
from stele.nameserver.relocation import Relocation
from stele.nameserver.stores import StoreRegister
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import BuriedRecord, StoreRecord, TopicRecord
from stele.services.errors import (
    ClusterMismatch,
    InvalidArgument,
    NotEnoughStores,
    StoreMismatch,
    StoreTombstone,
    StoreUnknown,
)
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


def ask(uuid: str, store_id: int = 0, cluster_id: str = "", name: str = "dn1") -> pb.RegisterStoreRequest:
    return pb.RegisterStoreRequest(uuid=uuid, name=name, store_id=store_id, cluster_id=cluster_id)


async def register(cluster: Cluster, request: pb.RegisterStoreRequest, of: str = "") -> int:
    return (await cluster.ask("RegisterStore", request, of=of)).store_id  # type: ignore[no-any-return]


async def bury(metadata: MetadataStore, store_id: int) -> None:
    """What removing a store and its tombstone leaves."""
    known = await metadata.get(f"stores/{store_id}", StoreRecord)
    assert known is not None
    buried = await metadata.get("stores/buried", BuriedRecord)
    intervals = buried.record.intervals if buried is not None else ()
    await metadata.put("stores/buried", BuriedRecord(intervals=(*intervals, (store_id, store_id))))
    await metadata.delete(f"stores/{store_id}", known.version)


async def test_r2_2_ids_are_idempotent_by_uuid_on_every_nameserver_and_after_a_failover(cluster: Cluster) -> None:
    await cluster.start(nameservers=2)
    uuids = [f"u{i}" for i in range(12)]
    ids = await asyncio.gather(*(register(cluster, ask(u)) for u in uuids))
    assert sorted(ids) == list(range(1, 13))
    for name in list(cluster.nameservers):
        assert await register(cluster, ask("u3"), of=name) == ids[3]
    leader = await cluster.leader()
    await cluster.crash(leader._config.name)
    await cluster.leader()
    assert await asyncio.gather(*(register(cluster, ask(u)) for u in uuids)) == ids
    assert await register(cluster, ask("new")) == 13


async def test_r2_2_an_id_is_never_given_out_again(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    leader = await cluster.leader()
    assert leader.controller is not None
    metadata = MetadataStore(leader.session)
    make: Callable[..., StoreRegister] = partial(
        StoreRegister, leader.controller.leadership, metadata, leader.session.cluster_id
    )

    async def scenario(make_register: Callable[[], StoreRegister]) -> None:
        seen: set[int] = set()
        for number in range(3):
            answer = await make_register().register(ask(f"{make_register!r}{number}"[-100:]))
            with promise("a removed store's id is never given out again"):
                assert answer.store_id not in seen, f"store id {answer.store_id} was given out twice"
            seen.add(answer.store_id)
            await bury(metadata, answer.store_id)

    await holds_and_mutant_fails(
        scenario, make, "catalog.IdsFromTheLiving", lambda mutant: partial(make, take=mutant([]))
    )


async def test_r2_6_a_removed_store_does_not_come_back(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    leader = await cluster.leader()
    assert leader.controller is not None
    metadata = MetadataStore(leader.session)
    removed, buried = await register(cluster, ask("u1")), await register(cluster, ask("u2"))
    known = await metadata.get(f"stores/{removed}", StoreRecord)
    assert known is not None
    tombstone = StoreRecord(name="dn1", state="tombstone", uuid="u1", registered_ms=known.record.registered_ms)
    await metadata.set(f"stores/{removed}", tombstone, known.version)
    await bury(metadata, buried)

    async def scenario(stores: StoreRegister) -> None:
        for request in (ask("u1"), ask("u1", removed), ask("u2", buried)):
            with promise("a removed store is refused registration"), pytest.raises(StoreTombstone) as refused:
                await stores.register(request)
            assert refused.value.facts["store_id"] in {str(removed), str(buried)}

    leadership, cluster_id = leader.controller.leadership, leader.session.cluster_id
    product = StoreRegister(leadership, metadata, cluster_id)
    await holds_and_mutant_fails(
        scenario, product, "catalog.WelcomesTheRemoved", lambda mutant: mutant(leadership, metadata, cluster_id)
    )


class Idle(Controller):
    """Begins nothing."""

    async def _reconcile(self) -> None:
        return None


@pytest.mark.parametrize("unseen", ["a decommission", "a topic", "a store that ended"])
async def test_r2_7_whether_a_store_may_go_is_asked_of_zookeeper(cluster: Cluster, unseen: str) -> None:
    """The leader's copy of the records lags behind what was recorded last."""
    leader = await cluster.nameserver("ns1", Idle)
    await cluster.leader()
    for number in range(4):
        await cluster.datanode(f"dn{number + 1}")
    await cluster.stores_ready(4)
    metadata = MetadataStore(leader.session)
    topic = TopicRecord(id=1, partitions=1, replication=3, state="ready", created_ms=0)
    await metadata.session.create("topics/demo", b"")
    await metadata.put("topics/demo/t", replace(topic, replication=1 if unseen == "a topic" else 3))
    await eventually(lambda: "demo/t" in leader.view.current.catalog.topics, describe=cluster.describe)
    controller, lagging = leader.controller, leader.view.current
    assert controller is not None
    goes, first, second = (cluster.datanodes[f"dn{n}"] for n in (1, 2, 3))
    if unseen == "a topic":
        await metadata.put("topics/demo/t", replace(topic, replication=4))
    elif unseen == "a store that ended":
        await first.crash()
        await second.crash()
        await eventually(lambda: len(leader.view.current.catalog.live_stores) == 2, describe=cluster.describe)

    async def mirrored(seen: Callable[[Catalog], bool]) -> None:
        """It does not come within the time that is waited for it."""

    async def scenario(make: type[Relocation]) -> None:
        relocation = make(controller.relocation.writer, lambda: lagging, mirrored, asyncio.Lock())
        if unseen == "a decommission":
            await relocation.decommission(first.store_id, False)
            await relocation.decommission(first.store_id, False)  # as was asked before
        with promise("a store goes only while enough others are up"), pytest.raises(NotEnoughStores):
            await relocation.decommission(goes.store_id, False)
        await relocation.recommission(first.store_id)

    await holds_and_mutant_fails(scenario, Relocation, "moves.AsksTheMirror")


async def test_a_store_of_another_cluster_or_with_a_copied_directory_is_refused(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    mine = (await cluster.ask("GetCluster", pb.GetClusterRequest())).cluster_id
    store_id = await register(cluster, ask("u1", cluster_id=mine))
    assert await register(cluster, ask("u1", store_id, mine)) == store_id
    with pytest.raises(ClusterMismatch):
        await register(cluster, ask("u1", store_id, "other"))
    with pytest.raises(StoreMismatch):
        await register(cluster, ask("copy", store_id, mine))
    with pytest.raises(StoreUnknown):
        await cluster.ask("RegisterStore", ask("u9", 999, mine), timeout_s=1)
    for bad in (ask(""), ask("u", name=""), ask("u" * 200)):
        with pytest.raises(InvalidArgument):
            await register(cluster, bad)


async def test_r2_1_resolving_is_typed_on_every_nameserver(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=1)
    store_id = cluster.datanodes["dn1"].store_id
    registered_only = await register(cluster, ask("u-away"))
    gone = await register(cluster, ask("u-gone"))
    await bury(await cluster.metadata(), gone)

    async def resolve(wanted: int, of: str) -> str:
        try:
            request = pb.ResolveStoreRequest(store_id=wanted)
            return (
                await cluster.client(of)._attempt(cluster.nameservers[of].endpoint, "ResolveStore", request, 5, None)
            ).endpoint  # type: ignore[no-any-return]
        except (StoreTombstone, StoreUnknown) as e:
            return e.reason

    for name in cluster.nameservers:

        async def answers(name: str = name) -> bool:
            wanted = (store_id, registered_only, gone, 12345)
            return [await resolve(w, name) for w in wanted] == [
                cluster.datanodes["dn1"].endpoint,
                "STORE_UNKNOWN",
                "STORE_TOMBSTONE",
                "STORE_UNKNOWN",
            ]

        await eventually(answers, describe=cluster.describe)


async def test_a_renamed_store_keeps_its_id(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    store_id = await register(cluster, ask("u1", name="dn1"))
    assert await register(cluster, ask("u1", store_id, name="dn9")) == store_id

    async def renamed() -> bool:
        stores = (await cluster.ask("ListStores", pb.ListStoresRequest())).stores
        return [(s.name, s.state, s.live) for s in stores] == [("dn9", "up", False)]

    await eventually(renamed)


async def test_a_move_to_or_from_a_store_that_is_none_is_refused_at_once(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=1, replication=2)
    metadata = await cluster.metadata()
    (route,) = (await cluster.lookup("demo/t")).partitions
    held = [r.store_id for r in route.replicas]
    spare = next(d.store_id for d in cluster.datanodes.values() if d.store_id not in held)
    buried, tombstone, offline = [await register(cluster, ask(f"u{n}", name=f"gone{n}")) for n in range(3)]
    for store_id, state in ((tombstone, "tombstone"), (offline, "offline")):
        known = await metadata.get(f"stores/{store_id}", StoreRecord)
        assert known is not None
        await metadata.set(f"stores/{store_id}", replace(known.record, state=state), known.version)
    await bury(metadata, buried)

    async def move(source: int, to: int) -> None:
        await cluster.ask(
            "MovePartition", pb.MovePartitionRequest(group=route.group, from_store_id=source, to_store_id=to)
        )

    for to, error in (
        (999, StoreUnknown),
        (tombstone, StoreTombstone),
        (buried, StoreTombstone),
        (offline, (InvalidArgument, StoreTombstone)),  # nothing is on it, so it is removed soon
    ):
        with pytest.raises(error, match=r"^to_store: ") as refused:
            await move(held[0], to)
        assert refused.value.facts["store_id"] == str(to)
    for source, error in ((999, StoreUnknown), (buried, StoreTombstone)):
        with pytest.raises(error, match=r"^from_store: "):
            await move(source, spare)
    with pytest.raises(InvalidArgument):
        await move(held[0], held[1])
    await move(held[0], spare)
