"""Members of a cluster for the nameserver's tests: they register in the real ZooKeeper and serve real gRPC, and keep what they hold in
memory.  The real datanode and broker meet the nameserver in the fault tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from stele.services.coordination.members import Membership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import BundleRecord, MemberRecord
from stele.services.coordination.session import Session
from stele.services.errors import ClusterMismatch, DiskFull, Fenced, NotLeader, StoreMismatch, TopicMismatch
from stele.services.high_water import HighWater
from stele.services.pb import broker_pb2, broker_pb2_grpc, datanode_pb2_grpc, nameserver_pb2
from stele.services.pb import datanode_pb2 as pb
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.servers import Server
from tests.support.zookeeper import SESSION_TIMEOUT_S, Proxy

Order = (
    pb.CreateReplicaRequest
    | pb.ConfigureReplicaRequest
    | pb.DeleteReplicaRequest
    | pb.ChangeMemberRequest
    | pb.TellHighWaterRequest
)


class GroupsInMemory:
    """Every replica of a cluster, and who leads: the lowest store of a group of which a majority is there."""

    def __init__(self) -> None:
        self.datanodes: dict[int, InMemoryDatanode] = {}
        self._led: dict[int, tuple[int, int]] = {}  # group → (leader, term)
        self.members: dict[int, tuple[set[int], set[int]]] = {}  # group → its voters and learners

    def members_of(self, group: int, first: Iterable[int] = ()) -> tuple[set[int], set[int]]:
        return self.members.setdefault(group, (set(first), set()))

    def leader_of(self, group: int) -> tuple[int, int]:
        members, _ = self.members_of(group)
        able = sorted(s for s in members if (d := self.datanodes.get(s)) is not None and group in d.replicas)
        leader = able[0] if len(able) > len(members) // 2 else 0
        known, term = self._led.get(group, (0, 0))
        if leader and leader != known:
            known, term = self._led[group] = (leader, term + 1)
        return (known if leader else 0), term

    def changed(self) -> None:
        for datanode in self.datanodes.values():
            datanode.moved.set()


class _Member:
    """A process's port and registration."""

    kind = ""

    def __init__(self, hosts: str, cluster: str, name: str) -> None:
        self.name, self.cluster = name, cluster
        self._zookeeper = Proxy(hosts)
        self.endpoint = ""
        self.server = Server("127.0.0.1", 0)
        self.session: Session
        self.membership: Membership

    async def _enter(self, **facts: Any) -> None:
        await self._zookeeper.start()
        self.session = Session(self._zookeeper.hosts, self.cluster, SESSION_TIMEOUT_S)
        await self.session.start(20)
        await self._open()
        record = MemberRecord(endpoint=self.endpoint, started_ms=1, **facts)
        self.membership = Membership(self.session, self.kind, self.name, record)
        await self.membership.register()

    async def _open(self) -> None:
        self.endpoint = f"127.0.0.1:{await self.server.start()}"

    async def crash(self) -> None:
        """As kill -9 looks from outside: the port refuses at once, the registration goes with the session's timeout."""
        self._zookeeper.cut()
        await self.server.stop(0)

    async def close_port(self) -> None:
        """The port refuses while the session lives on."""
        await self.server.stop(0)

    async def stop(self) -> None:
        await self.server.stop(0)
        if hasattr(self, "session"):
            await self.session.close()
            await self._zookeeper.stop()


class StandingBroker(_Member):
    """A broker that does nothing but live; one that has ``rates`` says what goes through the bundles of its cluster that it owns."""

    kind = "brokers"
    rates: Mapping[str, float] | None = None  # messages per second by bundle

    async def start(self, state: str = "ready") -> StandingBroker:
        if self.rates is not None:
            self.server.add(broker_pb2_grpc.add_BrokerServicer_to_server, _Traffic(self), "stele.v1.Broker")
        await self._enter(state=state)
        return self


class _Traffic(broker_pb2_grpc.BrokerServicer):
    def __init__(self, broker: StandingBroker) -> None:
        self._broker = broker

    async def GetTraffic(self, request: broker_pb2.GetTrafficRequest, context: Any) -> broker_pb2.GetTrafficResponse:
        """Whoever owns it counts the same, from the beginning of time on."""
        metadata = MetadataStore(self._broker.session)
        now_s = asyncio.get_running_loop().time()
        answer = broker_pb2.GetTrafficResponse()
        for bundle, rate in (self._broker.rates or {}).items():
            known = await metadata.get(f"bundles/{bundle}", BundleRecord)
            if known is not None and known.record.broker == self._broker.name:
                answer.bundles.add(bundle=bundle, epoch=known.record.epoch, messages=round(rate * now_s))
        return answer


class InMemoryDatanode(_Member, datanode_pb2_grpc.DatanodeServicer):
    """Keeps replicas as its contract says: idempotent, fenced by the leader's epoch, meant for one store."""

    kind = "datanodes"

    def __init__(self, hosts: str, cluster: str, name: str, groups: GroupsInMemory) -> None:
        super().__init__(hosts, cluster, name)
        self.uuid = str(uuid.uuid4())
        self.store_id = 0
        self.groups = groups
        self.state = "ready"
        self.replicas: dict[int, pb.CreateReplicaRequest] = {}
        self.orders: list[Order] = []
        self.seen = HighWater()
        self.is_full = False
        self.high_watermark = 0  # of every replica
        self.owner_epochs: dict[int, int] = {}  # by group
        self.obeys = asyncio.Event()
        self.obeys.set()
        self.moved = asyncio.Event()
        self._add()

    def _add(self) -> None:
        self.server.add(datanode_pb2_grpc.add_DatanodeServicer_to_server, self, "stele.v1.Datanode")

    async def start(self, nameservers: NameserverClient, state: str = "ready", rack: str = "") -> InMemoryDatanode:
        request = nameserver_pb2.RegisterStoreRequest(uuid=self.uuid, name=self.name, rack=rack)
        self.store_id = (await nameservers.call("RegisterStore", request, 20)).store_id
        self.groups.datanodes[self.store_id] = self
        self.state = state
        await self._enter(store_id=self.store_id, state=state, raft_endpoint="127.0.0.1:1")
        return self

    async def enter(self, state: str) -> None:
        self.state = state
        self.moved.set()
        await self.membership.update(state=state)

    async def crash(self) -> None:
        del self.groups.datanodes[self.store_id]
        self.groups.changed()
        await super().crash()

    async def come_back(self) -> None:
        """Restarted with what it had."""
        self._zookeeper.restore()
        self.server = Server("127.0.0.1", 0)
        self._add()
        await self._open()
        self.groups.datanodes[self.store_id] = self
        self.groups.changed()
        await self.membership.update(endpoint=self.endpoint)

    # --- the service ------------------------------------------------------------------------------------------------

    async def CreateReplica(self, request: pb.CreateReplicaRequest, context: Any) -> pb.CreateReplicaResponse:
        self._obey(request)
        if self.is_full:
            raise DiskFull("no space left on the device")
        self.orders.append(request)
        await self.obeys.wait()
        self._check_topic(request)
        created = request.group not in self.replicas
        self.replicas.setdefault(request.group, request)
        assert request.joins != bool(request.store_ids)
        self.groups.members_of(request.group, request.store_ids)
        self.groups.changed()
        return pb.CreateReplicaResponse(created=created)

    async def ConfigureReplica(self, request: pb.ConfigureReplicaRequest, context: Any) -> pb.ConfigureReplicaResponse:
        self._obey(request)
        self.orders.append(request)
        await self.obeys.wait()
        self._check_topic(request)
        known = self.replicas[request.group]
        known.retention.CopyFrom(request.retention)
        known.topic_id = request.topic_id
        self.groups.changed()
        return pb.ConfigureReplicaResponse(changed=True)

    async def DeleteReplica(self, request: pb.DeleteReplicaRequest, context: Any) -> pb.DeleteReplicaResponse:
        self._obey(request)
        self.orders.append(request)
        await self.obeys.wait()
        self._check_topic(request)
        existed = self.replicas.pop(request.group, None) is not None
        self.groups.changed()
        return pb.DeleteReplicaResponse(existed=existed)

    async def TellHighWater(self, request: pb.TellHighWaterRequest, context: Any) -> pb.TellHighWaterResponse:
        self._obey(request)
        return pb.TellHighWaterResponse()

    async def ChangeMember(self, request: pb.ChangeMemberRequest, context: Any) -> pb.ChangeMemberResponse:
        self._obey(request)
        self.orders.append(request)
        await self.obeys.wait()
        self._check_topic(request)
        if self.groups.leader_of(request.group)[0] != self.store_id:
            raise NotLeader("another one leads")
        voters, learners = self.groups.members_of(request.group)
        voters.discard(request.store_id)
        learners.discard(request.store_id)
        if request.role == pb.MEMBER_ROLE_VOTER:
            voters.add(request.store_id)
        elif request.role == pb.MEMBER_ROLE_LEARNER:
            learners.add(request.store_id)
        self.groups.changed()
        return pb.ChangeMemberResponse(changed=True)

    async def WatchStore(self, request: pb.WatchStoreRequest, context: Any) -> AsyncIterator[pb.StoreStatus]:
        while True:
            self.moved.clear()
            yield self._status()
            try:
                async with asyncio.timeout(4):
                    await self.moved.wait()
            except TimeoutError:
                continue

    def _check_topic(self, request: Order) -> None:
        known = self.replicas.get(request.group)
        if known is not None and known.topic_id not in (0, request.topic_id):
            raise TopicMismatch("another topic", expected=request.topic_id, got=known.topic_id)

    def _obey(self, request: Order | pb.TellHighWaterRequest) -> None:
        if request.cluster_id != self.session.cluster_id:
            raise ClusterMismatch("another cluster", expected=self.session.cluster_id, got=request.cluster_id)
        if request.to_store_id != self.store_id:
            raise StoreMismatch("another store", expected=self.store_id, got=request.to_store_id)
        if request.leader_epoch < self.seen.epoch:
            raise Fenced("an older leader", epoch=request.leader_epoch, seen=self.seen.epoch)
        told = HighWater.of(request.told).joined(HighWater(epoch=request.leader_epoch))
        if told.beyond(self.seen):
            self.seen = self.seen.joined(told)
            self.moved.set()

    def _status(self) -> pb.StoreStatus:
        status = pb.StoreStatus(store_id=self.store_id, state=self.state, complete=True, seen=self.seen.message())
        for group, request in sorted(self.replicas.items()):
            voters, learners = self.groups.members_of(group, request.store_ids)
            leader, term = self.groups.leader_of(group)
            status.replicas.add(
                group=group,
                topic=request.topic,
                partition=request.partition,
                state="leader" if leader == self.store_id else "follower",
                leader_store_id=leader,
                term=term,
                retention=request.retention,
                topic_id=request.topic_id,
                high_watermark=self.high_watermark,
                owner_epoch=self.owner_epochs.get(group, 0),
                voters=sorted(voters),
                learners=sorted(learners),
                members_settled=leader == self.store_id,
            )
        return status
