"""More partitions for a topic that exists, over a real ZooKeeper: never half of them, and whoever leads goes on."""

from __future__ import annotations

import asyncio

import pytest

from stele.nameserver.ids import GROUPS
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import CounterRecord, PartitionRecord, TopicRecord
from stele.services.errors import InvalidArgument, NotEnoughStores, TopicNotFound, TopicReplaced
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.eventually import eventually

TOPIC = "demo/t"


async def grow(cluster: Cluster, partitions: int, topic_id: int = 0, of: str = "") -> pb.TopicInfo:
    request = pb.AlterTopicRequest(topic=TOPIC, partitions=partitions, topic_id=topic_id)
    return (await cluster.ask("AlterTopic", request, of=of)).topic  # type: ignore[no-any-return]


async def shown(cluster: Cluster) -> list[int]:
    found = await cluster.lookup(TOPIC)
    partitions = [p.partition for p in found.partitions]
    assert partitions == list(range(found.topic.partitions))
    listed = await cluster.ask("ListPartitions", pb.ListPartitionsRequest(topic=TOPIC))
    assert len(listed.partitions) in (len(partitions), found.topic.growing_to)
    return partitions


async def has(cluster: Cluster, partitions: int) -> bool:
    return len(await shown(cluster)) == partitions


async def test_new_partitions_have_ids_of_their_own_and_show_when_each_can_be_used(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=4)
    await cluster.create("demo/other", partitions=2)
    await cluster.create(TOPIC, partitions=2)
    before = {p.group for p in (await cluster.lookup(TOPIC)).partitions}
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
    assert [(await grow(cluster, 5, of=name)).growing_to for name in cluster.nameservers] == [5, 5]

    async def recorded() -> bool:
        operations = (await cluster.ask("ListOperations", pb.ListOperationsRequest())).operations
        return [(o.kind, o.topic, o.step) for o in operations] == [("alter", TOPIC, "0 of 3 new partitions led")]

    await eventually(recorded, describe=cluster.describe)
    await asyncio.sleep(0.5)
    assert await shown(cluster) == [0, 1]
    assert await recorded()
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    await eventually(lambda: has(cluster, 5), describe=cluster.describe)
    routes = (await cluster.lookup(TOPIC)).partitions
    assert len({p.group for p in routes}) == 5
    assert min({p.group for p in routes} - before) > max(before)
    assert all(len(p.replicas) == 3 and p.leader_store_id for p in routes)
    assert not (await cluster.ask("ListOperations", pb.ListOperationsRequest())).operations
    assert (await grow(cluster, 5)).partitions == 5, "as many as it has"


async def test_fewer_partitions_another_topic_or_too_few_stores_are_refused(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    made = (await cluster.create(TOPIC, partitions=2)).topic
    with pytest.raises(InvalidArgument, match="partitions: demo/t has 2, and none is taken away"):
        await grow(cluster, 1)
    with pytest.raises(InvalidArgument, match="a topic has 1 to"):
        await grow(cluster, 1 << 30)
    with pytest.raises(TopicReplaced):
        await grow(cluster, 3, topic_id=made.id + 1)
    await cluster.datanodes["dn3"].crash()
    leader = await cluster.leader()
    await eventually(lambda: len(leader.view.current.catalog.placeable_stores) == 2)
    with pytest.raises(NotEnoughStores, match="replication 3 needs 3 stores"):
        await grow(cluster, 3)
    assert (await cluster.lookup(TOPIC)).topic.growing_to == 0
    await cluster.delete(TOPIC)
    with pytest.raises(TopicNotFound):
        await grow(cluster, 3)


async def recorded(metadata: MetadataStore, groups: int, growing_to: int) -> None:
    """What a leader that died has left: the wish, and so many of the new partitions."""
    topic = await metadata.get(f"topics/{TOPIC}", TopicRecord)
    counter = await metadata.get(GROUPS, CounterRecord)
    assert topic is not None
    assert counter is not None
    grown = TopicRecord(
        id=topic.record.id,
        partitions=topic.record.partitions,
        replication=topic.record.replication,
        state=topic.record.state,
        created_ms=topic.record.created_ms,
        growing_to=growing_to,
    )
    half = metadata.transaction().set(f"topics/{TOPIC}", grown, topic.version)
    if groups:
        half.set(GROUPS, CounterRecord(next=counter.record.next + groups), counter.version)
    for i in range(groups):
        index = topic.record.partitions + 2 * i  # not the first ones
        half.create(
            f"partitions/{counter.record.next + i}", PartitionRecord(topic=TOPIC, index=index, replicas=(1, 2, 3))
        )
    await half.commit()


@pytest.mark.parametrize("groups", [0, 1, 2])
async def test_what_a_leader_that_died_has_left_undone_is_done_by_the_next(cluster: Cluster, groups: int) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create(TOPIC, partitions=2)
    await cluster.crash("ns1")
    await recorded(await cluster.metadata(), groups, growing_to=6)
    await cluster.nameserver("ns2")
    await eventually(lambda: has(cluster, 6), describe=cluster.describe)
    routes = (await cluster.lookup(TOPIC)).partitions
    assert len({p.group for p in routes}) == 6


async def test_a_leader_that_dies_while_a_topic_grows_is_followed_by_one_that_goes_on(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    await cluster.create(TOPIC, partitions=1)
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
        datanode.orders.clear()
    first = await cluster.leader()
    await grow(cluster, 4)
    await eventually(lambda: all(d.orders for d in cluster.datanodes.values()))
    await cluster.crash(first._config.name)
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    await eventually(lambda: has(cluster, 4), within_s=15, describe=cluster.describe)
    assert all(len(d.replicas) == 4 for d in cluster.datanodes.values())


async def test_a_large_growth_takes_several_transactions_and_shows_at_once(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create(TOPIC, partitions=1)
    seen = set()
    await grow(cluster, 200)

    async def grown() -> bool:
        seen.add(len(await shown(cluster)))
        return 200 in seen

    await eventually(grown, within_s=30, describe=cluster.describe)
    assert seen == {1, 200}


async def test_a_topic_that_grows_can_be_deleted(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create(TOPIC, partitions=1)
    for datanode in cluster.datanodes.values():
        datanode.obeys.clear()
    await grow(cluster, 3)
    metadata = await cluster.metadata()

    async def recorded_all() -> bool:
        return len([g for g in await metadata.children("partitions") if g.isdecimal()]) == 3

    await eventually(recorded_all)
    for datanode in cluster.datanodes.values():
        datanode.obeys.set()
    await cluster.delete(TOPIC)
    assert not [g for g in await metadata.children("partitions") if g.isdecimal()]
    await eventually(lambda: not any(d.replicas for d in cluster.datanodes.values()), describe=cluster.describe)
