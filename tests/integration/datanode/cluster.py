"""Datanodes in this process over a real ZooKeeper, real gRPC, real files, and a nameserver's registry of stores in their midst."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from stele.datanode.role import Datanode, Parts
from stele.nameserver.role import Nameserver
from stele.services.config import DatanodeConfig, NameserverConfig
from stele.services.coordination.members import Membership, live
from stele.services.coordination.records import MemberRecord
from stele.services.coordination.session import Session
from stele.services.errors import SteleError, StoreTombstone, StoreUnknown
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb import datanode_pb2_grpc, nameserver_pb2, nameserver_pb2_grpc
from stele.services.process import Runtime
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.servers import Server
from stele.services.rpc.status import from_pb
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S

ELECTION_MIN_S = 0.3
ELECTION_MAX_S = 0.6
TOPIC = "test/orders"
TOPIC_ID = 1

Order = TypeVar("Order", pb.CreateReplicaRequest, pb.ConfigureReplicaRequest, pb.DeleteReplicaRequest)


class StoreRegistry(nameserver_pb2_grpc.NameserverServicer):
    """What a datanode asks of the nameservers: an id for its uuid, and where a store is.  Registered like a nameserver."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.ids: dict[str, int] = {}
        self.buried: set[int] = set()
        self._server = Server("127.0.0.1", 0)

    async def start(self) -> None:
        self._server.add(nameserver_pb2_grpc.add_NameserverServicer_to_server, self, "stele.v1.Nameserver")
        port = await self._server.start()
        record = MemberRecord(endpoint=f"127.0.0.1:{port}")
        self._membership = Membership(self._session, "nameservers", "ns1", record)
        await self._membership.register()

    async def stop(self) -> None:
        await self._membership.unregister()
        await self._server.stop()

    async def RegisterStore(self, request: Any, context: Any) -> Any:
        store_id = self.ids.setdefault(request.uuid, request.store_id or len(self.ids) + 1)
        if store_id in self.buried:
            raise StoreTombstone(f"store {store_id} was removed", store_id=store_id)
        return nameserver_pb2.RegisterStoreResponse(store_id=store_id, cluster_id=self._session.cluster_id)

    async def ResolveStore(self, request: Any, context: Any) -> Any:
        for record in (await live(self._session, "datanodes")).values():
            if record.store_id == request.store_id:
                return nameserver_pb2.ResolveStoreResponse(
                    store_id=record.store_id, endpoint=record.endpoint, raft_endpoint=record.raft_endpoint
                )
        raise StoreUnknown(f"store {request.store_id} has not registered", store_id=request.store_id)


class RealNameserver:
    """A nameserver in this process."""

    def __init__(self, zk_hosts: str, cluster: str) -> None:
        self.config = NameserverConfig(
            name="ns1", cluster=cluster, zookeeper=zk_hosts, session_timeout_s=SESSION_TIMEOUT_S, admin_port=-1
        )
        self.runtime = Runtime(config=self.config, log=structlog.get_logger())
        self.role = Nameserver(self.config, self.runtime)

    async def start(self) -> None:
        await self.role.start()
        await asyncio.wait_for(self.runtime.ready.wait(), 20)

    async def stop(self) -> None:
        await self.role.stop()


class Node:
    """One datanode, started and stopped any number of times on its directory."""

    def __init__(self, config: DatanodeConfig, channels: Channels) -> None:
        self.config = config
        self.channels = channels
        self.role: Datanode | None = None
        self.role_type: type[Datanode] = Datanode
        self.runtime: Runtime

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def store(self) -> Any:
        assert self.role is not None
        return self.role.store

    @property
    def store_id(self) -> int:
        return int(self.store.store_id)

    def order(self, kind: type[Order], group: int, epoch: int = 1, **others: Any) -> Order:
        """As the leading nameserver gives it to this node."""
        cluster_id = self.store.directory.identity.cluster_id
        facts = {"leader_epoch": epoch, "to_store_id": self.store_id, "topic_id": TOPIC_ID, "cluster_id": cluster_id}
        return kind(group=group, **facts | others)

    @property
    def endpoint(self) -> str:
        assert self.role is not None
        return self.role.endpoint

    @property
    def stub(self) -> Any:
        return datanode_pb2_grpc.DatanodeStub(self.channels.get(self.endpoint))

    async def start(self, parts: Parts | None = None, *, ready: bool = True, within_s: float = 20.0) -> None:
        """Starts the role; with ``ready``, waits until its gate is open."""
        self.runtime = Runtime(config=self.config, log=structlog.get_logger())
        self.role = self.role_type(self.config, self.runtime, parts)
        await self.role.start()
        if ready:
            await self.ready(within_s)

    async def ready(self, within_s: float = 20.0) -> None:
        def is_open() -> bool:
            if self.runtime.failure is not None:
                raise self.runtime.failure
            return self.runtime.ready.is_open

        await eventually(is_open, within_s, describe=lambda: self.runtime.ready.verbose())

    async def stop(self) -> None:
        """Ends without draining: leadership is not handed over."""
        role, self.role = self.role, None
        if role is not None:
            endpoint = role.endpoint
            await role.stop()
            await self.channels.close(endpoint)

    async def call(self, method: str, request: Any, timeout_s: float = 5.0) -> Any:
        return await call(getattr(self.stub, method), request, timeout_s)

    async def append(self, group: int, *batches: bytes, epoch: int = 1) -> list[pb.AppendResult]:
        """The results of one append.  Raises the error of the whole request."""
        [response] = await self.appends(
            [pb.AppendRequest(request_id=1, group=group, owner_epoch=epoch, batches=batches)]
        )
        error = from_pb(response.error)
        if error is not None:
            raise error
        return list(response.results)

    async def appends(self, requests: Sequence[pb.AppendRequest], within_s: float = 15.0) -> list[pb.AppendResponse]:
        async with asyncio.timeout(within_s):
            return [answer async for answer in self.stub.Append(_each(requests))]

    async def fetch(self, group: int, offset: int, bytes_max: int = 1 << 20, max_wait_ms: int = 0) -> pb.FetchResponse:
        request = pb.FetchRequest(
            request_id=1, group=group, offset=offset, bytes_max=bytes_max, max_wait_ms=max_wait_ms
        )
        async with asyncio.timeout(max_wait_ms / 1000 + 10):
            [answer] = [answer async for answer in self.stub.Fetch(_each([request]))]
        error = from_pb(answer.error)
        if error is not None:
            raise error
        return answer


async def _each(requests: Sequence[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


class Cluster:
    """``count`` datanodes and what they need."""

    def __init__(
        self, directory: Path, zk_hosts: str, name: str, session: Session, stores: StoreRegistry | RealNameserver
    ) -> None:
        self.session = session
        self.channels = Channels()
        self.stores: Any = stores
        self.nodes: dict[str, Node] = {}
        self._directory, self._zk_hosts, self._name = directory, zk_hosts, name

    def node(self, name: str, **settings: Any) -> Node:
        config = DatanodeConfig(
            name=name,
            cluster=self._name,
            zookeeper=self._zk_hosts,
            session_timeout_s=SESSION_TIMEOUT_S,
            data_dir=str(self._directory / name),
            election_timeout_min_s=ELECTION_MIN_S,
            election_timeout_max_s=ELECTION_MAX_S,
            disk_reserve_bytes=0,
            admin_port=-1,
        )
        node = self.nodes[name] = Node(DatanodeConfig(**config.model_dump() | settings), self.channels)
        return node

    async def start(self, count: int = 3, **settings: Any) -> list[Node]:
        nodes = [self.node(f"dn{i}", **settings) for i in range(1, count + 1)]
        for node in nodes:  # one after the other, so that dn1 is store 1
            await node.start()
        return nodes

    async def create(self, group: int, nodes: Sequence[Node] | None = None, partition: int = 0, epoch: int = 1) -> None:
        nodes = list(nodes or self.nodes.values())
        for node in nodes:
            await node.call("CreateReplica", self.create_request(group, nodes, node.store_id, partition, epoch))

    def create_request(
        self, group: int, nodes: Sequence[Node], to: int, partition: int = 0, epoch: int = 1
    ) -> pb.CreateReplicaRequest:
        return pb.CreateReplicaRequest(
            group=group,
            topic=TOPIC,
            partition=partition,
            store_ids=[n.store_id for n in nodes],
            leader_epoch=epoch,
            to_store_id=to,
            topic_id=TOPIC_ID,
            cluster_id=nodes[0].store.directory.identity.cluster_id,
        )

    async def leader(self, group: int, within_s: float = 10.0) -> Node:
        """The node that leads ``group`` and takes appends."""

        def find() -> Node | None:
            led = [
                n
                for n in self.nodes.values()
                if n.role is not None
                and n.runtime.ready.is_open
                and (g := n.store.registry.get(group)) is not None
                and g.is_leader
            ]
            return max(led, key=lambda n: n.store.registry.get(group).term) if led else None

        found = await eventually(find, within_s, describe=lambda: self.describe(group))
        assert found is not None
        return found

    def describe(self, group: int) -> list[str]:
        lines = []
        for node in self.nodes.values():
            if node.role is None:
                lines.append(f"{node.name}: down")
                continue
            g = node.store.registry.get(group)
            lines.append(
                f"{node.name}: {node.runtime.ready.verbose()} "
                + (f"{g.state} term {g.term} leader {g.leader_store_id} commit {g.commit_index}" if g else "no replica")
            )
        return lines

    async def appended(
        self, group: int, *batches: bytes, epoch: int = 1, within_s: float = 15.0
    ) -> list[pb.AppendResult]:
        """Appends at whatever node leads, again while the answer is retryable."""

        async def attempt() -> list[pb.AppendResult] | None:
            try:
                return await (await self.leader(group, within_s)).append(group, *batches, epoch=epoch)
            except SteleError as e:
                if not e.retryable:
                    raise
                return None

        return await eventually(attempt, within_s, describe=lambda: self.describe(group))

    async def replicated(self, group: int, high_watermark: int, within_s: float = 10.0) -> None:
        """Every live replica has applied up to ``high_watermark``."""
        await eventually(
            lambda: all(
                n.store.replicas[group].partition.high_watermark == high_watermark
                for n in self.nodes.values()
                if n.role is not None
            ),
            within_s,
            describe=lambda: self.describe(group),
        )

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))
        await self.stores.stop()
        await self.channels.close()


@asynccontextmanager
async def cluster(directory: Path, zk_hosts: str, name: str, *, nameserver: bool = False) -> AsyncIterator[Cluster]:
    """A control plane without datanodes; whatever was started is stopped at the end."""
    session = Session(zk_hosts, name, 4.0)
    await session.start(20)
    stores = RealNameserver(zk_hosts, name) if nameserver else StoreRegistry(session)
    made = Cluster(directory, zk_hosts, name, session, stores)
    await made.stores.start()
    try:
        yield made
    finally:
        await made.stop()
        await session.close()
