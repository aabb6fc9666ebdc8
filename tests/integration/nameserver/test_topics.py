"""Topics from creation to deletion, asked of any nameserver."""

from __future__ import annotations

from collections import Counter

import pytest

from stele.nameserver.catalog import TopicState
from stele.nameserver.topic_writer import TopicWriter
from stele.services.coordination.metadata import MetadataStore
from stele.services.errors import (
    InvalidArgument,
    NamespaceExists,
    NamespaceNotEmpty,
    NamespaceNotFound,
    NotEnoughStores,
    SteleError,
    Timeout,
    TopicExists,
    TopicNotFound,
)
from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb.common_pb2 import Retention
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


async def test_a_topic_is_created_with_its_namespace_and_a_leader_for_every_partition(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    response = await cluster.create("demo/orders")
    assert response.created
    assert (response.topic.state, response.topic.partitions, response.topic.replication) == ("ready", 4, 3)
    found = await cluster.lookup("demo/orders")
    assert [r.partition for r in found.partitions] == [0, 1, 2, 3]
    for route in found.partitions:
        assert {r.store_id for r in route.replicas} == {1, 2, 3}
        assert all(r.endpoint for r in route.replicas)
        assert route.leader_store_id in {1, 2, 3}
        assert route.bundle.startswith("demo/")
    (namespace,) = (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    assert (namespace.namespace, namespace.bundles, namespace.replication, namespace.topics) == ("demo", 16, 3, 1)


async def test_every_nameserver_answers_and_forwards(cluster: Cluster) -> None:
    await cluster.start(nameservers=3, datanodes=3)
    for name in cluster.nameservers:
        await cluster.create(f"demo/{name}", partitions=2, of=name)

    async def agree() -> bool:
        answers = []
        for name in cluster.nameservers:
            topics = (await cluster.ask("ListTopics", pb.ListTopicsRequest(namespace="demo"), of=name)).topics
            partitions = (await cluster.ask("ListPartitions", pb.ListPartitionsRequest(), of=name)).partitions
            leaders = [(p.topic, p.route.group, p.route.leader_store_id) for p in partitions]
            answers.append(([(t.topic, t.id, t.state) for t in topics], leaders))
        return answers[0] == answers[1] == answers[2] and len(answers[0][0]) == 3 and len(answers[0][1]) == 6

    await eventually(agree, describe=cluster.describe)


async def test_replicas_are_spread_over_more_stores_than_replicas(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=5)
    await cluster.create("demo/wide", partitions=10, replication=3)
    await cluster.create("demo/more", partitions=5, replication=3)
    held = Counter({d.store_id: len(d.replicas) for d in cluster.datanodes.values()})
    assert set(held.values()) == {9}


async def test_an_existing_topic_is_success_only_if_asked_so_and_of_the_same_shape(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    first = await cluster.create("demo/t", partitions=2)
    again = await cluster.create("demo/t", partitions=2, if_absent=True)
    assert not again.created
    assert again.topic.id == first.topic.id
    by_default = await cluster.create("demo/t", partitions=2, replication=0, if_absent=True)
    assert by_default.topic.id == first.topic.id
    with pytest.raises(TopicExists):
        await cluster.create("demo/t", partitions=2)
    with pytest.raises(TopicExists):
        await cluster.create("demo/t", partitions=3, if_absent=True)


async def test_a_topic_that_waits_for_a_full_disk_says_so_and_comes_to_be(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    for datanode in cluster.datanodes.values():
        datanode.is_full = True
    with pytest.raises(Timeout, match=r"demo/t is not ready, its creation goes on: store .* no space left") as waiting:
        await cluster.create("demo/t", partitions=1, timeout_s=2)
    assert waiting.value.facts["cause"] == "DISK_FULL"
    for datanode in cluster.datanodes.values():
        datanode.is_full = False

    async def ready() -> bool:
        return (await cluster.lookup("demo/t")).topic.state == "ready"

    await eventually(ready, describe=cluster.describe)


async def told(cluster: Cluster) -> set[tuple[int, int]]:
    return {
        (r.retention.size_bytes, r.retention.age_ms) for d in cluster.datanodes.values() for r in d.replicas.values()
    }


async def test_a_topics_retention_reaches_its_replicas_and_is_altered_there_too(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    made = await cluster.ask(
        "CreateTopic",
        pb.CreateTopicRequest(topic="demo/t", partitions=2, retention=Retention(size_bytes=1 << 20, age_ms=60_000)),
    )
    assert (made.topic.retention.size_bytes, made.topic.retention.age_ms) == (1 << 20, 60_000)
    assert await told(cluster) == {(1 << 20, 60_000)}
    for name in cluster.nameservers:  # one leads, one forwards
        altered = await cluster.ask(
            "AlterTopic", pb.AlterTopicRequest(topic="demo/t", retention=Retention(age_ms=0)), of=name
        )
        assert (altered.topic.retention.size_bytes, altered.topic.retention.age_ms) == (1 << 20, 0)
    await eventually(lambda: told_is(cluster, {(1 << 20, 0)}), describe=cluster.describe)
    assert (await cluster.lookup("demo/t")).topic.retention.age_ms == 0


async def told_is(cluster: Cluster, wanted: set[tuple[int, int]]) -> bool:
    return await told(cluster) == wanted


async def test_a_store_that_was_away_is_told_the_retention_of_now(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    await cluster.create("demo/t", partitions=1)
    away = next(iter(cluster.datanodes.values()))
    await away.crash()
    await cluster.ask("AlterTopic", pb.AlterTopicRequest(topic="demo/t", retention=Retention(size_bytes=1 << 20)))
    await eventually(lambda: told_is(cluster, {(1 << 20, 0), (0, 0)}), describe=cluster.describe)
    await away.come_back()
    await eventually(lambda: told_is(cluster, {(1 << 20, 0)}), describe=cluster.describe)


async def test_a_namespaces_retention_is_its_topics_default(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    request = pb.CreateNamespaceRequest(namespace="short", retention=Retention(age_ms=3_600_000))
    await cluster.ask("CreateNamespace", request)
    assert (await cluster.create("short/default")).topic.retention.age_ms == 3_600_000
    own = pb.CreateTopicRequest(topic="short/own", partitions=1, retention=Retention(size_bytes=1 << 30, age_ms=0))
    made = (await cluster.ask("CreateTopic", own)).topic
    assert (made.retention.size_bytes, made.retention.age_ms) == (1 << 30, 0)
    found = {
        n.namespace: n.retention.age_ms
        for n in (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    }
    assert found == {"short": 3_600_000}


async def test_a_retention_that_makes_no_sense_changes_nothing(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=1)
    await cluster.create("demo/t", partitions=1, replication=1)
    for request in (
        pb.AlterTopicRequest(topic="demo/t", retention=Retention(size_bytes=1)),
        pb.AlterTopicRequest(topic="demo/t", retention=Retention(age_ms=2**63)),
    ):
        with pytest.raises(InvalidArgument, match="or 0 to keep messages for ever"):
            await cluster.ask("AlterTopic", request)
    with pytest.raises(InvalidArgument):
        await cluster.ask(
            "CreateTopic", pb.CreateTopicRequest(topic="demo/x", partitions=1, retention=Retention(age_ms=5))
        )
    with pytest.raises(InvalidArgument):
        await cluster.ask(
            "CreateNamespace", pb.CreateNamespaceRequest(namespace="x", retention=Retention(size_bytes=5))
        )
    with pytest.raises(TopicNotFound):
        await cluster.ask("AlterTopic", pb.AlterTopicRequest(topic="demo/none", retention=Retention(age_ms=0)))
    again = pb.CreateTopicRequest(
        topic="demo/t", partitions=1, replication=1, if_absent=True, retention=Retention(age_ms=60_000)
    )
    with pytest.raises(TopicExists):
        await cluster.ask("CreateTopic", again)
    assert await told(cluster) == {(0, 0)}


async def test_r3_6_a_recreated_topic_gets_new_groups_and_the_old_ones_are_gone(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    before = await cluster.create("demo/t", partitions=3)
    old = {r.group for r in (await cluster.lookup("demo/t")).partitions}
    await cluster.delete("demo/t")
    with pytest.raises(TopicNotFound):
        await cluster.lookup("demo/t")
    assert all(not d.replicas for d in cluster.datanodes.values())
    after = await cluster.create("demo/t", partitions=3)
    new = {r.group for r in (await cluster.lookup("demo/t")).partitions}
    assert after.topic.id > before.topic.id
    assert min(new) > max(old)
    metadata = await cluster.metadata()
    assert {int(g) for g in await metadata.children("partitions")} == new


async def test_r3_6_group_and_topic_ids_are_used_once(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=1)
    leader = await cluster.leader()
    assert leader.controller is not None
    metadata = MetadataStore(leader.session)

    async def scenario(writer: TopicWriter) -> None:
        used: set[int] = set()
        ids: set[int] = set()
        for _ in range(3):
            topic = await writer.begin_create("demo/again", 2, 1, leader.view.current.catalog)
            groups = {int(g) for g in await metadata.children("partitions")}
            with promise("a topic created anew gets new groups"):
                assert not groups & used, f"groups {groups & used} were used before"
            assert topic.id not in ids
            used |= groups
            ids.add(topic.id)
            await writer.begin_delete("demo/again")
            await writer.remove_records("demo/again", topic.id, leader.view.current.catalog)

    await leader.controller.close()
    leadership = leader.controller.leadership
    await holds_and_mutant_fails(
        scenario, TopicWriter(leadership, metadata), "catalog.ReusesGroups", lambda mutant: mutant(leadership, metadata)
    )


async def test_many_partitions_need_several_transactions_and_are_all_there(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=3)
    response = await cluster.create("demo/many", partitions=200, replication=1, timeout_s=60)
    assert response.topic.state == "ready"
    routes = (await cluster.lookup("demo/many")).partitions
    assert [r.partition for r in routes] == list(range(200))
    assert sorted(len(d.replicas) for d in cluster.datanodes.values()) == [66, 67, 67]
    await cluster.delete("demo/many", timeout_s=60)
    assert all(not d.replicas for d in cluster.datanodes.values())
    assert await (await cluster.metadata()).children("partitions") == []


REFUSED: list[tuple[str, int, int, type[SteleError]]] = [
    ("orders", 1, 1, InvalidArgument),
    ("demo/", 1, 1, InvalidArgument),
    ("/orders", 1, 1, InvalidArgument),
    ("demo/a/b", 1, 1, InvalidArgument),
    ("demo/..", 1, 1, InvalidArgument),
    ("alloc/orders", 1, 1, InvalidArgument),
    ("demo/" + "x" * 200, 1, 1, InvalidArgument),
    ("demo/orders", 0, 1, InvalidArgument),
    ("demo/orders", 1025, 1, InvalidArgument),
    ("demo/orders", 1, 100, InvalidArgument),
    ("demo/orders", 1, 4, NotEnoughStores),
]


async def test_what_cannot_be_created_is_refused_with_a_typed_reason_and_leaves_nothing(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=1)
    for topic, partitions, replication, error in REFUSED:
        with pytest.raises(error) as refused:
            await cluster.create(topic, partitions, replication)
        assert refused.value.definite
        if error is NotEnoughStores:
            assert refused.value.facts == {"up": "1", "wanted": "4"}
    metadata = await cluster.metadata()
    assert await metadata.children("partitions") == []
    assert await metadata.children("namespaces") == []


async def test_unknown_topics_and_namespaces_are_typed(cluster: Cluster) -> None:
    await cluster.start(nameservers=1)
    with pytest.raises(TopicNotFound):
        await cluster.lookup("demo/none")
    with pytest.raises(TopicNotFound):
        await cluster.delete("demo/none")
    with pytest.raises(NamespaceNotFound):
        await cluster.ask("ListTopics", pb.ListTopicsRequest(namespace="none"))
    with pytest.raises(TopicNotFound):
        await cluster.ask("ListPartitions", pb.ListPartitionsRequest(topic="demo/none"))


async def test_namespaces_keep_their_settings(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=2)
    request = pb.CreateNamespaceRequest(namespace="shop", bundles=4, replication=2)
    assert (await cluster.ask("CreateNamespace", request)).created
    with pytest.raises(NamespaceExists):
        await cluster.ask("CreateNamespace", request)
    same = pb.CreateNamespaceRequest(namespace="shop", bundles=4, replication=2, if_absent=True)
    assert not (await cluster.ask("CreateNamespace", same)).created
    other = pb.CreateNamespaceRequest(namespace="shop", bundles=8, replication=2, if_absent=True)
    with pytest.raises(NamespaceExists):
        await cluster.ask("CreateNamespace", other)
    created = await cluster.create("shop/t", partitions=1, replication=0)
    assert created.topic.replication == 2
    with pytest.raises(InvalidArgument):
        await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="big", bundles=5000))


async def test_a_namespace_is_altered_and_goes_only_without_topics(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=2)
    await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="shop", bundles=4, replication=2))
    alter = pb.AlterNamespaceRequest(namespace="shop", replication=1, retention=Retention(age_ms=5_000))
    for of in cluster.nameservers:
        altered = (await cluster.ask("AlterNamespace", alter, of=of)).namespace
        assert (altered.bundles, altered.replication, altered.retention.age_ms) == (4, 1, 5_000)
    created = (await cluster.create("shop/t", partitions=1, replication=0)).topic
    assert (created.replication, created.retention.age_ms) == (1, 5_000)
    alter = pb.AlterNamespaceRequest(namespace="shop", retention=Retention(size_bytes=1 << 30))
    altered = (await cluster.ask("AlterNamespace", alter)).namespace
    assert (altered.replication, altered.retention.age_ms, altered.retention.size_bytes) == (1, 5_000, 1 << 30)
    assert (await cluster.lookup("shop/t")).topic.retention.size_bytes == 0, "what there is stays as it is"
    with pytest.raises(InvalidArgument):
        await cluster.ask("AlterNamespace", pb.AlterNamespaceRequest(namespace="shop", replication=10))
    with pytest.raises(NamespaceNotEmpty) as refused:
        await cluster.ask("DeleteNamespace", pb.DeleteNamespaceRequest(namespace="shop"))
    assert refused.value.facts["topics"] == "1"
    await cluster.delete("shop/t")
    await cluster.ask("DeleteNamespace", pb.DeleteNamespaceRequest(namespace="shop"))
    assert not (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    for method, request in (
        ("AlterNamespace", alter),
        ("DeleteNamespace", pb.DeleteNamespaceRequest(namespace="shop")),
    ):
        with pytest.raises(NamespaceNotFound):
            await cluster.ask(method, request)
    again = (await cluster.create("shop/t", partitions=1, replication=2)).topic
    assert again.id > created.id
    (namespace,) = (await cluster.ask("ListNamespaces", pb.ListNamespacesRequest())).namespaces
    assert (namespace.bundles, namespace.replication) == (16, 3), "it is a new one"


async def test_what_was_decided_of_a_topic_does_nothing_to_the_next_of_its_name(cluster: Cluster) -> None:
    await cluster.start(nameservers=1, datanodes=1)
    leader = await cluster.leader()
    assert leader.controller is not None
    metadata, catalog = MetadataStore(leader.session), leader.view.current.catalog
    await leader.controller.close()
    writer = TopicWriter(leader.controller.leadership, metadata)
    former = await writer.begin_create("demo/again", 1, 1, catalog)
    await writer.begin_delete("demo/again")
    await writer.remove_records("demo/again", former.id, catalog)
    topic = await writer.begin_create("demo/again", 2, 1, catalog)
    partitions = sorted(await metadata.children("partitions"))
    await writer.mark_ready("demo/again", former.id)
    assert await writer.record_partitions("demo/again", former.id, catalog) == 0
    assert not await writer.record_materialised("demo/again", former.id, {int(g): (1,) for g in partitions})
    known = await writer.read("demo/again")
    assert known is not None
    assert (known.record.id, known.record.state) == (topic.id, TopicState.CREATING)
    await writer.begin_delete("demo/again")
    await writer.remove_records("demo/again", former.id, catalog)
    assert await writer.read("demo/again") is not None
    assert sorted(await metadata.children("partitions")) == partitions
