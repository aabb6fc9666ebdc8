"""The partitions that this broker serves: opened on first use, closed as soon as their bundle is not its own.

Guarantee: a partition is served only after its group was fenced with this broker's epoch, so that a former owner's
writes are refused from then on (R5.10); once ownership ends its producers are told NotOwner at once and its consumers as
soon as what they acknowledged is written, while appends that have left are answered with what became of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable, Iterator

import structlog

from stele.broker.cache import BatchCache
from stele.broker.datanode_clients import DatanodeClients
from stele.broker.dispatch import Dispatch
from stele.broker.metrics import BrokerMetrics
from stele.broker.ownership import Key, Ownership, PartitionRoute, RoutingTable
from stele.broker.partition_client import PartitionClient
from stele.broker.pipeline import Pipeline
from stele.broker.produce import PartitionProducer
from stele.broker.traffic import Traffic, TrafficOfBundles
from stele.services.batch import BatchHeader
from stele.services.bundles import holds
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import (
    Fenced,
    NotOwner,
    NotReady,
    PartitionNotFound,
    SteleError,
    TopicNotFound,
    TopicReplaced,
)
from stele.services.pb import nameserver_pb2
from stele.services.rpc.channels import Channels
from stele.services.tasks import Tasks
from stele.services.topics import parse_topic

ROUTE_WAIT_S = 1.0  # for a topic that was created a moment ago
MISSING_MAX = 1_000
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
HANDOVER_TIMEOUT_S = 1.0  # for acknowledgements of consumers that are closed because another broker owns the partition
TICK_S = 0.1

Build = Callable[[PartitionRoute, int, DatanodeClients], PartitionClient]

_log = structlog.get_logger()


class OwnedPartition:
    """One partition under one owner epoch."""

    def __init__(
        self,
        client: PartitionClient,
        cache: BatchCache,
        *,
        inflight_appends_max: int,
        ack_flush_interval_s: float,
        on_deposed: Callable[[OwnedPartition, SteleError], None],
        on_failed: Callable[[OwnedPartition, str, BaseException], None],
        metrics: BrokerMetrics,
        traffic: Traffic,
        clock: Clock,
    ) -> None:
        self.client = client
        self.traffic = traffic
        self.closed: SteleError | None = None
        self._on_deposed = on_deposed
        tasks_failed = functools.partial(on_failed, self)
        self._settled = asyncio.Event()  # opened or closed
        self.dispatch = Dispatch(
            client,
            cache,
            ack_flush_interval_s=ack_flush_interval_s,
            on_deposed=self._deposed,
            on_failed=tasks_failed,
            metrics=metrics,
            clock=clock,
        )
        self.producer = PartitionProducer(
            client,
            Pipeline.unopened(inflight_appends_max),
            on_stored=self._stored,
            on_deposed=self._deposed,
            on_failed=tasks_failed,
            metrics=metrics,
            clock=clock,
        )
        self._tasks = Tasks(tasks_failed)
        self._tasks.start(self._open())

    async def _open(self) -> None:
        try:
            state = await self.client.open()
        except Fenced as e:
            self._deposed(e)
            return
        # The cursors BEFORE anyone is let in: a consumer that came earlier would be handed what it had acknowledged at the former owner.
        # Appends flow last, so that dispatch knows where the log ended before this owner's first batch.
        self.dispatch.opened(state)
        self._settled.set()
        self.producer.opened()
        route = self.client.route
        _log.info("partition_opened", topic=route.topic, partition=route.partition, epoch=self.client.epoch)

    def _stored(self, base_offset: int, header: BatchHeader, batch: bytes | None) -> None:
        self.traffic.count(header.record_count, header.length)
        self.dispatch.stored(base_offset, header, batch)

    async def opened(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Raises what closed it, or NotReady."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise NotReady(f"the partition has had no leader for {timeout_s:g} s") from None
        if self.closed is not None:
            raise self.closed

    def close(self, error: SteleError) -> None:
        """Takes nothing more and tells everyone; ``finish`` waits for what is under way."""
        self._refuse(error)
        self.dispatch.close(error)

    async def hand_over(self, error: SteleError) -> None:
        """Takes nothing more at once; consumers hear of it once what they acknowledged is written."""
        self._refuse(error)
        await self.dispatch.hand_over(error, HANDOVER_TIMEOUT_S)
        await self.finish()

    def _refuse(self, error: SteleError) -> None:
        if self.closed is None:
            self.closed = error
            self._settled.set()
            self.producer.close(error)

    async def finish(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.producer.drained()
        await self._tasks.cancel()
        await self.producer.stop()
        await self.dispatch.stop()
        await self.client.close()

    def _deposed(self, error: SteleError) -> None:
        self._on_deposed(self, error)


class OwnedPartitions:
    """Everything that this broker serves."""

    def __init__(
        self,
        broker: str,
        channels: Channels,
        *,
        is_absent: Callable[[str], Awaitable[bool]],
        inflight_appends_max: int = 8,
        ack_flush_interval_s: float = 0.03,
        cache: BatchCache | None = None,
        metrics: BrokerMetrics | None = None,
        clock: Clock = SYSTEM,
        build: Build | None = None,
    ) -> None:
        """``is_absent`` asks a nameserver whether there certainly is no topic of that name."""
        self._is_absent = is_absent
        self.ownership = Ownership(broker)
        self.routes = RoutingTable()
        self._broker_states: dict[str, str] = {}
        self.has_successor = False  # whether another broker could take over
        self._broker = broker
        self._datanodes = DatanodeClients(channels)
        self._inflight_appends_max, self._ack_flush_interval_s = inflight_appends_max, ack_flush_interval_s
        self._cache = cache or BatchCache()
        self.metrics = metrics or BrokerMetrics()
        self._clock = clock
        self._build = build or PartitionClient
        self._owned: dict[Key, OwnedPartition] = {}
        self._traffic = TrafficOfBundles()
        self._finishing = Tasks()
        self._changed = asyncio.Event()
        self._missing_until_s: dict[str, float] = {}
        self._ticking = Tasks().keep(self._tick, "producers")
        self._stopped: SteleError | None = None

    # --- what nameservers and ZooKeeper say -----------------------------------------------------------------------

    def observe(self, routing: nameserver_pb2.Routing) -> None:
        gone = self.routes.observe(routing, self._clock.monotonic())
        self._datanodes.observe(self.routes.endpoints)
        if not routing.changes:
            self._broker_states.clear()
        self._broker_states |= {m.name: m.state for m in routing.brokers}
        for name in routing.gone_brokers:
            self._broker_states.pop(name, None)
        self.has_successor = any(n != self._broker and state == "ready" for n, state in self._broker_states.items())
        for key in gone:
            self._close(key, TopicNotFound(f"topic {key[0]} was deleted", topic=key[0]))
        self._ownership_changed(self.ownership.observe(routing))
        for key in self._owned if not routing.changes else self._owned.keys() & self.routes.named:
            owned = self._owned[key]
            route = self.routes.get(*key)
            if route is not None and route is not owned.client.route:
                owned.client.moved(route)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def void(self) -> None:
        """ZooKeeper's session is lost: nothing is owned until it is assigned anew."""
        lost = self.ownership.void()
        if lost:
            _log.warning("ownership_void", bundles=len(lost))
        self._ownership_changed(lost)

    def _ownership_changed(self, bundles: set[str]) -> None:
        for bundle in sorted(bundles):
            epoch = self.ownership.epoch(bundle)
            _log.info("bundle_owned" if epoch is not None else "bundle_lost", bundle=bundle, epoch=epoch)
        for key, owned in list(self._owned.items()):
            route = owned.client.route
            if route.bundle in bundles and self.ownership.epoch(route.bundle) != owned.client.epoch:
                self._hand_over(key, _not_owner(route))
        self.metrics.bundles.set(len(self.ownership.owned))

    def _deposed(self, owned: OwnedPartition, error: SteleError) -> None:
        """A partition has seen a higher epoch than this broker's: whatever the nameservers said, it is not the owner (R5.10)."""
        route = owned.client.route
        seen = error.facts.get("seen", "")
        epoch = int(seen) if seen.isdigit() else owned.client.epoch + 1
        _log.warning(
            "owner_deposed", topic=route.topic, partition=route.partition, epoch=owned.client.epoch, seen=epoch
        )
        if self.ownership.fenced(route.bundle, epoch):
            self._ownership_changed({route.bundle})
        key = (route.topic, route.partition)
        if self._owned.get(key) is owned:
            self._close(key, _not_owner(route))

    def _failed(self, owned: OwnedPartition, task: str, error: BaseException) -> None:
        """A fault of this program: the partition is opened anew at its next use."""
        route = owned.client.route
        _log.error("partition_failed", topic=route.topic, partition=route.partition, task=task, exc_info=error)
        if self._owned.get((route.topic, route.partition)) is owned:
            self._close((route.topic, route.partition), NotReady("serving the partition failed; it is opened anew"))

    # --- serving --------------------------------------------------------------------------------------------------

    def get(self, topic: str, partition: int, topic_id: int = 0, owner_epoch: int = 0) -> OwnedPartition | None:
        """What is served already; see ``find``."""
        owned = self._owned.get((topic, partition))
        if owned is None or topic_id not in (0, owned.client.route.topic_id) or owned.client.epoch < owner_epoch:
            return None
        return owned

    async def find(self, topic: str, partition: int, topic_id: int = 0, owner_epoch: int = 0) -> OwnedPartition:
        """The partition of the topic that has this name and, unless it is 0, this id, owned under ``owner_epoch`` or a later one: a process
        that stood still may be assigned anew what others owned meanwhile before it hears that it had lost it.  Raises InvalidArgument,
        TopicNotFound, TopicReplaced, PartitionNotFound, NotOwner.  Waits a moment for what is not known yet."""
        if (known := self.get(topic, partition, topic_id, owner_epoch)) is not None:
            return known
        parse_topic(topic)
        now_s = self._clock.monotonic()
        wait_s = 0.0 if self._missing_until_s.get(topic, 0.0) > now_s else ROUTE_WAIT_S
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    changed = self._changed
                    if (owned := self._serve(topic, partition, topic_id, owner_epoch)) is not None:
                        self._missing_until_s.pop(topic, None)
                        return owned
                    await changed.wait()
        except TimeoutError:
            pass
        if len(self._missing_until_s) >= MISSING_MAX:
            self._missing_until_s.clear()
        self._missing_until_s[topic] = self._clock.monotonic() + ROUTE_WAIT_S
        if not self.routes.seen:
            raise NotReady("this broker has not heard from a nameserver yet")
        self._check_topic(topic, topic_id)
        if topic in self.routes.creating:
            raise NotReady(f"the topic {topic} is still being created", topic=topic)
        route = self.routes.get(topic, partition)
        if route is not None:
            raise _not_owner(route)
        if topic_id or not await self._is_absent(topic):
            # Whoever knows its id has it from a nameserver, which says better than this broker whether it is still there.
            # Without an id a nameserver is asked: that this broker has not heard of a topic says nothing.
            raise NotReady(f"this broker does not know of that topic {topic} yet: look it up again", topic=topic)
        raise TopicNotFound(f"there is no topic {topic}", topic=topic)

    def _check_topic(self, topic: str, topic_id: int) -> None:
        """Raises TopicReplaced where the topic that is known by this name is another one than is meant."""
        known = self.routes.topic_ids.get(topic, topic_id)
        if topic_id and known != topic_id:
            raise TopicReplaced(
                f"{topic} is the topic with the id {known} here, not {topic_id}", expected=topic_id, got=known
            )

    def _serve(self, topic: str, partition: int, topic_id: int, owner_epoch: int) -> OwnedPartition | None:
        """None: not known, or not ready, yet."""
        if self._stopped is not None:
            raise self._stopped
        if topic_id > self.routes.topic_ids.get(topic, topic_id):
            return None  # ids only rise: the one that is known here is the former topic
        self._check_topic(topic, topic_id)
        key = (topic, partition)
        if key in self._owned:
            return self.get(topic, partition, topic_id, owner_epoch)
        if topic in self.routes.creating:
            # A replica that acknowledged, and was lost before it was recorded, would be made anew as if it had promised nothing.
            return None
        route = self.routes.get(topic, partition)
        if route is None:
            partitions = self.routes.partitions.get(topic, partition + 1)
            # Whoever knows the topic's id has it from a nameserver, which may have said before this broker heard it that it has grown.
            if partition >= partitions and not topic_id:
                raise PartitionNotFound(
                    f"topic {topic} has the partitions 0 to {partitions - 1}, not {partition}",
                    topic=topic,
                    partition=partition,
                )
            if self.routes.filtered and topic in self.routes.topic_ids:
                # Of partitions that are another broker's nothing was told: whose they are follows from their bundle.
                known = [b for b in self.ownership.known if holds(b, topic, partition)]
                if known and not any(self.ownership.epoch(b) is not None for b in known):
                    raise _not_owned(topic, partition, known[0])
            return None
        epoch = self.ownership.epoch(route.bundle)
        if epoch is None:
            if self.ownership.is_known(route.bundle):
                raise _not_owner(route)
            return None
        if epoch < owner_epoch:
            return None
        self._owned[key] = owned = OwnedPartition(
            self._build(route, epoch, self._datanodes),
            self._cache,
            inflight_appends_max=self._inflight_appends_max,
            ack_flush_interval_s=self._ack_flush_interval_s,
            on_deposed=self._deposed,
            on_failed=self._failed,
            metrics=self.metrics,
            traffic=self._traffic.of(route.bundle, epoch),
            clock=self._clock,
        )
        self.metrics.partitions.set(len(self._owned))
        return owned

    def routes_of(self, topic: str) -> list[PartitionRoute]:
        """The partitions of ``topic`` that this broker owns."""
        return [r for r in self.routes.of_topic(topic) if self.ownership.epoch(r.bundle) is not None]

    def traffic(self) -> dict[str, tuple[int, Traffic]]:
        """Epoch, and what has gone through it, of each bundle that this broker owns."""
        return self._traffic.total(self.ownership.owned)

    def backlogs(self) -> Iterator[tuple[str, str, int, float | None]]:
        """Topic, subscription, messages behind, and seconds where that is known; of each partition that is opened."""
        for (topic, _), owned in self._owned.items():
            for subscription, messages, lag_s in owned.dispatch.backlogs():
                yield topic, subscription, messages, lag_s

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S * random.uniform(0.9, 1.1))
            for owned in list(self._owned.values()):
                try:
                    owned.producer.tick()
                except Exception as e:  # its own affair: the others' deadlines pass all the same
                    self._failed(owned, "tick", e)

    # --- the end --------------------------------------------------------------------------------------------------

    def _close(self, key: Key, error: SteleError) -> None:
        if (owned := self._take_out(key)) is not None:
            owned.close(error)
            self._finishing.start(owned.finish())

    def _hand_over(self, key: Key, error: SteleError) -> None:
        if (owned := self._take_out(key)) is not None:
            self._finishing.start(owned.hand_over(error))

    def _take_out(self, key: Key) -> OwnedPartition | None:
        owned = self._owned.pop(key, None)
        if owned is not None:
            self._cache.forget(owned.client.group)
            self.metrics.partitions.set(len(self._owned))
        return owned

    async def drain(self) -> None:
        """Hands every partition back, with the acknowledgements that there are."""
        # BEFORE they are handed back: what was taken on meanwhile would be left as it is.
        self._stopped = NotOwner(f"{self._broker} is shutting down")
        for key in list(self._owned):
            self._hand_over(key, self._stopped)
        await self._finishing.finished()

    async def stop(self) -> None:
        self._stopped = self._stopped or NotOwner(f"{self._broker} is shutting down")
        self._ticking.cancel()
        for key in list(self._owned):
            self._close(key, self._stopped)
        await asyncio.gather(self._ticking, self._finishing.cancel(), return_exceptions=True)
        await self._datanodes.close()


def _not_owner(route: PartitionRoute) -> NotOwner:
    return _not_owned(route.topic, route.partition, route.bundle)


def _not_owned(topic: str, partition: int, bundle: str) -> NotOwner:
    return NotOwner(f"partition {partition} of {topic} is not owned here", topic=topic, bundle=bundle)
