"""Members of a large cluster for one real nameserver: records in a real ZooKeeper; stores and brokers only say what real ones would.

A store reports every replica that the records give it, leads a third of them, and changes nothing; a broker is registered, alive, and has
its share of the bundles.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from stele.services.bundles import bundle_of, bundles_of
from stele.services.coordination.records import (
    RECORD_FORMAT,
    BundleRecord,
    CounterRecord,
    MemberRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
    TopicRecord,
    ZnodeRecord,
    encode,
)
from stele.services.coordination.session import Session
from stele.services.coordination.znode import CreateOp, Op
from stele.services.high_water import HighWater
from stele.services.pb import datanode_pb2, datanode_pb2_grpc
from stele.services.rpc.servers import Server

NAMESPACE = "bench"
BUNDLES = 64
STORES, BROKERS = 10, 10
PARTITIONS_OF_A_TOPIC = 10
REPLICAS = 3
TRANSACTION_OPS = 500
HEARTBEAT_S = 4.0
SESSION_TIMEOUT_S = 20.0  # of the members': they are not what is measured
OWNERS = {bundle: f"br{i % BROKERS + 1}" for i, bundle in enumerate(bundles_of(NAMESPACE, BUNDLES))}
CREATED_MS = 1_700_000_000_000


def topic_of(group: int) -> tuple[str, int]:
    """Name and index of the partition with that group; groups count from 1."""
    number, index = divmod(group - 1, PARTITIONS_OF_A_TOPIC)
    return f"{NAMESPACE}/topic-{number:05d}", index


def replicas_of(group: int) -> tuple[int, ...]:
    return tuple((group + i) % STORES + 1 for i in range(REPLICAS))


def owner_of(group: int) -> str:
    """The broker that has the partition's bundle."""
    return OWNERS[bundle_of(*topic_of(group), BUNDLES)]


def partition_of(group: int, turned: int = 0) -> PartitionRecord:
    """``turned``: the replicas in another order, which is a change that routing tells and nobody acts on."""
    topic, index = topic_of(group)
    stores = replicas_of(group)
    cut = turned % REPLICAS
    return PartitionRecord(
        topic=topic,
        index=index,
        replicas=stores[cut:] + stores[:cut],
        materialised=stores,
        topic_id=(group - 1) // PARTITIONS_OF_A_TOPIC + 1,
    )


class SimulatedStore(datanode_pb2_grpc.DatanodeServicer):
    """``elect(group)`` makes it the group's leader, with the next term."""

    def __init__(self, store_id: int, partitions: int) -> None:
        self._store_id, self._partitions = store_id, partitions
        self._told = HighWater()
        self._changed: list[datanode_pb2.ReplicaStatus] = []
        self._moved = asyncio.Event()
        self.server = Server("127.0.0.1", 0)
        self.server.add(datanode_pb2_grpc.add_DatanodeServicer_to_server, self, "stele.v1.Datanode")

    def elect(self, group: int, term: int) -> None:
        status = self._status(group)
        status.state, status.leader_store_id, status.term, status.members_settled = "leader", self._store_id, term, True
        self._changed.append(status)
        self._moved.set()

    async def WatchStore(
        self, request: datanode_pb2.WatchStoreRequest, context: Any
    ) -> AsyncIterator[datanode_pb2.StoreStatus]:
        held = [group for group in range(1, self._partitions + 1) if self._store_id in replicas_of(group)]
        status = datanode_pb2.StoreStatus(store_id=self._store_id, state="ready", complete=True, life="one")
        status.replicas.extend(self._status(group) for group in held)
        while True:
            status.seen.CopyFrom(self._told.message())
            yield status
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._moved.wait()
            self._moved.clear()
            changed, self._changed = self._changed, []
            status = datanode_pb2.StoreStatus(store_id=self._store_id, state="ready", life="one", replicas=changed)

    def _status(self, group: int) -> datanode_pb2.ReplicaStatus:
        topic, index = topic_of(group)
        stores = replicas_of(group)
        leads = stores[0] == self._store_id
        return datanode_pb2.ReplicaStatus(
            group=group,
            topic=topic,
            partition=index,
            state="leader" if leads else "follower",
            leader_store_id=stores[0],
            term=1,
            topic_id=(group - 1) // PARTITIONS_OF_A_TOPIC + 1,
            voters=sorted(stores),
            members_settled=leads,
        )

    async def TellHighWater(
        self, request: datanode_pb2.TellHighWaterRequest, context: Any
    ) -> datanode_pb2.TellHighWaterResponse:
        self._told = self._told.joined(HighWater.of(request.told))
        self._moved.set()
        return datanode_pb2.TellHighWaterResponse()


class Population:
    """``await brokers()``, ``await records()``, and ``await stores()`` once the nameserver runs; ``await stop()`` in the end."""

    def __init__(self, hosts: str, cluster: str, partitions: int) -> None:
        self._session = Session(hosts, cluster, SESSION_TIMEOUT_S)
        self._partitions = partitions
        self._servers: list[Server] = []
        self.stores: dict[int, SimulatedStore] = {}
        self.turned: dict[int, int] = {}

    async def begin(self) -> None:
        await self._session.start(30)

    async def join_brokers(self) -> None:
        """BEFORE their bundles are recorded: an assignment is meant for who was registered then."""
        for number in range(1, BROKERS + 1):
            server = Server("127.0.0.1", 0)
            self._servers.append(server)
            await self._register("brokers", f"br{number}", server)
            server.set_serving(True)

    async def join_stores(self) -> None:
        for store_id in range(1, STORES + 1):
            store = self.stores[store_id] = SimulatedStore(store_id, self._partitions)
            self._servers.append(store.server)
            await self._register("datanodes", f"dn{store_id}", store.server, store_id)

    async def _register(self, kind: str, name: str, server: Server, store_id: int = 0) -> None:
        endpoint = f"127.0.0.1:{await server.start()}"
        record = MemberRecord(endpoint=endpoint, store_id=store_id, started_ms=CREATED_MS, record_format=RECORD_FORMAT)
        await self._session.create(f"members/{kind}/{name}", encode(record), ephemeral=True)

    async def record(self) -> None:
        """Everything that is recorded of the cluster, in the order in which a nameserver writes it."""
        topics = -(-self._partitions // PARTITIONS_OF_A_TOPIC)
        named: list[tuple[str, ZnodeRecord | None]] = [
            (f"namespaces/{NAMESPACE}", NamespaceRecord(bundles=BUNDLES, replication=REPLICAS)),
            (f"topics/{NAMESPACE}", None),
            (f"bundles/{NAMESPACE}", None),
            ("topics/alloc", CounterRecord(next=topics + 1)),
            ("groups/alloc", CounterRecord(next=self._partitions + 1)),
            ("stores/alloc", CounterRecord(next=STORES + 1)),
        ]
        named += [
            (f"stores/{i}", StoreRecord(name=f"dn{i}", state="up", uuid=f"store-{i}", registered_ms=CREATED_MS))
            for i in range(1, STORES + 1)
        ]
        named += [(f"bundles/{bundle}", BundleRecord(broker=broker, epoch=1)) for bundle, broker in OWNERS.items()]
        named += [
            (
                f"topics/{topic_of(i * PARTITIONS_OF_A_TOPIC + 1)[0]}",
                TopicRecord(
                    id=i + 1,
                    partitions=PARTITIONS_OF_A_TOPIC,
                    replication=REPLICAS,
                    state="ready",
                    created_ms=CREATED_MS,
                ),
            )
            for i in range(topics)
        ]
        named += [(f"partitions/{group}", partition_of(group)) for group in range(1, self._partitions + 1)]
        ops: list[Op] = [CreateOp(path, encode(r) if r is not None else b"") for path, r in named]
        for begin in range(0, len(ops), TRANSACTION_OPS):
            await self._session.commit(ops[begin : begin + TRANSACTION_OPS], timeout_s=60)

    async def turn(self, group: int) -> tuple[int, ...]:
        """Writes the partition's replicas in another order, and answers it."""
        turned = self.turned[group] = self.turned.get(group, 0) + 1
        record = partition_of(group, turned)
        await self._session.set(f"partitions/{group}", encode(record), timeout_s=60)
        return record.replicas

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop(0) for server in self._servers))
        await self._session.close()
