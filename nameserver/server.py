"""The Nameserver service (proto/stele/v1/nameserver.proto).

Guarantee: any nameserver answers reads, from its view, which is whole before the port opens and is kept while ZooKeeper
cannot be reached; once that lasts longer than its session, it answers only those who ask for old answers too (``STALE_KEY``),
and nobody is told that something does not exist.  A write is done by the leader, here or forwarded, and ends within its
deadline in an answer or an error that says whether it may have happened; it is forwarded once: a forwarded one that meets no
leader is NotLeader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar, cast

from stele.nameserver.clusterview import ClusterView
from stele.nameserver.controller import Controller
from stele.nameserver.operations import operations, planned
from stele.nameserver.topic_writer import topic_path
from stele.nameserver.trash_listing import list_trash
from stele.nameserver.view import address, member_info
from stele.services.coordination.session import Session, SessionState
from stele.services.errors import NoLeader, NotLeader, Unreachable
from stele.services.pb import common_pb2, nameserver_pb2_grpc
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import STALE_KEY
from stele.services.rpc.servers import left_s
from stele.services.rpc.status import typed_errors
from stele.services.topics import parse_topic

FORWARDED_KEY = "stele-forwarded-by"
TIMEOUT_DEFAULT_S = 30.0  # of a caller that gave none
LEADER_CONNECT_S = 1.0
CATCH_UP_S = 1.0
ROUTING_INTERVAL_S = 0.02
ROUTING_HEARTBEAT_S = 4.0

T = TypeVar("T")


class NameserverServicer(nameserver_pb2_grpc.NameserverServicer):
    """``controller`` answers the open controller of this nameserver, or None while it does not lead."""

    def __init__(
        self,
        name: str,
        cluster: str,
        session: Session,
        view: ClusterView,
        channels: Channels,
        controller: Callable[[], Controller | None],
    ) -> None:
        self._name, self._cluster = name, cluster
        self._session, self._view, self._channels, self._controller = session, view, channels, controller

    # --- writes -----------------------------------------------------------------------------------------------------

    async def CreateNamespace(self, request: pb.CreateNamespaceRequest, context: Any) -> pb.CreateNamespaceResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.CreateNamespaceResponse, "CreateNamespace", request, context)
        return pb.CreateNamespaceResponse(created=await controller.create_namespace(request))

    async def CreateTopic(self, request: pb.CreateTopicRequest, context: Any) -> pb.CreateTopicResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.CreateTopicResponse, "CreateTopic", request, context)
        return await controller.create_topic(request, left_s(context, TIMEOUT_DEFAULT_S))

    async def AlterTopic(self, request: pb.AlterTopicRequest, context: Any) -> pb.AlterTopicResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.AlterTopicResponse, "AlterTopic", request, context)
        return await controller.alter_topic(request)

    async def DeleteTopic(self, request: pb.DeleteTopicRequest, context: Any) -> pb.DeleteTopicResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.DeleteTopicResponse, "DeleteTopic", request, context)
        await controller.delete_topic(request.topic, left_s(context, TIMEOUT_DEFAULT_S))
        return pb.DeleteTopicResponse()

    async def RegisterStore(self, request: pb.RegisterStoreRequest, context: Any) -> pb.RegisterStoreResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.RegisterStoreResponse, "RegisterStore", request, context)
        return await controller.stores.register(request)

    async def RemoveOrphan(self, request: pb.RemoveOrphanRequest, context: Any) -> pb.RemoveOrphanResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.RemoveOrphanResponse, "RemoveOrphan", request, context)
        await controller.remove_orphan(request.store_id, request.group, request.topic_id)
        return pb.RemoveOrphanResponse()

    async def RecoverMetadata(self, request: pb.RecoverMetadataRequest, context: Any) -> pb.RecoverMetadataResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.RecoverMetadataResponse, "RecoverMetadata", request, context)
        before, after = await controller.guard.recover()
        return pb.RecoverMetadataResponse(before=before.message(), after=after.message())

    async def MovePartition(self, request: pb.MovePartitionRequest, context: Any) -> pb.MovePartitionResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.MovePartitionResponse, "MovePartition", request, context)
        await controller.relocation.move(request.group, request.from_store_id, request.to_store_id)
        return pb.MovePartitionResponse()

    async def DecommissionStore(
        self, request: pb.DecommissionStoreRequest, context: Any
    ) -> pb.DecommissionStoreResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.DecommissionStoreResponse, "DecommissionStore", request, context)
        plan = await controller.relocation.decommission(request.store_id, request.dry_run)
        return planned(self._view.current.catalog, plan)

    async def RecommissionStore(
        self, request: pb.RecommissionStoreRequest, context: Any
    ) -> pb.RecommissionStoreResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.RecommissionStoreResponse, "RecommissionStore", request, context)
        await controller.relocation.recommission(request.store_id)
        return pb.RecommissionStoreResponse()

    async def RemoveTombstones(self, request: pb.RemoveTombstonesRequest, context: Any) -> pb.RemoveTombstonesResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.RemoveTombstonesResponse, "RemoveTombstones", request, context)
        buried, skipped = await controller.relocation.remove_tombstones(request.store_ids)
        named = [pb.SkippedStore(store_id=s.store_id, name=s.name, why=why) for s, why in skipped]
        return pb.RemoveTombstonesResponse(buried=buried, skipped=named)

    async def CancelOperation(self, request: pb.CancelOperationRequest, context: Any) -> pb.CancelOperationResponse:
        controller = self._lead()
        if controller is None:
            return await self._forward(pb.CancelOperationResponse, "CancelOperation", request, context)
        await controller.relocation.cancel(request.id)
        return pb.CancelOperationResponse()

    def _lead(self) -> Controller | None:
        controller = self._controller()
        return controller if controller is not None and controller.is_open else None

    async def _forward(self, answer_type: type[T], method: str, request: Any, context: Any) -> T:
        """NoLeader: nobody leads; NotLeader: somebody else does and could not be reached from here, or not a second time."""
        leader = self._view.current.catalog.leader
        if leader is None:
            raise NoLeader("no nameserver leads at this moment; nothing was changed")
        if leader.name == self._name:
            raise NoLeader("this nameserver's leadership is not certain at this moment; nothing was changed")
        if any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ()):
            raise NotLeader(f"{self._name} does not lead, {leader.name} does", leader=leader.endpoint)
        try:
            channel = await self._channels.connected(
                leader.endpoint, min(LEADER_CONNECT_S, left_s(context, TIMEOUT_DEFAULT_S))
            )
        except Unreachable:
            raise NotLeader(
                f"{leader.name} leads and cannot be reached from {self._name}", leader=leader.endpoint
            ) from None
        stub: Any = nameserver_pb2_grpc.NameserverStub(channel)  # type: ignore[no-untyped-call]
        with typed_errors():
            forwarded = getattr(stub, method)(
                request, timeout=left_s(context, TIMEOUT_DEFAULT_S), metadata=((FORWARDED_KEY, self._name),)
            )
            return cast(T, await forwarded)

    # --- reads ------------------------------------------------------------------------------------------------------

    async def GetCluster(self, request: pb.GetClusterRequest, context: Any) -> pb.GetClusterResponse:
        # A mirror may be a moment behind what a store was told by the leader: that is no trouble of the cluster.
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S
        await self._view.until(lambda view: not view.problems(), deadline)
        catalog = self._view.current.catalog
        leader = catalog.leader
        response = pb.GetClusterResponse(
            cluster=self._cluster,
            cluster_id=self._session.cluster_id,
            answered_by=self._name,
            nameservers=[member_info(m) for _, m in sorted(catalog.nameservers.items())],
            coordination_connected=self._session.state is SessionState.CONNECTED and not self._session.fenced,
            problems=[*([self._session.problem] if self._session.problem else []), *self._view.current.problems()],
        )
        if leader is not None:
            member = catalog.nameservers.get(leader.name)
            response.leader, response.leader_epoch = leader.name, leader.epoch
            response.leader_address.CopyFrom(
                address(member)
                if member is not None
                else common_pb2.Address(endpoint=leader.endpoint, advertised=leader.endpoint)
            )
        return response

    def _check_fresh(self, context: Any) -> None:
        """NotReady where the view is too old, unless the caller would rather have that than nothing."""
        if not any(key == STALE_KEY for key, _ in context.invocation_metadata() or ()):
            self._view.check_fresh()

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Any) -> pb.ListNamespacesResponse:
        self._check_fresh(context)
        return pb.ListNamespacesResponse(namespaces=self._view.current.namespaces())

    async def ListTopics(self, request: pb.ListTopicsRequest, context: Any) -> pb.ListTopicsResponse:
        self._check_fresh(context)
        return pb.ListTopicsResponse(topics=self._view.current.topics(request.namespace))

    async def Lookup(self, request: pb.LookupRequest, context: Any) -> pb.LookupResponse:
        self._check_fresh(context)
        await self._catch_up(request.topic)
        found = self._view.current.lookup(request.topic)
        found.as_of.CopyFrom(self._view.as_of)
        found.age_ms = round(self._view.age_s * 1000)
        return found

    async def ResolveStore(self, request: pb.ResolveStoreRequest, context: Any) -> pb.ResolveStoreResponse:
        self._check_fresh(context)
        return self._view.current.resolve(request.store_id)

    async def ListStores(self, request: pb.ListStoresRequest, context: Any) -> pb.ListStoresResponse:
        self._check_fresh(context)
        return pb.ListStoresResponse(stores=self._view.current.stores())

    async def ListTrash(self, request: pb.ListTrashRequest, context: Any) -> pb.ListTrashResponse:
        self._check_fresh(context)
        return pb.ListTrashResponse(stores=await list_trash(self._view.current.catalog, self._channels))

    async def ListOperations(self, request: pb.ListOperationsRequest, context: Any) -> pb.ListOperationsResponse:
        self._check_fresh(context)
        return pb.ListOperationsResponse(operations=operations(self._view.current))

    async def ListBrokers(self, request: pb.ListBrokersRequest, context: Any) -> pb.ListBrokersResponse:
        self._check_fresh(context)
        return pb.ListBrokersResponse(brokers=self._view.current.brokers())

    async def ListNameservers(self, request: pb.ListNameserversRequest, context: Any) -> pb.ListNameserversResponse:
        self._check_fresh(context)
        return pb.ListNameserversResponse(nameservers=self._view.current.nameservers())

    async def ListPartitions(self, request: pb.ListPartitionsRequest, context: Any) -> pb.ListPartitionsResponse:
        self._check_fresh(context)
        if request.topic:
            await self._catch_up(request.topic)
        return pb.ListPartitionsResponse(partitions=self._view.current.partitions(request.topic))

    async def _catch_up(self, topic: str) -> None:
        """Who has just created a topic through one nameserver finds it at every other: a topic that the view lacks is looked
        for in ZooKeeper before it is said not to exist.  CoordinationUnknown where that gives no answer."""
        parse_topic(topic)
        if topic in self._view.current.catalog.topics:
            return
        await self._session.sync(timeout_s=CATCH_UP_S)
        if await self._session.exists(topic_path(topic), timeout_s=CATCH_UP_S) is not None:
            deadline = asyncio.get_running_loop().time() + CATCH_UP_S
            await self._view.until(lambda view: topic in view.catalog.topics, deadline)

    # --- streams ----------------------------------------------------------------------------------------------------

    async def WatchRouting(self, request: pb.WatchRoutingRequest, context: Any) -> AsyncIterator[pb.Routing]:
        while True:
            self._check_fresh(context)
            routing = self._view.routing()
            routing.as_of.CopyFrom(self._view.as_of)
            routing.age_ms = round(self._view.age_s * 1000)
            yield routing
            await asyncio.sleep(ROUTING_INTERVAL_S)
            heartbeat_at = asyncio.get_running_loop().time() + ROUTING_HEARTBEAT_S
            sent = routing.revision
            await self._view.until(lambda _, sent=sent: self._view.routing().revision != sent, heartbeat_at)  # type: ignore[misc]

    async def Events(self, request: pb.EventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        buffer = self._view.events
        async with aclosing(buffer.read(request)) as events:
            async for event in events:
                yield pb.Event(
                    id=event.id,
                    time_ms=event.time_ms,
                    kind=event.kind,
                    subject=event.subject,
                    facts=event.facts,
                    teller=buffer.teller,
                    age_ms=buffer.age_ms(event),
                )
