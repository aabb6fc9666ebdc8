"""Three datanodes under a real nameserver: ids, replicas, reports, and what becomes of a copied directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stele.services.errors import DirectoryBusy, NotEnoughStores, StoreMismatch
from stele.services.pb import datanode_pb2 as dn
from stele.services.pb import nameserver_pb2 as ns
from stele.services.rpc.channels import call
from stele.services.rpc.nameservers import NameserverClient
from tests.integration.datanode.cluster import Cluster, cluster
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


@pytest.fixture
async def governed(tmp_path: Path, zk_hosts: str, cluster_name: str) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, zk_hosts, cluster_name, nameserver=True) as made:
        yield made


def client_of(made: Cluster) -> NameserverClient:
    return NameserverClient(made.channels, [made.stores.role.endpoint])


async def create_topic(made: Cluster, partitions: int = 2) -> list[Any]:
    """The routes of a new topic on three replicas."""
    client = client_of(made)
    request = ns.CreateTopicRequest(topic="test/orders", partitions=partitions, replication=3, if_absent=True)

    async def created() -> bool:
        try:
            await client.call("CreateTopic", request, 20)
        except NotEnoughStores:  # the nameserver has not seen the last one yet
            return False
        return True

    await eventually(created)
    return list((await client.call("Lookup", ns.LookupRequest(topic="test/orders"), 5)).partitions)


async def test_a_topic_is_created_written_and_deleted(governed: Cluster) -> None:
    nodes = await governed.start(3)
    assert [node.store_id for node in nodes] == [1, 2, 3]
    routes = await create_topic(governed)
    for route in routes:
        [stored] = await governed.appended(route.group, make_batch(2))
        assert stored.base_offset == 0
        await governed.replicated(route.group, 2)
    await client_of(governed).call("DeleteTopic", ns.DeleteTopicRequest(topic="test/orders"), 20)
    await eventually(lambda: all(node.store.replicas == {} for node in nodes))
    kept = (await client_of(governed).call("ListTrash", ns.ListTrashRequest(), 5)).stores
    assert [(s.store_id, s.problem) for s in kept] == [(1, ""), (2, ""), (3, "")]
    for store in kept:
        described = {(r.group, r.topic, r.partition, bool(r.topic_id), r.size_bytes > 0) for r in store.replicas}
        assert described == {(r.group, "test/orders", r.partition, True, True) for r in routes}
    with pytest.raises(StoreMismatch):
        await call(nodes[0].stub.ReadTrash, dn.ReadTrashRequest(to_store_id=2), 5)


async def test_the_report_follows_what_happens(governed: Cluster) -> None:
    nodes = await governed.start(3)
    [route] = await create_topic(governed, partitions=1)
    await governed.appended(route.group, make_batch(4))
    leader = await governed.leader(route.group)

    async def leader_is(*names: int) -> bool:
        found = await client_of(governed).call("Lookup", ns.LookupRequest(topic="test/orders"), 5)
        return found.partitions[0].leader_store_id in names

    await eventually(lambda: leader_is(leader.store_id))
    others = [node.store_id for node in nodes if node is not leader]
    await leader.stop()
    await eventually(lambda: leader_is(*others))
    await leader.start()
    stores = (await client_of(governed).call("ListStores", ns.ListStoresRequest(), 5)).stores
    assert sorted(s.store_id for s in stores) == [1, 2, 3]


@pytest.mark.parametrize("uuid", ["the same", "another"])
async def test_a_copied_directory_does_not_become_a_second_store(governed: Cluster, tmp_path: Path, uuid: str) -> None:
    [node] = await governed.start(1)
    await node.stop()
    shutil.copytree(node.config.data_dir, tmp_path / "copy")
    if uuid == "another":
        store_file = tmp_path / "copy" / "store.json"
        identity = json.loads(store_file.read_text())
        store_file.write_text(json.dumps({**identity, "uuid": uuid}))
    if uuid == "the same":
        await node.start()
    copy = governed.node("dn9", data_dir=str(tmp_path / "copy"))
    with pytest.raises(StoreMismatch if uuid == "another" else DirectoryBusy):
        await copy.start()
    [store] = (await client_of(governed).call("ListStores", ns.ListStoresRequest(), 5)).stores
    assert store.name == "dn1", "a start that failed changed nothing"


async def test_a_store_may_start_again_under_another_name(governed: Cluster) -> None:
    [node] = await governed.start(1)
    await node.stop()
    renamed = governed.node("dn9", data_dir=node.config.data_dir)
    await renamed.start()
    assert renamed.store_id == 1
