"""The cluster as this nameserver sees it: mirrors of ZooKeeper's records, and the datanodes' own words.

Guarantee: ``current`` is one consistent-in-itself :class:`View`, replaced as a whole within ``JOIN_S`` of a change, kept while ZooKeeper
cannot be reached; every replacement has been turned into events before anybody is told of it.

Not promised: freshness.  ``synced`` says whether, as far as can be known, nothing is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import structlog

from stele.nameserver.catalog import Catalog, Member
from stele.nameserver.catalog_change import narrowed
from stele.nameserver.catalog_reader import CatalogReader, Update
from stele.nameserver.causes import told_by, with_signs
from stele.nameserver.event_buffer import EventBuffer
from stele.nameserver.events import ClusterEvent, LeaderEvents, derive
from stele.nameserver.owner_epochs import OwnerEpochs
from stele.nameserver.reports import LeaderReport, StoreReport, leader_of
from stele.nameserver.routing import RoutingChange, RoutingChanges, changed_members
from stele.nameserver.storewatch import StoreWatch
from stele.nameserver.strays import ReportsApart
from stele.nameserver.view import View
from stele.services.clock import SYSTEM, Clock
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.records import ClusterRecord, decode
from stele.services.coordination.session import Session, SessionState
from stele.services.coordination.znode import Node
from stele.services.errors import ClusterMismatch, NotReady, RecordUnreadable, SteleError
from stele.services.events import EventKind
from stele.services.high_water import HighWater
from stele.services.pb import datanode_pb2, nameserver_pb2
from stele.services.rarely import Rarely
from stele.services.rpc.channels import Channels
from stele.services.tasks import Tasks

JOIN_S = 0.005  # changes that come together are looked at together

# What is mirrored, and how many levels of it.
SUBTREES = {
    "cluster": 0,
    "epoch": 0,
    "leader": 0,
    "members": 2,
    "stores": 1,
    "groups": 1,
    "namespaces": 1,
    "topics": 2,
    "deleted": 1,
    "partitions": 1,
    "bundles": 2,
    "brokers": 1,
    "operations": 1,
}

T = TypeVar("T")
_log = structlog.get_logger()


class ClusterView:
    """``await view.start()``; then ``view.current``, ``view.subscribe(callback)``, ``await view.until(lambda view: ...)``."""

    def __init__(
        self, session: Session, channels: Channels, name: str, fail: Callable[[SteleError], None], clock: Clock = SYSTEM
    ) -> None:
        self.events = EventBuffer(clock=clock, name=name)
        self.current = View(Catalog(), {}, {})
        self.on_derived: Callable[[Sequence[ClusterEvent]], None] = lambda events: None  # with the view of before
        self._zxid = 0  # the last transaction of ZooKeeper in `current`
        self._session, self._name, self._fail = session, name, fail
        behind = Rarely()  # one line for all of them: they share a session
        self._mirrors = [Mirror(session, path, depth, behind) for path, depth in SUBTREES.items()]
        self._mirror_of = {mirror.path: mirror for mirror in self._mirrors}
        self._reader = CatalogReader()
        self._watch = StoreWatch(channels, self._schedule_renewal, self._told, self._reported)
        self._reports = ReportsApart()
        self._due_paths: set[str] = set()  # of records that changed since `current`
        self._due_groups: set[int] = set()  # of replicas
        self._stores_changed = False  # as a whole: whether a store is heard, its state
        self._leader_events = LeaderEvents(())
        self._timer: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._routing = (self.current, b"", nameserver_pb2.Routing(answered_by=name))
        self.routing_changes = RoutingChanges()
        self._owner_epochs = OwnerEpochs(self.routing_changes)
        self.touched: frozenset[str] | None = (
            None  # names of the topics of which something changed last; None: anything did
        )
        self._running = False
        self._channels = channels
        self._closing = Tasks()

    async def start(self) -> None:
        """Returns with a whole view.  CoordinationUnknown if ZooKeeper does not give one in time."""
        try:
            async with asyncio.TaskGroup() as starting:
                for mirror in self._mirrors:
                    starting.create_task(mirror.start())
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from None
        self._running = True
        update = self._read({path for mirror in self._mirrors for path in mirror.snapshot})
        self._leader_events = LeaderEvents(update.catalog.partitions)
        present = sorted(derive(Catalog(), update.catalog), key=lambda event: event.time_ms)
        self.events.record_found(present)
        self._replace(update)
        for mirror in self._mirrors:
            mirror.subscribe(self._records_changed)

    async def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        self.events.close()
        await self._watch.stop()
        await asyncio.gather(*(mirror.stop() for mirror in self._mirrors))

    @property
    def synced(self) -> bool:
        """Whether every record is as ZooKeeper has it, but for what is on its way."""
        return self._session.state is SessionState.CONNECTED and all(mirror.synced for mirror in self._mirrors)

    @property
    def age_s(self) -> float:
        """For how long, at most, something may be missing here that the server of ZooKeeper has which this session asks; 0: nothing is,
        but what is on its way.  That such a server itself lags behind the others cannot be told here."""
        if self.synced and not self._session.fenced:
            return 0.0
        return max(self._session.unheard_s, *(mirror.behind_s for mirror in self._mirrors))

    @property
    def as_of(self) -> nameserver_pb2.Revision:
        """How new ``current`` is, beside what other nameservers answer; grows."""
        return nameserver_pb2.Revision(epoch=self.current.catalog.high_water.epoch, zxid=self._zxid)

    def check_fresh(self) -> None:
        """NotReady (retryable elsewhere) once the view is older than the session's timeout: by then others may have changed anything."""
        age_s, limit_s = self.age_s, self._session.negotiated_timeout_s
        if age_s > limit_s:
            raise NotReady(
                f"{self._name} has not been in step with ZooKeeper for {age_s:.3g} s",
                age_ms=round(age_s * 1000),
                stale=True,
            )

    def heard(self, seen: HighWater) -> None:
        """A store has said what it was told, as it registered: it may load for long, and is watched only then.  Counts at once."""
        self._watch.seen = self.current.seen = self._watch.seen.joined(seen)
        self._schedule_renewal()

    def _told(self, member: Member, events: Sequence[datanode_pb2.StoreEvent]) -> None:
        """What stores saw or did since this nameserver began is recorded as it comes: nothing is decided by it."""
        news: list[ClusterEvent] = []
        for event in events:
            if (recorded_s := self.events.ago(event.age_ms)) is None:
                continue
            told = told_by(member, event, self.current.catalog, recorded_s)
            elected = event.kind == EventKind.LEADER_ELECTED
            if not elected or self._leader_events.told(event.group, int(event.facts["term"])):
                news.append(told)
        self.events.record(news)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls ``callback`` after each replacement of ``current``."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    async def changed(self, timeout_s: float) -> bool:
        """Waits for the next replacement; False when ``timeout_s`` passed first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def until(self, check: Callable[[View], T | None], deadline: float) -> T | None:
        """The first result of ``check`` that is neither None nor False; None once the loop's clock passes ``deadline``."""
        while True:
            result = check(self.current)
            if result is not None and result is not False:
                return result
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or not await self.changed(left_s):
                return None

    def routing(self) -> nameserver_pb2.Routing:
        """The routing facts; ``revision`` counts the changes of them and nothing else."""
        view, encoded, routing = self._routing
        if view is not self.current:
            fresh = self.current.routing()
            known, encoded = encoded, fresh.SerializeToString(deterministic=True)
            if encoded != known:
                fresh.revision = routing.revision + 1
                fresh.answered_by = self._name
                routing = fresh
            self._routing = (self.current, encoded, routing)
        return routing

    # --- replacing --------------------------------------------------------------------------------------------------

    def _records_changed(self, paths: frozenset[str]) -> None:
        self._due_paths |= paths
        self._schedule_renewal()

    def _reported(
        self,
        store_id: int,
        report: StoreReport | None,
        named: Collection[int] | None,
        decisive: Collection[int] | None,
    ) -> None:
        """A store has said something, or is not heard any more."""
        if decisive is None:
            self._stores_changed = True
            before = self._reports.get(store_id)
            for whole in (before, report):
                if whole is not None:
                    self._due_groups |= whole.replicas.keys() | whole.strays.keys()
        else:
            self._due_groups |= set(decisive)
        self._reports.reported(store_id, report, named)

    def _schedule_renewal(self) -> None:
        if self._timer is None and self._running:
            self._timer = asyncio.get_running_loop().call_later(JOIN_S, self._renew)

    def _renew(self) -> None:
        self._timer = None
        if not self._running:
            return
        paths, self._due_paths = self._due_paths, set()
        update = self._read(paths)
        before, after = (narrowed(c, *update[1:4]) for c in (self.current.catalog, update.catalog))
        news = with_signs(derive(before, after), self.events.newest, self.events.now_s)
        self.on_derived(self.events.record(news))
        self._replace(update)

    def _read(self, paths: Collection[str]) -> Update:
        """What becomes of the records at these paths."""
        nodes = {path: self._mirror_of[path.partition("/")[0]].snapshot.get(path) for path in paths}
        if "cluster" in nodes:
            self._check_cluster(nodes["cluster"])
        # Never back: the node in which the last one was seen may be gone.
        self._zxid = max(self._zxid, *(node.stat.zxid for node in nodes.values() if node is not None), 0)
        known = dict(self._reader.unreadable)
        update = self._reader.update(nodes)
        for path, problem in self._reader.unreadable.items():
            if known.get(path) != problem:
                _log.error("record_unreadable", path=path, problem=problem)
        return update

    def _replace(self, update: Update) -> None:
        before, catalog = self.current, update.catalog
        told = RoutingChange(set(update.topics), set(update.groups), set(update.bundles))
        if update.others:
            told.add(changed_members(before.catalog, catalog))
            self._close_channels(_endpoints(self.current.catalog) - _endpoints(catalog))
            self._watch.follow(catalog.live_stores)
        groups = self._touched(update)
        self._reports.recorded(catalog, groups)
        led = self._leaders(groups)
        told.groups.update(group for group in groups if led.get(group) != before.leaders.get(group))
        # Events BEFORE the view and the view BEFORE the callbacks: who is called, and asks, finds both.
        self.events.record(self._leader_events.derive(catalog, led, groups))
        self._owner_epochs.look(groups, self._reports.values())
        self.routing_changes.record(told, catalog)
        self._owner_epochs.placed(groups, told.everything)
        self.current = View(catalog, self._reports, led, self._watch.seen, self._owner_epochs.of_bundles)
        of_groups = (catalog.partitions[group].topic for group in groups if group in catalog.partitions)
        self.touched = None if update.others or self._stores_changed else frozenset((*update.topics, *of_groups))
        self._stores_changed = False
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        for callback in list(self._callbacks):
            callback()

    def _touched(self, update: Update) -> set[int]:
        """The groups of which replicas, record or topic changed."""
        groups, self._due_groups = self._due_groups | update.groups, set()
        for name in update.topics:
            groups.update(p.group for p in update.catalog.recorded_of.get(name, ()))
        return groups

    def _leaders(self, groups: Collection[int]) -> dict[int, LeaderReport]:
        """As they were, but for these groups."""
        reports = list(self._reports.values())
        found = {group: leader_of(reports, group) for group in groups}
        news = {group: leader for group, leader in found.items() if leader != self.current.leaders.get(group)}
        if not news:
            return self.current.leaders
        led = self.current.leaders.copy()
        for group, leader in news.items():
            if leader is None:
                led.pop(group, None)
            else:
                led[group] = leader
        return led

    def _close_channels(self, endpoints: set[str]) -> None:
        """Nobody is there any more: what still waits for an answer need not, and the connections are given back."""
        for endpoint in endpoints:
            self._closing.start(self._channels.close(endpoint), "close-channels")

    def _check_cluster(self, node: Node | None) -> None:
        """Another cluster under our path means that ZooKeeper lost its data: nothing that we know holds there."""
        if node is None:
            return
        try:
            found = decode(node.value, ClusterRecord, "cluster").id
        except RecordUnreadable:
            return
        if found != self._session.cluster_id:
            self._fail(
                ClusterMismatch(
                    f"ZooKeeper holds the cluster {found} now, this nameserver belongs to {self._session.cluster_id}",
                    expected=self._session.cluster_id,
                    got=found,
                )
            )


def _endpoints(catalog: Catalog) -> set[str]:
    members = (*catalog.nameservers.values(), *catalog.datanodes.values(), *catalog.brokers.values())
    return {member.endpoint for member in members}
