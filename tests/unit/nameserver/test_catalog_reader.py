"""Records become a catalog; one that cannot be read hides no other."""

from __future__ import annotations

from stele.nameserver.catalog_reader import CatalogReader
from stele.services.coordination.records import (
    BundleRecord,
    BuriedRecord,
    CounterRecord,
    DeletedTopicsRecord,
    LeaderRecord,
    MemberRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
    ZnodeRecord,
    encode,
)
from stele.services.coordination.znode import Node, Stat


def stat(zxid: int = 5, owner: int = 0) -> Stat:
    return Stat(version=2, czxid=zxid, mzxid=zxid, ephemeral_owner=owner, created_ms=100, modified_ms=200, children=0)


def node(record: ZnodeRecord | None, **facts: int) -> Node:
    return Node(encode(record) if record is not None else b"", stat(**facts))


NODES = {
    "leader": node(LeaderRecord(name="ns1", endpoint="h:1", epoch=3), owner=7),
    "members": node(None),
    "members/brokers": node(None),
    "members/brokers/br1": node(MemberRecord(endpoint="h:2", state="draining"), owner=7),
    "members/brokers/old": node(MemberRecord(endpoint="h:3")),
    "members/datanodes/dn1": node(MemberRecord(endpoint="h:4", store_id=1, loaded=2, total=3), owner=8),
    "stores": node(None),
    "stores/alloc": node(CounterRecord(next=5)),
    "stores/buried": node(BuriedRecord(intervals=((2, 4),))),
    "stores/1": node(StoreRecord(name="dn1", state="up", uuid="u", registered_ms=1)),
    "groups/alloc": node(CounterRecord(next=9)),
    "namespaces/demo": node(NamespaceRecord(bundles=16, replication=3)),
    "topics/alloc": node(CounterRecord(next=2)),
    "topics/demo": node(None),
    "topics/demo/t": node(TopicRecord(id=1, partitions=1, replication=3, state="ready", created_ms=5)),
    "deleted/topics": node(DeletedTopicsRecord(intervals=((4, 4),))),
    "partitions/8": node(PartitionRecord(topic="demo/t", index=0, replicas=(1, 2))),
    "bundles/demo/00000000-ffffffff": node(BundleRecord(broker="br1", epoch=6)),
}


def test_every_record_finds_its_place() -> None:
    catalog = CatalogReader().read(NODES)
    catalog.validate()
    assert catalog.leader is not None
    assert (catalog.leader.name, catalog.leader.epoch, catalog.leader.since_ms) == ("ns1", 3, 100)
    assert catalog.brokers["br1"].state == "draining"
    assert (catalog.datanodes["dn1"].loaded, catalog.datanodes["dn1"].total) == (2, 3)
    assert catalog.live_stores[1].name == "dn1"
    assert 3 in catalog.buried
    assert 4 in catalog.deleted_topics
    assert set(catalog.stores) == {1}
    assert set(catalog.topics) == {"demo/t"}
    assert catalog.partitions[8].replicas == (1, 2)
    assert catalog.bundles["demo/00000000-ffffffff"].assigned_zxid == 5
    assert catalog.partitions_of["demo/t"][0].group == 8


def test_r5_9_a_persistent_member_is_no_member() -> None:
    assert set(CatalogReader().read(NODES).brokers) == {"br1"}


def test_an_unreadable_record_is_named_and_hides_no_other() -> None:
    reader = CatalogReader()
    catalog = reader.read({**NODES, "topics/demo/bad": Node(b"{", stat())})
    assert set(catalog.topics) == {"demo/t"}
    assert set(reader.unreadable) == {"topics/demo/bad"}
    reader.read(NODES)
    assert reader.unreadable == {}


def test_an_unchanged_node_is_not_decoded_again() -> None:
    reader = CatalogReader()
    first = reader.read(NODES)
    second = reader.read({**NODES, "topics/demo/t": Node(b"unread", NODES["topics/demo/t"].stat)})
    assert second.topics["demo/t"] is first.topics["demo/t"]
    changed = Node(encode(NamespaceRecord(bundles=4, replication=1)), stat(zxid=6))
    assert reader.read({**NODES, "namespaces/demo": changed}).namespaces["demo"].bundles == 4
