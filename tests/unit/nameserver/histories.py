"""Records that change at random."""

from __future__ import annotations

import random

from stele.services.bundles import bundles_of
from stele.services.coordination.records import (
    BundleRecord,
    CounterRecord,
    MemberRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
    encode,
)
from stele.services.coordination.znode import Node, Stat
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus

BUNDLES = (*bundles_of("demo", 1), *bundles_of("demo", 2))


class History:
    """Records that change at random, each written with a transaction of its own.  A group has one place for ever."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.nodes: dict[str, Node] = {}
        self._zxid = 0

    def step(self) -> dict[str, Node | None]:
        """What changed: one record, or a few at once."""
        return dict(self._one() for _ in range(self.rng.choice((1, 1, 1, 3))))

    def _one(self) -> tuple[str, Node | None]:
        rng = self.rng
        group = rng.randrange(1, 12)
        number = group % 4
        topic, topic_id = f"demo/t{number}", number + 1 + 4 * rng.randrange(3)
        stores = tuple(rng.sample(range(1, 6), 3))
        partition = PartitionRecord(
            topic=topic,
            index=group // 4,
            replicas=stores,
            topic_id=rng.randrange(4),
            target=stores[: rng.choice((0, 2))],
        )
        made: tuple[str, object, int] = rng.choice(
            (
                (f"topics/{topic}", self._topic(topic_id), 0),
                (f"partitions/{group}", partition, 0),
                (f"partitions/{group}", partition, 0),
                (
                    f"bundles/{rng.choice(BUNDLES)}",
                    BundleRecord(broker=rng.choice(("br1", "br2")), epoch=self._zxid),
                    0,
                ),
                (f"members/brokers/{rng.choice(('br1', 'br2'))}", MemberRecord(endpoint="h:1"), 7),
                ("namespaces/demo", NamespaceRecord(bundles=rng.choice((1, 2)), replication=3), 0),
                (f"stores/{stores[0]}", StoreRecord(name="dn", state="up", uuid="u", registered_ms=1), 0),
                (f"members/datanodes/dn{stores[0]}", MemberRecord(endpoint="h:1", store_id=stores[0]), 7),
                ("groups/alloc", CounterRecord(next=rng.randrange(20)), 0),
            )
        )
        path, record, owner = made
        self._zxid += 1
        if path in self.nodes and rng.random() < 0.3:
            del self.nodes[path]
            return path, None
        value = b"{" if rng.random() < 0.1 else encode(record)  # type: ignore[arg-type]
        node = self.nodes[path] = Node(value, Stat(0, self._zxid, self._zxid, owner, 100, 200, 0))
        return path, node

    def _topic(self, id: int) -> TopicRecord:
        """No two have one id, as in a cluster."""
        return TopicRecord(
            id=id, partitions=3, replication=3, state=self.rng.choice(("ready", "deleting")), created_ms=5
        )


def message(rng: random.Random, store_id: int) -> StoreStatus:
    """What a store says, of any replicas."""
    groups = rng.sample(range(1, 12), 3)
    replicas = [
        ReplicaStatus(
            group=group,
            topic=f"demo/t{rng.randrange(4)}",
            partition=group % 3,
            state=rng.choice(("leader", "follower", "deleted")),
            leader_store_id=rng.randrange(3),
            term=rng.randrange(3),
            topic_id=rng.randrange(12),
        )
        for group in groups
    ]
    return StoreStatus(store_id=store_id, state="ready", replicas=replicas, complete=rng.random() < 0.2)
