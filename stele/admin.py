"""Looking at a cluster and changing what is in it.

Guarantee: a change that returned is recorded and survives any single crash; one that raised an indefinite error may have happened.
Reads are answered by any nameserver and may lag a moment behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from stele import arguments
from stele.alteration import COUNT_MAX, Alterations, read_topic, retention_asked
from stele.broker_calls import BrokerCalls, over_partitions
from stele.cause_calls import CauseCalls, read_event
from stele.consumer import check_start, check_target
from stele.event_feed import EventFeed
from stele.model import (
    BrokerInfo,
    ClusterInfo,
    Event,
    FinalizedUpgrade,
    MemberFormat,
    MemberInfo,
    NameserverInfo,
    NamespaceInfo,
    StoreInfo,
    SubscriptionInfo,
    TopicInfo,
)
from stele.operations import READ_TIMEOUT_S, WRITE_TIMEOUT_S
from stele.partition_consumer import set_start
from stele.routing import TopicRoutes
from stele.services.errors import ConnectionBroken, PartitionNotFound, SteleError, SubscriptionNotFound, Timeout
from stele.services.library_log import LibraryLog
from stele.services.pb import broker_pb2, nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.status import typed_errors
from stele.services.topics import Retention, check_name, check_retention, parse_topic
from stele.stop_calls import StopCalls

CONNECT_TIMEOUT_S = 2.0
RECONNECT_PAUSE_S = 0.2
_TYPES = {broker_pb2.EXCLUSIVE: "exclusive", broker_pb2.FAILOVER: "failover", broker_pb2.SHARED: "shared"}


class Admin(CauseCalls, StopCalls, Alterations):
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
            record_format=c.record_format,
            known_format=c.known_format,
        )

    async def list_nameservers(self) -> list[NameserverInfo]:
        answer = await self._read("ListNameservers", nameserver_pb2.ListNameserversRequest())
        return [NameserverInfo(n.name, _member(n.member), n.leader, n.epoch) for n in answer.nameservers]

    async def list_brokers(self) -> list[BrokerInfo]:
        answer = await self._read("ListBrokers", nameserver_pb2.ListBrokersRequest())
        return [
            BrokerInfo(b.name, b.live, _member(b.member) if b.HasField("member") else None, tuple(b.bundles), b.drained)
            for b in answer.brokers
        ]

    async def list_stores(self) -> list[StoreInfo]:
        answer = await self._read("ListStores", nameserver_pb2.ListStoresRequest())
        return [_store(s) for s in answer.stores]

    async def adopt_orphans(self, topic: str, *, topic_id: int = 0, partitions: int = 0) -> TopicInfo:
        """A topic of which nothing is recorded is again what the stores hold of it.  ``topic_id``: which one, where several had that
        name; ``partitions``: how many it had, if some are lost and are to begin empty.  Raises TopicNotFound where there is no such
        orphan, TopicExists where another topic has its name, NotReady while stores are away that hold what is not certain."""
        parse_topic(topic)
        arguments.whole("topic_id", topic_id, 0, (1 << 63) - 1)
        arguments.whole("partitions", partitions, 0, COUNT_MAX)
        request = nameserver_pb2.AdoptOrphansRequest(topic=topic, topic_id=topic_id, partitions=partitions)
        return read_topic((await self._write("AdoptOrphans", request)).topic)

    async def recover_metadata(self) -> None:
        """Goes on with an older copy of ZooKeeper's records: epoch and ids rise above what the stores have seen, so that none is given
        out twice; what the older copy lacks remains as orphans.  NotReady while a registered datanode is not ready."""
        await self._write("RecoverMetadata", nameserver_pb2.RecoverMetadataRequest())

    async def finalize_upgrade(self, *, dry_run: bool = False) -> FinalizedUpgrade:
        """The cluster is at the highest record format that any process knows; with ``dry_run``: would be, as ``members`` say.  No process
        that does not know it can join from then on, and there is no way back.  FinalizeRefused while one that is recorded knows less, or
        is not registered: nothing has changed then."""
        request = nameserver_pb2.FinalizeUpgradeRequest(dry_run=arguments.flag("dry_run", dry_run))
        done = await self._write("FinalizeUpgrade", request)
        members = tuple(MemberFormat(m.name, m.kind, m.knows, m.version, m.hindrance) for m in done.members)
        return FinalizedUpgrade(done.before, done.format, members)

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
            self._client.check_open()
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
                        yield read_event(event)
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
        return [_namespace(n) for n in answer.namespaces]

    async def alter_namespace(
        self,
        namespace: str,
        *,
        replication: int = 0,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
    ) -> NamespaceInfo:
        """What its new topics are given that ask for nothing else; those that exist stay as they are.  ``replication`` 0 and None: as
        before; a bound of 0: none.  Raises NamespaceNotFound, InvalidArgument."""
        check_name("namespace", namespace)
        arguments.whole("replication", replication, 0, COUNT_MAX)
        retention = retention_asked(retention_bytes, retention_ms)
        request = nameserver_pb2.AlterNamespaceRequest(
            namespace=namespace, replication=replication, retention=retention
        )
        return _namespace((await self._write("AlterNamespace", request)).namespace)

    async def delete_namespace(self, namespace: str) -> None:
        """Raises NamespaceNotFound, and NamespaceNotEmpty while it has topics, those that are being deleted among them."""
        check_name("namespace", namespace)
        await self._write("DeleteNamespace", nameserver_pb2.DeleteNamespaceRequest(namespace=namespace))

    async def create_topic(
        self,
        topic: str,
        partitions: int = 1,
        replication: int = 0,
        if_absent: bool = False,
        *,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
        racks: str = "prefer",
    ) -> TopicInfo:
        """Returns when every partition has a leader.  ``replication`` 0: the namespace's default.  A message may go once the log
        of its partition is ``retention_bytes`` longer, or once it is ``retention_ms`` old; None: the namespace's default, 0: no
        such bound.  ``racks``: whether the replicas of a partition are on racks apart, as far as there are racks (prefer) or else
        nowhere (require).  Raises TopicExists, NotEnoughStores."""
        parse_topic(topic)
        arguments.whole("partitions", partitions, 1, COUNT_MAX)
        arguments.whole("replication", replication, 0, COUNT_MAX)
        arguments.flag("if_absent", if_absent)
        arguments.text("racks", racks)
        request = nameserver_pb2.CreateTopicRequest(
            topic=topic,
            partitions=partitions,
            replication=replication,
            if_absent=if_absent,
            retention=retention_asked(retention_bytes, retention_ms),
            racks=racks,
        )
        return read_topic((await self._write("CreateTopic", request)).topic)

    async def delete_topic(self, topic: str) -> None:
        """Removes a topic with all of its messages.  Raises TopicNotFound."""
        parse_topic(topic)
        await self._write("DeleteTopic", nameserver_pb2.DeleteTopicRequest(topic=topic))

    async def describe_topic(self, topic: str) -> TopicInfo:
        """Raises TopicNotFound."""
        parse_topic(topic)
        return read_topic((await self._read("Lookup", nameserver_pb2.LookupRequest(topic=topic))).topic)

    async def lookup(self, topic: str) -> TopicRoutes:
        """Which broker each partition of a topic is sent to."""
        parse_topic(topic)
        routes: TopicRoutes = await self._client.look_up(topic)
        return routes

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
                lag_ms=s.lag_ms if s.HasField("lag_ms") else None,
            )
            for answer in answers
            for s in answer.subscriptions
        ]
        return sorted(infos, key=lambda s: (s.subscription, s.partition))

    async def create_subscription(self, topic: str, subscription: str, start: int | str = "earliest") -> bool:
        """Creates it on every partition; whether it was new on any.  One that is there begins at the first message of the partitions that
        its topic was given since."""
        parse_topic(topic)
        check_name("subscription", subscription)
        check_start(start)
        created, deadline_s = False, _now_s() + WRITE_TIMEOUT_S
        begun = await self._has_begun(topic, subscription)
        # The first partition last: what is there is on all others that there are now.
        with over_partitions(topic) as changed:
            for r in reversed(await self._brokers.routes(topic, READ_TIMEOUT_S)):
                begins = "earliest" if begun else start
                if await self._create_on(topic, r.partition, subscription, begins, deadline_s - _now_s()):
                    created = True
                    changed.append(r.partition)
        return created

    async def _create_on(
        self, topic: str, partition: int, subscription: str, start: int | str, timeout_s: float
    ) -> bool:
        """Whether it was new there, or may have been."""
        request = broker_pb2.CreateSubscriptionRequest(topic=topic, partition=partition, subscription=subscription)
        set_start(request, start)
        answer, maybe_done = await self._brokers.settle(topic, partition, "CreateSubscription", request, timeout_s)
        return bool(answer.created) or maybe_done

    async def delete_subscription(self, topic: str, subscription: str) -> None:
        """Removes it from every partition, from the first one first.  Raises SubscriptionNotFound if it was certainly on none."""
        parse_topic(topic)
        check_name("subscription", subscription)
        existed, deadline_s = False, _now_s() + WRITE_TIMEOUT_S
        with over_partitions(topic) as changed:
            for r in await self._brokers.routes(topic, READ_TIMEOUT_S):
                request = broker_pb2.DeleteSubscriptionRequest(
                    topic=topic, partition=r.partition, subscription=subscription
                )
                answer, maybe_done = await self._brokers.settle(
                    topic, r.partition, "DeleteSubscription", request, deadline_s - _now_s()
                )
                if answer.existed or maybe_done:
                    existed = True
                    changed.append(r.partition)
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
        found = {}
        with over_partitions(topic) as changed:
            for p in chosen:
                seek = functools.partial(self._seek_partition, topic, p, subscription, start, timestamp_ms)
                try:
                    found[p] = await seek(deadline_s - _now_s())
                except SubscriptionNotFound:
                    if p == 0 or not await self._has_begun(topic, subscription):
                        raise
                    # Nobody has used it since the topic was given this partition.
                    await self._create_on(topic, p, subscription, "earliest", deadline_s - _now_s())
                    found[p] = await seek(deadline_s - _now_s())
                changed.append(p)
        return found

    async def _has_begun(self, topic: str, subscription: str) -> bool:
        """Whether the subscription is on the topic's first partition: then it is, or will be, on every one that there was when it began."""
        request = broker_pb2.ListSubscriptionsRequest(topic=topic, partitions=[0])
        answer = await self._brokers.call(topic, 0, "ListSubscriptions", request, READ_TIMEOUT_S)
        return any(s.subscription == subscription for s in answer.subscriptions)

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


def _namespace(n: nameserver_pb2.NamespaceInfo) -> NamespaceInfo:
    return NamespaceInfo(n.namespace, n.bundles, n.replication, n.topics, n.retention.size_bytes, n.retention.age_ms)


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
        cordoned=s.cordoned,
        rack=s.rack,
    )
