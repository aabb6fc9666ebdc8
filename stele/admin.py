"""Looking at a cluster and changing what is in it.

Guarantee: a change that returned is recorded and survives any single crash; one that raised an indefinite error may have happened.
Reads are answered by any nameserver and may lag a moment behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from stele import arguments
from stele.broker_calls import BrokerCalls
from stele.consumer import check_start, check_target
from stele.event_feed import EventFeed
from stele.model import (
    BrokerInfo,
    ClusterInfo,
    Event,
    MemberInfo,
    NameserverInfo,
    NamespaceInfo,
    OrphanInfo,
    PartitionInfo,
    ReplicaInfo,
    StoreInfo,
    SubscriptionInfo,
    TopicInfo,
    TrashedReplica,
    TrashInfo,
)
from stele.operations import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Operations
from stele.partition_consumer import set_start
from stele.routing import TopicRoutes
from stele.services.errors import ConnectionBroken, PartitionNotFound, SteleError, SubscriptionNotFound, Timeout
from stele.services.library_log import LibraryLog
from stele.services.pb import broker_pb2, common_pb2, datanode_pb2, nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.status import typed_errors
from stele.services.topics import Retention, check_name, check_retention, parse_topic

CONNECT_TIMEOUT_S = 2.0
RECONNECT_PAUSE_S = 0.2
COUNT_MAX = (1 << 31) - 1
_STRAY = ("orphan", "stranger")
_TYPES = {broker_pb2.EXCLUSIVE: "exclusive", broker_pb2.FAILOVER: "failover", broker_pb2.SHARED: "shared"}


class Admin(Operations):
    """``client.admin``."""

    def __init__(self, nameservers: NameserverClient, brokers: BrokerCalls, client: Any, channels: Channels) -> None:
        self._nameservers, self._brokers, self._client, self._channels = nameservers, brokers, client, channels
        self._log = LibraryLog("admin")

    # --- cluster --------------------------------------------------------------------------------------------------

    async def cluster(self) -> ClusterInfo:
        """The cluster as one nameserver sees it."""
        c = await self._read("GetCluster", nameserver_pb2.GetClusterRequest())
        return ClusterInfo(
            cluster=c.cluster,
            cluster_id=c.cluster_id,
            answered_by=c.answered_by,
            leader=c.leader,
            leader_epoch=c.leader_epoch,
            coordination_connected=c.coordination_connected,
            nameservers=tuple(_member(m) for m in c.nameservers),
            problems=tuple(c.problems),
        )

    async def list_nameservers(self) -> list[NameserverInfo]:
        answer = await self._read("ListNameservers", nameserver_pb2.ListNameserversRequest())
        return [NameserverInfo(n.name, _member(n.member), n.leader, n.epoch) for n in answer.nameservers]

    async def list_brokers(self) -> list[BrokerInfo]:
        answer = await self._read("ListBrokers", nameserver_pb2.ListBrokersRequest())
        return [
            BrokerInfo(b.name, b.live, _member(b.member) if b.HasField("member") else None, tuple(b.bundles))
            for b in answer.brokers
        ]

    async def list_stores(self) -> list[StoreInfo]:
        answer = await self._read("ListStores", nameserver_pb2.ListStoresRequest())
        return [_store(s) for s in answer.stores]

    async def list_orphans(self) -> list[OrphanInfo]:
        """Replicas that stores hold and no record speaks for, as after ZooKeeper lost data."""
        answer = await self._read("ListStores", nameserver_pb2.ListStoresRequest())
        return [
            OrphanInfo(s.store_id, s.name, r.group, r.topic, r.topic_id, r.partition, r.state, r.log_bytes)
            for s in answer.stores
            for r in s.status.replicas
            if r.state in _STRAY
        ]

    async def list_trash(self) -> list[TrashInfo]:
        """What every registered store keeps of what was deleted.  One that does not answer is listed with the reason."""
        answer = await self._read("ListTrash", nameserver_pb2.ListTrashRequest())
        return [
            TrashInfo(
                s.store_id,
                s.name,
                tuple(
                    TrashedReplica(
                        r.folder, r.group, r.topic, r.topic_id, r.partition, r.size_bytes, r.age_ms, r.retention_ms
                    )
                    for r in s.replicas
                ),
                s.problem,
            )
            for s in answer.stores
        ]

    async def remove_orphan(self, orphan: OrphanInfo) -> None:
        """Its store moves it to its trash.  Raises GroupNotFound where there is no such orphan any more."""
        if not isinstance(orphan, OrphanInfo):
            raise arguments.refusal("orphan", orphan, "an OrphanInfo of list_orphans")
        for name, number in (("store_id", orphan.store_id), ("group", orphan.group), ("topic_id", orphan.topic_id)):
            arguments.whole(f"orphan: {name}", number, 0, (1 << 64) - 1)
        request = nameserver_pb2.RemoveOrphanRequest(
            store_id=orphan.store_id, group=orphan.group, topic_id=orphan.topic_id
        )
        await self._write("RemoveOrphan", request)

    async def recover_metadata(self) -> None:
        """Goes on with an older copy of ZooKeeper's records: epoch and ids rise above what the stores have seen, so that none is given
        out twice; what the older copy lacks remains as orphans.  NotReady while a registered datanode is not ready."""
        await self._write("RecoverMetadata", nameserver_pb2.RecoverMetadataRequest())

    async def events(self, follow: bool = False, since_ms: int = 0) -> AsyncIterator[Event]:
        """What happened, oldest first; with ``follow`` what happens from now on too, over nameservers that come and go, whatever their
        clocks say (after such a change the newest events may be told again)."""
        arguments.flag("follow", follow)
        since_ms = arguments.whole("since_ms", since_ms, 0, (1 << 63) - 1, "of milliseconds since 1970")
        feed = EventFeed(follow, since_ms)
        while True:
            self._client.check_open()
            try:
                async with contextlib.aclosing(self._events(feed, follow)) as events:
                    async for event in events:
                        yield event
                if not follow:
                    return
            except SteleError as e:
                if not follow:
                    raise
                self._log.debug("events_broken", reason=e.reason)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _events(self, feed: EventFeed, follow: bool) -> AsyncGenerator[Event, None]:
        error: SteleError = ConnectionBroken("no nameserver could be reached")
        for endpoint in await self._client.nameserver_endpoints():
            try:
                channel = await self._channels.connected(endpoint, CONNECT_TIMEOUT_S)
            except SteleError as e:
                error = e
                continue
            stub = nameserver_pb2_grpc.NameserverStub(channel)  # type: ignore[no-untyped-call]
            now_s = asyncio.get_running_loop().time
            stream = stub.Events(feed.request(now_s()))
            try:
                while True:
                    try:
                        async with asyncio.timeout(None if follow else READ_TIMEOUT_S):
                            with typed_errors():
                                event = await stream.read()
                    except TimeoutError:
                        raise Timeout(f"{endpoint} was silent", timeout_s=READ_TIMEOUT_S) from None
                    if event is grpc.aio.EOF:  # type: ignore[attr-defined]
                        return
                    if feed.takes(event, now_s()):
                        yield Event(event.id, event.time_ms, event.kind, event.subject, dict(event.facts))
            finally:
                stream.cancel()
        raise error

    # --- topics ---------------------------------------------------------------------------------------------------

    async def create_namespace(
        self,
        namespace: str,
        *,
        bundles: int = 0,
        replication: int = 0,
        retention_bytes: int = 0,
        retention_ms: int = 0,
        if_absent: bool = True,
    ) -> bool:
        """Whether it was created; 0: the cluster's defaults, and messages that are kept for ever."""
        check_name("namespace", namespace)
        arguments.whole("bundles", bundles, 0, COUNT_MAX)
        arguments.whole("replication", replication, 0, COUNT_MAX)
        arguments.flag("if_absent", if_absent)
        retention = check_retention(Retention(retention_bytes, retention_ms))
        request = nameserver_pb2.CreateNamespaceRequest(
            namespace=namespace,
            bundles=bundles,
            replication=replication,
            if_absent=if_absent,
            retention=retention.message(),
        )
        return bool((await self._write("CreateNamespace", request)).created)

    async def list_namespaces(self) -> list[NamespaceInfo]:
        answer = await self._read("ListNamespaces", nameserver_pb2.ListNamespacesRequest())
        return [
            NamespaceInfo(n.namespace, n.bundles, n.replication, n.topics, n.retention.size_bytes, n.retention.age_ms)
            for n in answer.namespaces
        ]

    async def create_topic(
        self,
        topic: str,
        partitions: int = 1,
        replication: int = 0,
        if_absent: bool = False,
        *,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
    ) -> TopicInfo:
        """Returns when every partition has a leader.  ``replication`` 0: the namespace's default.  A message may go once the log
        of its partition is ``retention_bytes`` longer, or once it is ``retention_ms`` old; None: the namespace's default, 0: no
        such bound.  Raises TopicExists, NotEnoughStores."""
        parse_topic(topic)
        arguments.whole("partitions", partitions, 1, COUNT_MAX)
        arguments.whole("replication", replication, 0, COUNT_MAX)
        arguments.flag("if_absent", if_absent)
        request = nameserver_pb2.CreateTopicRequest(
            topic=topic,
            partitions=partitions,
            replication=replication,
            if_absent=if_absent,
            retention=_retention(retention_bytes, retention_ms),
        )
        return _topic((await self._write("CreateTopic", request)).topic)

    async def alter_topic(
        self, topic: str, *, retention_bytes: int | None = None, retention_ms: int | None = None
    ) -> TopicInfo:
        """Returns once the change is recorded; the replicas follow within moments.  None: stays as it is.  What has been
        removed does not come back.  Raises TopicNotFound."""
        parse_topic(topic)
        request = nameserver_pb2.AlterTopicRequest(topic=topic, retention=_retention(retention_bytes, retention_ms))
        return _topic((await self._write("AlterTopic", request)).topic)

    async def delete_topic(self, topic: str) -> None:
        """Removes a topic with all of its messages.  Raises TopicNotFound."""
        parse_topic(topic)
        await self._write("DeleteTopic", nameserver_pb2.DeleteTopicRequest(topic=topic))

    async def list_topics(self, namespace: str = "") -> list[TopicInfo]:
        arguments.text("namespace", namespace)
        answer = await self._read("ListTopics", nameserver_pb2.ListTopicsRequest(namespace=namespace))
        return [_topic(t) for t in answer.topics]

    async def describe_topic(self, topic: str) -> TopicInfo:
        """Raises TopicNotFound."""
        parse_topic(topic)
        return _topic((await self._read("Lookup", nameserver_pb2.LookupRequest(topic=topic))).topic)

    async def lookup(self, topic: str) -> TopicRoutes:
        """Which broker each partition of a topic is sent to."""
        parse_topic(topic)
        routes: TopicRoutes = await self._client.look_up(topic)
        return routes

    async def list_partitions(self, topic: str = "") -> list[PartitionInfo]:
        """Partitions with their replicas as the datanodes reported them; "": of every topic."""
        if topic != "":
            parse_topic(topic)
        answer = await self._read("ListPartitions", nameserver_pb2.ListPartitionsRequest(topic=topic))
        return [_partition(p) for p in answer.partitions]

    # --- subscriptions --------------------------------------------------------------------------------------------

    async def list_subscriptions(self, topic: str) -> list[SubscriptionInfo]:
        """Every subscription on every partition of a topic."""
        parse_topic(topic)
        routes = await self._brokers.routes(topic, READ_TIMEOUT_S)
        answers = await asyncio.gather(
            *(
                self._brokers.call(
                    topic,
                    r.partition,
                    "ListSubscriptions",
                    broker_pb2.ListSubscriptionsRequest(topic=topic, partitions=[r.partition]),
                    READ_TIMEOUT_S,
                )
                for r in routes
            )
        )
        infos = [
            SubscriptionInfo(
                topic=s.topic,
                partition=s.partition,
                subscription=s.subscription,
                type=_TYPES.get(s.type, ""),
                ack_floor=s.ack_floor,
                backlog=s.backlog,
                unacked=s.unacked,
                consumers=tuple(s.consumers),
            )
            for answer in answers
            for s in answer.subscriptions
        ]
        return sorted(infos, key=lambda s: (s.subscription, s.partition))

    async def create_subscription(self, topic: str, subscription: str, start: int | str = "earliest") -> bool:
        """Creates it on every partition; whether it was new on any."""
        parse_topic(topic)
        check_name("subscription", subscription)
        check_start(start)
        created, deadline_s = False, _now_s() + WRITE_TIMEOUT_S
        for r in await self._brokers.routes(topic, READ_TIMEOUT_S):
            request = broker_pb2.CreateSubscriptionRequest(
                topic=topic, partition=r.partition, subscription=subscription
            )
            set_start(request, start)
            answer, maybe_done = await self._brokers.settle(
                topic, r.partition, "CreateSubscription", request, deadline_s - _now_s()
            )
            created = created or answer.created or maybe_done
        return created

    async def delete_subscription(self, topic: str, subscription: str) -> None:
        """Removes it from every partition.  Raises SubscriptionNotFound if it was certainly on none."""
        parse_topic(topic)
        check_name("subscription", subscription)
        existed, deadline_s = False, _now_s() + WRITE_TIMEOUT_S
        for r in await self._brokers.routes(topic, READ_TIMEOUT_S):
            request = broker_pb2.DeleteSubscriptionRequest(
                topic=topic, partition=r.partition, subscription=subscription
            )
            answer, maybe_done = await self._brokers.settle(
                topic, r.partition, "DeleteSubscription", request, deadline_s - _now_s()
            )
            existed = existed or answer.existed or maybe_done
        if not existed:
            raise SubscriptionNotFound(f"{topic} has no subscription {subscription!r}")

    async def seek_subscription(
        self,
        topic: str,
        subscription: str,
        to: int | str | None = None,
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> dict[int, int]:
        """Moves a subscription for all of its consumers; the new position of each partition.  See ``Consumer.seek``."""
        parse_topic(topic)
        check_name("subscription", subscription)
        start = check_target(to, timestamp_ms)
        if partition is not None:
            arguments.whole("partition", partition, 0, COUNT_MAX)
        routes = await self._brokers.routes(topic, READ_TIMEOUT_S)
        chosen = [r.partition for r in routes if partition is None or r.partition == partition]
        if not chosen:
            raise PartitionNotFound(f"{topic} has partitions 0 to {len(routes) - 1}, not {partition}")
        deadline_s = _now_s() + WRITE_TIMEOUT_S
        return {
            p: await self._seek_partition(topic, p, subscription, start, timestamp_ms, deadline_s - _now_s())
            for p in chosen
        }

    async def _seek_partition(
        self,
        topic: str,
        partition: int,
        subscription: str,
        start: int | str,
        timestamp_ms: int | None,
        timeout_s: float = WRITE_TIMEOUT_S,
    ) -> int:
        request = broker_pb2.SeekSubscriptionRequest(topic=topic, partition=partition, subscription=subscription)
        if timestamp_ms is not None:
            request.timestamp_ms = timestamp_ms
        else:
            set_start(request, start)
        answer = await self._brokers.call(topic, partition, "SeekSubscription", request, timeout_s)
        return int(answer.position)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _retention(size_bytes: int | None, age_ms: int | None) -> common_pb2.Retention:
    """The bounds that are asked for; None: nothing is said of it.  Raises InvalidArgument."""
    # BEFORE the message is made: it refuses numbers out of its range as a bare ValueError.
    check_retention(Retention(0 if size_bytes is None else size_bytes, 0 if age_ms is None else age_ms))
    return common_pb2.Retention(size_bytes=size_bytes, age_ms=age_ms)


def _topic(t: nameserver_pb2.TopicInfo) -> TopicInfo:
    return TopicInfo(
        t.topic, t.id, t.partitions, t.replication, t.state, t.created_ms, t.retention.size_bytes, t.retention.age_ms
    )


def _member(m: nameserver_pb2.Member) -> MemberInfo:
    return MemberInfo(
        name=m.name,
        endpoint=m.address.endpoint,
        advertised=m.address.advertised or m.address.endpoint,
        state=m.state,
        version=m.version,
        started_ms=m.started_ms,
        store_id=m.store_id,
        raft_endpoint=m.raft_endpoint,
    )


def _store(s: nameserver_pb2.StoreInfo) -> StoreInfo:
    replicas = s.status.replicas
    return StoreInfo(
        store_id=s.store_id,
        name=s.name,
        state=s.state,
        live=s.live,
        member=_member(s.member) if s.HasField("member") else None,
        status=s.status.state,
        loaded=s.status.loaded,
        total=s.status.total,
        leaders=sum(r.state == "leader" for r in replicas),
        replicas=len(replicas),
        disk_free_bytes=s.status.disk_free_bytes,
        problems=tuple(f"{r.topic}-{r.partition}: {r.problem}" for r in replicas if r.problem),
    )


def _partition(p: nameserver_pb2.PartitionInfo) -> PartitionInfo:
    reports: dict[int, datanode_pb2.ReplicaStatus] = {r.store_id: r.status for r in p.reports}
    return PartitionInfo(
        topic=p.topic,
        partition=p.route.partition,
        group=p.route.group,
        bundle=p.route.bundle,
        broker=p.route.broker,
        broker_address=p.route.broker_address.endpoint,
        owner_epoch=p.route.owner_epoch,
        leader_store_id=p.route.leader_store_id,
        replicas=tuple(_replica(r, reports.get(r.store_id)) for r in p.route.replicas),
    )


def _replica(r: nameserver_pb2.Replica, status: datanode_pb2.ReplicaStatus | None) -> ReplicaInfo:
    if status is None:
        return ReplicaInfo(r.store_id, r.endpoint, r.state, problem=r.problem)
    return ReplicaInfo(
        store_id=r.store_id,
        endpoint=r.endpoint,
        state=r.state or status.state,
        term=status.term,
        commit_index=status.commit_index,
        last_index=status.last_index,
        high_watermark=status.high_watermark,
        log_bytes=status.log_bytes,
        problem=status.problem,
        log_start=status.log_start_offset,
    )
