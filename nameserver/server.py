"""The Nameserver service (proto/stele/v1/nameserver.proto).

Guarantee: any nameserver answers reads, from its view, which is whole before the port opens and is kept while ZooKeeper
cannot be reached; once that lasts longer than its session, it answers only those who ask for old answers too (``STALE_KEY``),
and nobody is told that something does not exist.  A write is done by the leader, here or forwarded, and ends within its
deadline in an answer or an error that says whether it may have happened; it is forwarded once: a forwarded one that meets no
leader is NotLeader.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar, cast

from stele.nameserver.catalog_reader import topic_entry
from stele.nameserver.clusterview import ClusterView
from stele.nameserver.controller import Controller
from stele.nameserver.explanation import explain
from stele.nameserver.operations import operations, planned, planned_rebalance
from stele.nameserver.routing import BrokerRouting
from stele.nameserver.topic_writer import topic_path
from stele.nameserver.trash_listing import list_trash
from stele.nameserver.view import address, member_info, topic_info
from stele.services.clock import SYSTEM
from stele.services.coordination.session import Session, SessionState
from stele.services.errors import NoLeader, NotLeader, Unreachable
from stele.services.pb import common_pb2, nameserver_pb2_grpc
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import STALE_KEY
from stele.services.rpc.servers import left_s
from stele.services.rpc.status import typed_errors
from stele.services.topics import check_name, parse_topic

FORWARDED_KEY = "stele-forwarded-by"
TIMEOUT_DEFAULT_S = 30.0  # of a caller that gave none
LEADER_CONNECT_S = 1.0
CATCH_UP_S = 1.0
ROUTING_INTERVAL_S = 0.02
ROUTING_HEARTBEAT_S = 4.0

Servicer = TypeVar("Servicer", bound="NameserverServicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


def _at_the_leader(
    handle: Callable[[Servicer, Controller, Request, Any], Awaitable[Response]],
) -> Callable[[Servicer, Request, Any], Awaitable[Response]]:
    """Whoever leads carries the call out: this nameserver, or the one that it is forwarded to."""

    @functools.wraps(handle)
    async def handler(servicer: Servicer, request: Request, context: Any) -> Response:
        controller = servicer._lead()
        if controller is None:
            return cast(Response, await servicer._forward(handle.__name__, request, context))
        return await handle(servicer, controller, request, context)

    return handler


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
        looked_up: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        """``looked_up`` is told of each look-up how many seconds it took."""
        self._looked_up = looked_up
        self._name, self._cluster = name, cluster
        self._session, self._view, self._channels, self._controller = session, view, channels, controller

    # --- writes -----------------------------------------------------------------------------------------------------

    @_at_the_leader
    async def CreateNamespace(
        self, controller: Controller, request: pb.CreateNamespaceRequest, context: Any
    ) -> pb.CreateNamespaceResponse:
        return pb.CreateNamespaceResponse(created=await controller.create_namespace(request))

    @_at_the_leader
    async def AlterNamespace(
        self, controller: Controller, request: pb.AlterNamespaceRequest, context: Any
    ) -> pb.AlterNamespaceResponse:
        return pb.AlterNamespaceResponse(namespace=await controller.alter_namespace(request))

    @_at_the_leader
    async def DeleteNamespace(
        self, controller: Controller, request: pb.DeleteNamespaceRequest, context: Any
    ) -> pb.DeleteNamespaceResponse:
        await controller.delete_namespace(request.namespace)
        return pb.DeleteNamespaceResponse()

    @_at_the_leader
    async def CreateTopic(
        self, controller: Controller, request: pb.CreateTopicRequest, context: Any
    ) -> pb.CreateTopicResponse:
        return await controller.create_topic(request, left_s(context, TIMEOUT_DEFAULT_S))

    @_at_the_leader
    async def AlterTopic(
        self, controller: Controller, request: pb.AlterTopicRequest, context: Any
    ) -> pb.AlterTopicResponse:
        return await controller.alter_topic(request)

    @_at_the_leader
    async def DeleteTopic(
        self, controller: Controller, request: pb.DeleteTopicRequest, context: Any
    ) -> pb.DeleteTopicResponse:
        await controller.delete_topic(request.topic, left_s(context, TIMEOUT_DEFAULT_S))
        return pb.DeleteTopicResponse()

    @_at_the_leader
    async def RegisterStore(
        self, controller: Controller, request: pb.RegisterStoreRequest, context: Any
    ) -> pb.RegisterStoreResponse:
        return await controller.stores.register(request)

    @_at_the_leader
    async def RemoveOrphan(
        self, controller: Controller, request: pb.RemoveOrphanRequest, context: Any
    ) -> pb.RemoveOrphanResponse:
        await controller.orphans.remove(request.store_id, request.group, request.topic_id)
        return pb.RemoveOrphanResponse()

    @_at_the_leader
    async def AdoptOrphans(
        self, controller: Controller, request: pb.AdoptOrphansRequest, context: Any
    ) -> pb.AdoptOrphansResponse:
        record = await controller.orphans.adopt(request.topic, request.topic_id, request.partitions)
        return pb.AdoptOrphansResponse(topic=topic_info(topic_entry(request.topic, record)))

    @_at_the_leader
    async def RecoverMetadata(
        self, controller: Controller, request: pb.RecoverMetadataRequest, context: Any
    ) -> pb.RecoverMetadataResponse:
        before, after = await controller.guard.recover()
        return pb.RecoverMetadataResponse(before=before.message(), after=after.message())

    @_at_the_leader
    async def FinalizeUpgrade(
        self, controller: Controller, request: pb.FinalizeUpgradeRequest, context: Any
    ) -> pb.FinalizeUpgradeResponse:
        upgrade = controller.upgrade
        done = await (upgrade.plan() if request.dry_run else upgrade.finalize())
        why = dict(done.hindrances)
        members = [
            pb.MemberFormat(name=m.name, kind=m.kind, knows=m.knows, version=m.version, hindrance=why.get(m.name, ""))
            for m in done.members
        ]
        return pb.FinalizeUpgradeResponse(before=done.at, format=done.to, members=members)

    @_at_the_leader
    async def MovePartition(
        self, controller: Controller, request: pb.MovePartitionRequest, context: Any
    ) -> pb.MovePartitionResponse:
        await controller.relocation.move(request.group, request.from_store_id, request.to_store_id)
        return pb.MovePartitionResponse()

    @_at_the_leader
    async def TransferPartitionLeader(
        self, controller: Controller, request: pb.TransferPartitionLeaderRequest, context: Any
    ) -> pb.TransferPartitionLeaderResponse:
        before, now = await controller.leaders.transfer(request.group, request.to_store_id)
        return pb.TransferPartitionLeaderResponse(from_store_id=before, to_store_id=now)

    @_at_the_leader
    async def DecommissionStore(
        self, controller: Controller, request: pb.DecommissionStoreRequest, context: Any
    ) -> pb.DecommissionStoreResponse:
        plan = await controller.relocation.decommission(request.store_id, request.dry_run)
        return planned(self._view.current.catalog, plan)

    @_at_the_leader
    async def RecommissionStore(
        self, controller: Controller, request: pb.RecommissionStoreRequest, context: Any
    ) -> pb.RecommissionStoreResponse:
        await controller.relocation.recommission(request.store_id)
        return pb.RecommissionStoreResponse()

    @_at_the_leader
    async def CordonStore(
        self, controller: Controller, request: pb.CordonStoreRequest, context: Any
    ) -> pb.CordonStoreResponse:
        await controller.relocation.cordon(request.store_id, request.cordoned)
        return pb.CordonStoreResponse()

    @_at_the_leader
    async def RebalanceReplicas(
        self, controller: Controller, request: pb.RebalanceReplicasRequest, context: Any
    ) -> pb.RebalanceReplicasResponse:
        plan, waits = await controller.relocation.rebalance(request.dry_run)
        return planned_rebalance(self._view.current.catalog, plan, waits)

    @_at_the_leader
    async def RemoveTombstones(
        self, controller: Controller, request: pb.RemoveTombstonesRequest, context: Any
    ) -> pb.RemoveTombstonesResponse:
        buried, skipped = await controller.relocation.remove_tombstones(request.store_ids)
        named = [pb.SkippedStore(store_id=s.store_id, name=s.name, why=why) for s, why in skipped]
        return pb.RemoveTombstonesResponse(buried=buried, skipped=named)

    @_at_the_leader
    async def MoveBundle(
        self, controller: Controller, request: pb.MoveBundleRequest, context: Any
    ) -> pb.MoveBundleResponse:
        await controller.ownership.move(request.bundle, request.broker)
        return pb.MoveBundleResponse()

    @_at_the_leader
    async def SplitBundle(
        self, controller: Controller, request: pb.SplitBundleRequest, context: Any
    ) -> pb.SplitBundleResponse:
        return pb.SplitBundleResponse(bundles=await controller.ownership.split(request.bundle))

    @_at_the_leader
    async def DrainBroker(
        self, controller: Controller, request: pb.DrainBrokerRequest, context: Any
    ) -> pb.DrainBrokerResponse:
        change = controller.ownership.drain if request.drained else controller.ownership.undrain
        await change(check_name("broker", request.broker))
        return pb.DrainBrokerResponse()

    @_at_the_leader
    async def UnloadBroker(
        self, controller: Controller, request: pb.UnloadBrokerRequest, context: Any
    ) -> pb.UnloadBrokerResponse:
        moved = await controller.ownership.unload(request.broker, request.bundles)
        return pb.UnloadBrokerResponse(moved=moved)

    @_at_the_leader
    async def CancelOperation(
        self, controller: Controller, request: pb.CancelOperationRequest, context: Any
    ) -> pb.CancelOperationResponse:
        await controller.relocation.cancel(request.id)
        return pb.CancelOperationResponse()

    @_at_the_leader
    async def SafeToStop(
        self, controller: Controller, request: pb.SafeToStopRequest, context: Any
    ) -> pb.SafeToStopResponse:
        return await controller.stops.check(request.name)

    def _lead(self) -> Controller | None:
        controller = self._controller()
        return controller if controller is not None and controller.is_open else None

    async def _forward(self, method: str, request: Any, context: Any) -> Any:
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
            return await forwarded

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
            record_format=catalog.record_format,
            known_format=catalog.known_format,
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
        return self._view.current.topics(request.namespace, request.limit, request.after)

    async def Lookup(self, request: pb.LookupRequest, context: Any) -> pb.LookupResponse:
        asked_s = asyncio.get_running_loop().time()
        try:
            self._check_fresh(context)
            await self._catch_up(request.topic)
            found = self._view.current.lookup(request.topic)
            found.as_of.CopyFrom(self._view.as_of)
            found.age_ms = round(self._view.age_s * 1000)
            return found
        finally:
            self._looked_up(asyncio.get_running_loop().time() - asked_s)

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
        return pb.ListOperationsResponse(operations=operations(self._view.current, SYSTEM.wall_ms()))

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Any) -> pb.ListBundlesResponse:
        self._check_fresh(context)
        return pb.ListBundlesResponse(bundles=self._view.current.bundles(request.namespace))

    async def ExplainPartition(self, request: pb.ExplainPartitionRequest, context: Any) -> pb.ExplainPartitionResponse:
        self._check_fresh(context)
        return explain(self._view.current, request.group)

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
        after = request.after_topic, request.after_partition
        return self._view.current.partitions(request.topic, request.limit, after)

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
        if request.broker:
            async with aclosing(self._routing_of(request.broker, context)) as told:
                async for part in told:
                    yield part
            return
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

    async def _routing_of(self, broker: str, context: Any) -> AsyncGenerator[pb.Routing, None]:
        """Each change that concerns the broker, and a word at least every ``ROUTING_HEARTBEAT_S``."""
        view, loop = self._view, asyncio.get_running_loop()
        routing = BrokerRouting(broker, view.routing_changes)
        spoken_s = float("-inf")
        while True:
            self._check_fresh(context)
            due = routing.take(view.current)
            if due or loop.time() - spoken_s >= ROUTING_HEARTBEAT_S:
                part = routing.part(view.current)
                part.answered_by = self._name
                part.as_of.CopyFrom(view.as_of)
                part.age_ms = round(view.age_s * 1000)
                yield part
                spoken_s = loop.time()
                # Between two parts others have their turn, and what changed meanwhile is taken along.
                await asyncio.sleep(0 if part.more else ROUTING_INTERVAL_S)
                if part.more:
                    continue
            await view.until(lambda _: routing.is_due, spoken_s + ROUTING_HEARTBEAT_S)

    async def Events(self, request: pb.EventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        buffer = self._view.events
        async with aclosing(buffer.read(request)) as events:
            async for event in events:
                yield pb.Event(
                    number=event.number,
                    time_ms=event.time_ms,
                    kind=event.kind,
                    subject=event.subject,
                    facts=event.facts,
                    teller=buffer.teller,
                    age_ms=buffer.age_ms(event),
                    id=event.id,
                    cause=event.cause,
                    caused_by=event.caused_by,
                    found=buffer.is_found(event),
                )
