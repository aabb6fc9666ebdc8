"""The replicas of one store: loaded at start, created and deleted as the leading nameserver says, reported to whoever
watches.

Guarantee: a replica that is damaged costs that replica, not the store (R4.5): it is moved aside, never deleted,
reported, and gets its log back from its peers if its term and vote are whole.  Creates and deletes of one group happen
one after the other (R3.3), are idempotent, and are refused under a lower nameserver epoch than one seen before, from another
cluster, and for another topic than the replica's own.
``changes`` of :meth:`changed` name every replica whose report may differ from the last one.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from stele.datanode.directory import DataDirectory, GroupSpec, Quarantined
from stele.datanode.disk import Disk
from stele.datanode.replica import RETRY_AFTER_MS, Replica
from stele.services.errors import (
    ClusterMismatch,
    Fenced,
    GroupNotFound,
    InvalidArgument,
    LogDamaged,
    NotReady,
    SteleError,
    StoreMismatch,
    TopicMismatch,
)
from stele.services.keyed_lock import KeyedLock
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry
from stele.services.topics import Retention

log = structlog.get_logger()

GroupListener = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Mandate:
    """In whose name an order is given, and whom it is meant for."""

    cluster_id: str
    leader_epoch: int
    to_store_id: int


class Store:
    """``await store.load(parallelism)`` once, then :meth:`create`, :meth:`delete`, :meth:`replica`."""

    def __init__(self, directory: DataDirectory, registry: Registry, disk: Disk, entry_bytes_max: int) -> None:
        self.directory = directory
        self.registry = registry
        self.disk = disk
        self.store_id = directory.identity.store_id
        self.replicas: dict[int, Replica] = {}
        self.quarantined: dict[int, Quarantined] = {}
        self.loaded = 0
        self.total = 0
        self.state = "loading"
        self._entry_bytes_max = entry_bytes_max
        self._locks = KeyedLock[int]()  # by group
        self._epoch_lock = asyncio.Lock()
        self._listeners: list[GroupListener] = []

    # --- loading ----------------------------------------------------------------------------------------------------

    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        """Opens every group of the data directory, ``parallelism`` at a time (R4.4); calls ``loaded`` after each."""
        found = await asyncio.to_thread(self.directory.quarantined)
        groups = await asyncio.to_thread(self.directory.groups)
        self.quarantined = {q.group: q for q in found if q.group not in groups}
        self.total = len(groups)
        places = asyncio.Semaphore(parallelism)

        async def load_one(group: int) -> None:
            async with places:
                await self._load_one(group)
            self.loaded += 1
            self._publish(group)
            loaded()

        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(load_one(group))
        for aside in list(self.quarantined.values()):
            await self._repair(aside)
        log.info("groups_loaded", loaded=self.loaded, quarantined=len(self.quarantined))

    async def _load_one(self, group: int) -> None:
        spec: GroupSpec | None = None
        try:
            spec = await asyncio.to_thread(self.directory.read_group, group)
            if spec is None:
                await asyncio.to_thread(self.directory.discard, group)
                log.info("unfinished_group_discarded", group=group)
                return
            await self._open(spec)
        except LogDamaged as e:
            self.replicas.pop(group, None)
            self.quarantined[group] = await asyncio.to_thread(self.directory.quarantine, group, e.message, spec)
            log.error("group_quarantined", group=group, problem=e.message, path=str(self.quarantined[group].path))
        except (
            SteleError,
            OSError,
        ) as e:  # a disk or descriptor in trouble damages nothing: the folder stays where it is
            log.error("group_not_opened", group=group, problem=str(e))
            if spec is not None:
                self.replicas[group] = replica = self._replica(spec)
                replica.fail(str(e))

    async def _repair(self, aside: Quarantined) -> None:
        """Starts a quarantined group anew, to get its log back from its peers (R4.5); it stays quarantined if that is not safe."""
        try:
            spec = await asyncio.to_thread(self.directory.rebuild, aside)
            if spec is None:
                return
            await self._open(spec)
        except (SteleError, OSError) as e:
            self.replicas.pop(aside.group, None)
            log.error("group_not_repaired", group=aside.group, problem=str(e))
            return
        del self.quarantined[aside.group]
        log.warning("group_recovering", group=aside.group, from_peers=[m for m in spec.members if m != self.store_id])

    async def _open(self, spec: GroupSpec) -> None:
        replica = self.replicas[spec.group] = self._replica(spec)
        group = await self.registry.create(spec.group, spec.members, replica)
        group.subscribe(self._publish_group)
        replica.run(group)
        self._publish(spec.group)

    def _replica(self, spec: GroupSpec) -> Replica:
        return Replica(spec, self.store_id, self._entry_bytes_max, self.disk)

    def settled(self) -> int:
        """How many of the loaded replicas do not hold the ready gate any more (R4.1, R4.3)."""
        return sum(r.state == "failed" or self.registry.settled(g) for g, r in self.replicas.items())

    # --- as the nameserver says ---------------------------------------------------------------------------------------

    async def create(self, spec: GroupSpec, mandate: Mandate) -> bool:
        """True if the replica was created, False if it was there.

        Errors: ClusterMismatch, StoreMismatch (R2.5), Fenced, InvalidArgument, TopicMismatch, LogDamaged for a replica that
        is quarantined here and could not be repaired: an empty one in its place would have forgotten its votes.
        """
        self._check_meant_for_us(mandate)
        if self.store_id not in spec.members or len(set(spec.members)) != len(spec.members):
            raise InvalidArgument(
                f"group {spec.group} cannot have the members {list(spec.members)} on store {self.store_id}"
            )
        # Only now: a call that makes no sense must not depose the nameserver that leads.
        await self._check_leader_epoch(mandate.leader_epoch)
        async with self._locks.hold(spec.group):
            known = self.replicas.get(spec.group)
            if known is not None:
                _check_same(known.spec, spec)
                return False
            if (aside := self.quarantined.get(spec.group)) is not None:
                raise LogDamaged(f"group {spec.group} is quarantined here: {aside.problem}", path=aside.path)
            await asyncio.to_thread(self.directory.create_group, spec)
            try:
                await self._open(spec)
            except BaseException:
                self.replicas.pop(spec.group, None)
                await asyncio.shield(self.registry.delete(spec.group))
                raise
            log.info("replica_created", group=spec.group, topic=spec.topic, partition=spec.partition)
            return True

    async def configure(self, group: int, topic_id: int, retention: Retention, mandate: Mandate) -> bool:
        """True if the replica keeps its messages for another time than before, or did not know its topic's id; durable when
        it returns.  ClusterMismatch, StoreMismatch, Fenced, TopicMismatch, NotReady, GroupNotFound."""
        self._check_meant_for_us(mandate)
        await self._check_leader_epoch(mandate.leader_epoch)
        async with self._locks.hold(group):
            replica = self.replica(group)
            _check_topic(group, replica.spec.topic_id, topic_id)
            spec = dataclasses.replace(replica.spec, retention=retention, topic_id=topic_id)
            if spec == replica.spec:
                return False
            await asyncio.to_thread(self.directory.configure_group, spec)
            replica.spec = spec
            log.info("replica_configured", group=group, **dataclasses.asdict(retention))
            self._publish(group)
            return True

    async def delete(self, group: int, topic_id: int, mandate: Mandate) -> bool:
        """True if there was such a replica.  When it returns nothing of it runs and its folder is gone (R3.4).
        ClusterMismatch, StoreMismatch, Fenced, TopicMismatch."""
        self._check_meant_for_us(mandate)
        await self._check_leader_epoch(mandate.leader_epoch)
        async with self._locks.hold(group):
            if (known := self.replicas.get(group)) is not None:
                _check_topic(group, known.spec.topic_id, topic_id)
            if (aside := self.quarantined.get(group)) is not None:
                _check_topic(group, aside.topic_id, topic_id)
            replica = self.replicas.pop(group, None)
            if replica is not None:
                replica.end()
            existed = await self.registry.delete(group) or replica is not None
            if self.quarantined.pop(group, None) is not None:
                await asyncio.to_thread(self.directory.release_quarantined, group)
                existed = True
            if existed:
                log.info("replica_deleted", group=group)
                self._publish(group)
            return existed

    def _check_meant_for_us(self, mandate: Mandate) -> None:
        mine = self.directory.identity.cluster_id
        if mandate.cluster_id != mine:
            raise ClusterMismatch(
                f"store {self.store_id} belongs to the cluster {mine}, the order comes from {mandate.cluster_id or 'none'}",
                expected=mine,
                got=mandate.cluster_id,
            )
        if mandate.to_store_id != self.store_id:
            raise StoreMismatch(
                f"this is store {self.store_id}, not {mandate.to_store_id}",
                expected=mandate.to_store_id,
                got=self.store_id,
            )

    async def _check_leader_epoch(self, leader_epoch: int) -> None:
        async with self._epoch_lock:
            seen = self.directory.identity.leader_epoch
            if leader_epoch < seen:
                raise Fenced(f"nameserver epoch {leader_epoch} was overtaken by {seen}", epoch=leader_epoch, seen=seen)
            if leader_epoch > seen:
                await asyncio.to_thread(self.directory.record_leader_epoch, leader_epoch)

    # --- asking -----------------------------------------------------------------------------------------------------

    def replica(self, group: int) -> Replica:
        """Raises GroupNotFound; NotReady while the store still loads (R4.7); LogDamaged for one that is quarantined."""
        replica = self.replicas.get(group)
        if replica is not None:
            return replica
        if self.state == "loading":
            raise NotReady(
                f"store {self.store_id} has loaded {self.loaded} of {self.total} groups",
                loaded=self.loaded,
                total=self.total,
                retry_after_ms=RETRY_AFTER_MS,
            )
        if (aside := self.quarantined.get(group)) is not None:
            raise LogDamaged(f"group {group} is quarantined on store {self.store_id}: {aside.problem}", group=group)
        raise GroupNotFound(f"store {self.store_id} has no replica of group {group}", group=group)

    # --- changes ----------------------------------------------------------------------------------------------------

    def subscribe(self, listener: GroupListener) -> Callable[[], None]:
        """``listener(group)`` whenever the report of a group may have changed, ``listener(0)`` for the store's own."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def enter(self, state: str) -> None:
        """``loading`` → ``ready`` → ``draining``."""
        allowed = {"loading": ("ready", "draining"), "ready": ("draining",), "draining": ()}
        if state not in allowed[self.state]:
            raise ValueError(f"a store that is {self.state} does not become {state}")
        self.state = state
        log.info("store_state", state=state, store_id=self.store_id)
        self._publish(0)

    def _publish_group(self, group: Group) -> None:
        self._publish(group.group_id)

    def _publish(self, group: int) -> None:
        for listener in list(self._listeners):
            listener(group)

    async def close(self) -> None:
        """Ends every replica and its storage; the directory stays open."""
        for replica in self.replicas.values():
            replica.end()
        await self.registry.close()


def _check_same(known: GroupSpec, asked: GroupSpec) -> None:
    if (known.topic, known.partition) != (asked.topic, asked.partition):
        raise InvalidArgument(
            f"group {known.group} is {known.topic}-{known.partition} here, not {asked.topic}-{asked.partition}"
        )
    _check_topic(known.group, known.topic_id, asked.topic_id)


def _check_topic(group: int, known: int, meant: int) -> None:
    """A replica that was written before topics' ids were known passes: its name was compared by whoever gives the order."""
    if known not in (0, meant):
        raise TopicMismatch(
            f"group {group} is that of the topic with id {known} here, not {meant}",
            group=group,
            expected=meant,
            got=known,
        )
