"""One term of office of the leading nameserver: what it does until it is deposed.

Guarantee: the cluster moves towards its records (reconcile.py) and every bundle towards a live broker (bundle_assignment.py), at
once after each change and at least every ``ROUND_S``; nothing is begun while ZooKeeper cannot be reached or the view is
incomplete; whatever a deposed leader still tries is refused, by ZooKeeper and by the datanodes, for its epoch.

Usage: ``controller = Controller(...); controller.open(); ...; await controller.close()``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from stele.nameserver.alteration import altered, check_alteration, grows_to, shows
from stele.nameserver.bundle_commands import BundleCommands
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.catalog import Catalog, TopicEntry, TopicState
from stele.nameserver.catalog_reader import topic_entry
from stele.nameserver.causes import behind_move
from stele.nameserver.clusterview import ClusterView
from stele.nameserver.effects import (
    ChangeMember,
    ConfigureReplica,
    CreateReplica,
    DeleteLeft,
    DeleteReplica,
    MarkReady,
    ReconcileEffect,
    RecordArrived,
    RecordExtra,
    RecordGone,
    RecordLeft,
    RecordMaterialised,
    RecordPartitions,
    RemoveRecords,
    ShowPartitions,
    TransferLeadership,
)
from stele.nameserver.leader_balance import LeaderBalanceLimits
from stele.nameserver.leader_transfer import LeaderTransfers
from stele.nameserver.metadata_guard import MetadataGuard
from stele.nameserver.move_writer import MoveWriter
from stele.nameserver.moves import BeginMove, EnterTombstone, MoveLimits
from stele.nameserver.namespace_writer import NamespaceWriter, check_namespace, check_shape
from stele.nameserver.orphans import Orphans
from stele.nameserver.placement import check_enough
from stele.nameserver.plan_scope import PlanScope
from stele.nameserver.probes import BrokerProbes
from stele.nameserver.reconcile import plan, tells
from stele.nameserver.relocation import Relocation
from stele.nameserver.replica_balance import EndRebalance
from stele.nameserver.replicas import ReplicaOrders
from stele.nameserver.stop_checks import StopChecks
from stele.nameserver.stores import StoreRegister
from stele.nameserver.topic_writer import TopicWriter, check_racks
from stele.nameserver.traffic_watch import TrafficWatch
from stele.nameserver.upgrade import Upgrade
from stele.nameserver.view import View, topic_info
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import TopicRecord
from stele.services.coordination.session import Session
from stele.services.errors import (
    LeadershipLost,
    RecordExists,
    SteleError,
    Timeout,
    TopicExists,
    TopicNotFound,
)
from stele.services.pb import nameserver_pb2
from stele.services.rpc.channels import Channels
from stele.services.tasks import Tasks
from stele.services.topics import FOR_EVER, check_retention, parse_topic

ROUND_S = 1.0
PAUSE_S = 0.01  # between rounds, however often something changes
MIRRORED_WITHIN_S = 1.0
HEARD_WITHIN_S = 1.0

Planner = Callable[..., list[ReconcileEffect]]
_ORDERS = CreateReplica | ConfigureReplica | DeleteReplica | ChangeMember | TransferLeadership
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a controller decides with; tests put wrong ones in their place."""

    plan: Planner = plan
    guard: type[MetadataGuard] = MetadataGuard


class Controller:
    def __init__(
        self,
        leadership: Leadership,
        session: Session,
        view: ClusterView,
        channels: Channels,
        *,
        decisions: Decisions | None = None,
        limits: MoveLimits = MoveLimits(),
        store_down_after_s: float = 300.0,
        leader_limits: LeaderBalanceLimits = LeaderBalanceLimits(),
    ) -> None:
        metadata = MetadataStore(session)
        self.leadership = leadership
        decisions = decisions or Decisions()
        self.guard = decisions.guard(leadership, metadata, lambda: view.current)
        self.stores = StoreRegister(leadership, metadata, session.cluster_id, check=self.guard.check, heard=view.heard)
        self.topics = TopicWriter(leadership, metadata)
        self.namespaces = NamespaceWriter(leadership, metadata)
        self.upgrade = Upgrade(leadership, metadata, self._mirrored)
        self.relocation = Relocation(
            MoveWriter(leadership, metadata),
            lambda: view.current,
            self._mirrored,
            self.topics.turn,
            limits,
            store_down_after_s,
            lambda move: behind_move(move, view.current.catalog, view.events.newest),
        )
        self.probes = BrokerProbes(channels, self._request_assignment, view.events.saw)
        self.traffic = TrafficWatch(channels)
        self.bundles = BundleWriter(leadership, self.probes.pulse, self.traffic, view.events.newest)
        self.ownership = BundleCommands(leadership, metadata, self.bundles, lambda: view.current, self._mirrored)
        self.stops = StopChecks(session, lambda: view.current.catalog, channels, self.bundles.candidates)
        self.orders = ReplicaOrders(channels, session.cluster_id, leadership.epoch, self._request_reconciliation)
        self.leaders = LeaderTransfers(view, self.orders, leader_limits)
        self.orphans = Orphans(
            leadership,
            metadata,
            self.topics,
            self.orders,
            lambda: view.current,
            self.guard.check,
            self._mirrored,
        )
        self._view = view
        self._plan, self._scope = decisions.plan, PlanScope()
        self._replicas_due, self._bundles_due = asyncio.Event(), asyncio.Event()
        self._tasks = Tasks()
        self._is_open = False
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        return self._is_open and self.leadership.is_valid

    def open(self) -> None:
        self._unsubscribe = self._view.subscribe(self._changed)
        self._is_open = True
        # They survive every failure by themselves, until the leadership ends.
        self._tasks.start(self._rounds("reconcile", self._replicas_due, self._reconcile), "reconcile")
        self._tasks.start(self._rounds("bundles", self._bundles_due, self._settle_bundles), "bundles")
        self._changed()

    async def close(self) -> None:
        self._unsubscribe()
        self._is_open = False
        await self._tasks.cancel()
        await self.probes.stop()
        await self.leaders.stop()
        await self.traffic.stop()
        await self.orders.stop()

    # --- what clients ask -------------------------------------------------------------------------------------------

    async def create_topic(
        self, request: nameserver_pb2.CreateTopicRequest, timeout_s: float
    ) -> nameserver_pb2.CreateTopicResponse:
        """Returns once every partition has a leader; past the deadline the creation goes on and Timeout says so."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        name = request.topic
        namespace, _ = parse_topic(name)
        check_namespace(namespace)
        check_shape(request.partitions, request.replication)
        check_retention(FOR_EVER.changed_by(request.retention))
        racks = check_racks(request.racks)
        wanted = request.replication or (await self.topics.defaults(namespace)).replication
        await self._heard(wanted, asyncio.get_running_loop().time() + timeout_s / 2)
        await self.guard.check()
        created, topic_id = True, 0
        while not topic_id:
            async with self.topics.turn:
                defaults = await self.topics.defaults(namespace)
                replication = request.replication or defaults.replication
                retention = check_retention(defaults.retention.changed_by(request.retention))
                catalog = self._placeable()
                try:
                    record = await self.topics.begin_create(
                        name, request.partitions, replication, catalog, retention, racks
                    )
                    topic_id = record.id
                    await self._mirrored(functools.partial(_shows, topic=name, topic_id=topic_id))
                except RecordExists:
                    known = await self.topics.read(name)
                    if known is not None and known.record.state != TopicState.DELETING:
                        shape = (known.record.partitions, known.record.replication)
                        kept = known.record.retention
                        as_asked = shape == (request.partitions, replication) and kept == kept.changed_by(
                            request.retention
                        )
                        if not request.if_absent or not as_asked or racks != known.record.racks:
                            raise _exists(name, *shape) from None
                        created, topic_id = False, known.record.id
            if not topic_id and not await self._gone(name, deadline):
                raise Timeout(f"the topic {name} is still being deleted", timeout_s=timeout_s)
        self._request_reconciliation()
        topic = await self._ready(name, topic_id, deadline)
        if topic is None:
            raise self._not_ready_yet(name, timeout_s)
        return nameserver_pb2.CreateTopicResponse(topic=topic_info(topic), created=created)

    def _not_ready_yet(self, name: str, timeout_s: float) -> Timeout:
        """With what a store said that could not create its replicas, a full disk for example: more than a slow election.  It remains a
        Timeout: the topic is recorded, and comes to be as soon as the store is able again."""
        view = self._view.current
        partitions = view.catalog.partitions_of.get(name, ())
        failure = self.orders.last_failure(sorted({s for p in partitions for s in p.replicas}))
        lost = next((lost for p in partitions for s in p.replicas if (lost := view.lost(p, s))), "")
        if failure is None:
            why, cause, store_id = lost or "not every partition has a leader yet", None, None
        else:
            store_id, error = failure
            why, cause = f"store {store_id} cannot create its replicas: {error.message}", error.reason
        return Timeout(
            f"{name} is not ready, its creation goes on: {why}",
            topic=name,
            timeout_s=timeout_s,
            cause=cause,
            store_id=store_id,
        )

    async def alter_topic(self, request: nameserver_pb2.AlterTopicRequest) -> nameserver_pb2.AlterTopicResponse:
        """Returns once it is recorded; reconciliation does the rest.  TopicNotFound, TopicReplaced, InvalidArgument, NotEnoughStores."""
        name = request.topic
        parse_topic(name)
        check_alteration(request)

        def changed(before: TopicRecord) -> TopicRecord:
            after = altered(name, before, request)
            if after.replication > before.replication:
                check_enough(after.replication, up)
            if after.growing_to > before.growing_to:
                check_enough(after.replication, len(self._placeable().placeable_stores))
            return after

        if request.partitions:
            await self.guard.check()  # ids will be given out
        async with self.topics.turn:  # of stores that go and are cordoned, too: none does meanwhile
            up = await self.relocation.writer.up() if request.replication else 0
            record = await self.topics.alter(name, request.topic_id, changed)
            await self._mirrored(lambda c: shows(c, name, record))
        self._request_reconciliation()
        return nameserver_pb2.AlterTopicResponse(topic=topic_info(topic_entry(name, record)))

    async def delete_topic(self, name: str, timeout_s: float) -> None:
        """Returns once its records are gone; past the deadline the deletion goes on and Timeout says so."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        parse_topic(name)
        await self.guard.check()
        async with self.topics.turn:
            topic_id = await self.topics.begin_delete(name)
        self._request_reconciliation()
        while not await self._gone(name, deadline, topic_id):
            if asyncio.get_running_loop().time() >= deadline:
                raise Timeout(
                    f"{name} is not deleted everywhere yet; its deletion goes on", topic=name, timeout_s=timeout_s
                )

    async def create_namespace(self, request: nameserver_pb2.CreateNamespaceRequest) -> bool:
        async with self.topics.turn:
            created = await self.namespaces.create(
                request.namespace,
                request.bundles,
                request.replication,
                FOR_EVER.changed_by(request.retention),
                request.if_absent,
            )
            # Within the turn: the next one decides by the mirror, and has to find what this one wrote.
            await self._mirrored(lambda c: request.namespace in c.namespaces)
            return created

    async def alter_namespace(self, request: nameserver_pb2.AlterNamespaceRequest) -> nameserver_pb2.NamespaceInfo:
        name = request.namespace
        async with self.topics.turn:
            record = await self.namespaces.alter(name, request.replication, request.retention)
            await self._mirrored(
                lambda c: (
                    (n := c.namespaces.get(name)) is None
                    or (n.replication, n.retention) == (record.replication, record.retention)
                )
            )
        return nameserver_pb2.NamespaceInfo(
            namespace=name,
            bundles=record.bundles + len(record.splits),
            replication=record.replication,
            topics=sum(t.partition("/")[0] == name for t in self._view.current.catalog.topics),
            retention=record.retention.message(),
        )

    async def delete_namespace(self, name: str) -> None:
        async with self.topics.turn:
            await self.namespaces.delete(name)
            await self._mirrored(lambda c: name not in c.namespaces)

    async def _ready(self, name: str, topic_id: int, deadline: float) -> TopicEntry | None:
        """The topic once it is ready; TopicNotFound if it was deleted meanwhile.  Another leader may finish the work."""
        seen = False

        def check(view: View) -> TopicEntry | None:
            nonlocal seen
            topic = view.catalog.topics.get(name)
            present = topic is not None and topic.topic_id == topic_id and topic.state != TopicState.DELETING
            if seen and not present:
                raise TopicNotFound(f"{name} was deleted while it was created", topic=name)
            seen = seen or present
            return topic if topic is not None and present and topic.state == TopicState.READY else None

        return await self._view.until(check, deadline)

    async def _gone(self, name: str, deadline: float, topic_id: int = 0) -> bool:
        """Whether the topic's record (of that id) is gone before the deadline.  The mirror may be behind, so ZooKeeper has
        the last word."""

        def absent(view: View) -> bool:
            topic = view.catalog.topics.get(name)
            return topic is None or (topic_id != 0 and topic.topic_id != topic_id)

        while await self._view.until(absent, deadline):
            record = await self.topics.read(name)
            if record is None or (topic_id and record.record.id != topic_id):
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    async def _mirrored(self, seen: Callable[[Catalog], bool]) -> None:
        """Waits until the mirror shows what was just written, so that the next decision counts it; a hint, not a condition."""
        await self._view.until(lambda view: seen(view.catalog), asyncio.get_running_loop().time() + MIRRORED_WITHIN_S)

    async def _heard(self, wanted: int, deadline: float) -> None:
        """Gives stores the time to say what they have seen, for ids are given out by that: to ``wanted`` of them until the deadline, to
        the others a moment.  After a restart every nameserver has to hear them anew."""

        def enough(view: View) -> bool:
            placeable = view.catalog.placeable_stores
            return len(placeable) < wanted or len(placeable) - len(view.unheard_stores()) >= wanted

        await self._view.until(enough, deadline)
        await self._view.until(
            lambda view: not view.unheard_stores(), asyncio.get_running_loop().time() + HEARD_WITHIN_S
        )

    def _placeable(self, view: View | None = None) -> Catalog:
        """The catalog with the datanodes alone that have been heard: one that cannot be asked is given nothing."""
        view = view or self._view.current
        unheard = view.unheard_stores()
        if not unheard:
            return view.catalog
        heard = {name: m for name, m in view.catalog.datanodes.items() if m.store_id not in unheard}
        return dataclasses.replace(view.catalog, datanodes=heard)

    # --- what nobody has to ask for ---------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._scope.touch(self._view.touched)
        self.probes.follow(self._view.current.catalog.brokers)
        self.traffic.follow(self._view.current.catalog)
        self._request_reconciliation()
        self._request_assignment()

    def _request_reconciliation(self) -> None:
        self._replicas_due.set()

    def _request_assignment(self) -> None:
        self._bundles_due.set()

    async def _rounds(self, what: str, due: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        trouble = ""
        while not self.leadership.is_lost:
            try:
                async with asyncio.timeout(ROUND_S):
                    await due.wait()
            except TimeoutError:
                pass
            due.clear()
            if not (self.leadership.is_valid and self._view.synced):
                self.relocation.out_of_step()
                self.leaders.out_of_step()
                continue
            try:
                await work()
                trouble = ""
            except LeadershipLost:
                return
            except SteleError as e:
                if e.reason != trouble:
                    _log.warning("round_failed", what=what, reason=e.reason, error=e.message)
                trouble = e.reason
            except Exception as e:
                await self._survive(what, e)
            await asyncio.sleep(PAUSE_S)

    async def _survive(self, what: str, error: Exception) -> None:
        """A fault of ours must not end the rounds: the process would go on leading, and nothing would come of it."""
        _log.error("round_failed", what=what, exc_info=error)
        await asyncio.sleep(ROUND_S)

    async def _settle_bundles(self) -> None:
        async with self.bundles.turn:
            view = self._view.current
            before = view.catalog
            await self.namespaces.release(before)
            if await self.bundles.settle(before, view.owner_epochs()):
                await self._mirrored(lambda c: c.bundles != before.bundles)

    async def _reconcile(self) -> None:
        """Orders first, since nobody waits for them; then the records, where one topic's trouble holds up no other."""
        await self.guard.carry_forward()
        await self.guard.check()
        view = self._view.current
        touched = self._scope.take(view.catalog, asyncio.get_running_loop().time())
        effects = [*self._plan(touched, view.reports, view.leaders), *self.relocation.due(view, touched)]
        self._scope.planned(is_idle=not effects)
        orders = [e for e in effects if isinstance(e, _ORDERS)]
        for left in effects:
            if isinstance(left, DeleteLeft) and await self.relocation.may_delete(left):
                orders.append(DeleteReplica(left.store_id, left.group, left.topic_id))
        self.orders.submit(
            [*orders, *tells(view.catalog, view.reports)], view.catalog.live_stores, view.catalog.high_water
        )
        self.leaders.even_out()
        trouble: SteleError | None = None
        for effect in effects:
            try:
                await self._write(effect, view)
            except LeadershipLost:
                raise
            except SteleError as e:
                trouble = trouble or e
        if trouble is not None:
            raise trouble

    async def _write(self, effect: ReconcileEffect | BeginMove | EnterTombstone | EndRebalance, view: View) -> None:
        match effect:
            case (
                BeginMove()
                | EnterTombstone()
                | EndRebalance()
                | RecordLeft()
                | RecordArrived()
                | RecordExtra()
                | RecordGone()
            ):
                await self.relocation.write(effect)
            case RecordPartitions(topic, topic_id):
                async with self.topics.turn:
                    recorded = await self.topics.record_partitions(topic, topic_id, self._placeable(view))
                    await self._mirrored(lambda c: len(c.partitions_of.get(topic, ())) >= recorded)
            case RecordMaterialised(topic, topic_id, held):
                if await self.topics.record_materialised(topic, topic_id, dict(held)):
                    # A condition, not a hint: what is decided next must not take a store for one that was never reported.
                    await self._until_mirrored(lambda c: all(_is_recorded(c, group, stores) for group, stores in held))
            case MarkReady(topic, topic_id):
                await self.topics.mark_ready(topic, topic_id)
            case ShowPartitions(topic, topic_id, partitions):
                async with self.topics.turn:
                    await self.topics.show_partitions(topic, topic_id, partitions)
                # A condition, not a hint: what is written to from now on is never made anew.
                await self._until_mirrored(lambda c: not grows_to(c, topic_id, topic, partitions))
            case RemoveRecords(topic, topic_id):
                async with self.topics.turn:
                    await self.topics.remove_records(topic, topic_id, view.catalog)
            case _:
                pass

    async def _until_mirrored(self, seen: Callable[[Catalog], bool]) -> None:
        while self.leadership.is_valid and not seen(self._view.current.catalog):
            await self._view.changed(ROUND_S)


def _shows(catalog: Catalog, topic: str, topic_id: int) -> bool:
    known = catalog.topics.get(topic)
    return known is not None and known.topic_id == topic_id and topic in catalog.partitions_of


def _is_recorded(catalog: Catalog, group: int, stores: tuple[int, ...]) -> bool:
    partition = catalog.partitions.get(group)
    return partition is None or set(stores) & set(partition.replicas) <= set(partition.materialised)


def _exists(name: str, partitions: int, replication: int) -> TopicExists:
    return TopicExists(
        f"there is a topic {name} already, with {partitions} partitions and replication {replication}",
        topic=name,
        partitions=partitions,
        replication=replication,
    )
