"""The replicas that a store holds: loaded at start, set aside, failed and opened again, buried, and reported to whoever watches.

Guarantee: a replica that is damaged costs that replica, not the store (R4.5): it is moved aside, never deleted,
reported, and gets its log back from its peers if its term and vote are whole.  One that cannot be read is reported as
failed, whatever cannot be read of it, and tried again (datanode/reopening.py): absent is only what is certainly not
there.  What is to be deleted and cannot be moved is listed until it is.
Listeners (:meth:`subscribe`) are told of every replica whose report may differ from the last one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import suppress

import structlog

from stele.datanode.directory import DataDirectory, GroupSpec, Quarantined
from stele.datanode.disk import Disk
from stele.datanode.mender import Mender
from stele.datanode.replica import RETRY_AFTER_MS, Replica
from stele.datanode.silence import Silence
from stele.datanode.store_events import StoreEvents
from stele.services.errors import GroupNotFound, LogDamaged, NotReady, SteleError, StorageFailed
from stele.services.file_limit import file_limit
from stele.services.files import is_gone
from stele.services.keyed_lock import KeyedLock
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry

DESCRIPTORS_BESIDE = 256  # of connections, listeners and ZooKeeper

log = structlog.get_logger()

GroupListener = Callable[[int], None]


class HeldReplicas:
    """What a store (datanode/store.py) does with them, without being told to."""

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
        self._vanished: set[int] = set()  # groups whose folder went while they ran
        self._opening: dict[int, Replica] = {}  # those that are to run: they say that they are not ready
        self._held: set[int] = set()  # groups that have run here and were not deleted
        self._places: dict[int, tuple[int, int]] = {}  # in which folder each of them ran last
        self._deleting: set[int] = set()  # groups whose folder could not be moved into the trash yet
        self._listeners: list[GroupListener] = []
        self.mender = Mender(registry, self._damage_changed)
        self.silence = Silence(registry, self._publish)
        self.events = StoreEvents(self.store_id, registry.now, lambda: self._publish(0))
        registry.on_peer = self.events.on_peer

    # --- loading ----------------------------------------------------------------------------------------------------

    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        """Opens every group of the data directory, ``parallelism`` at a time (R4.4); calls ``loaded`` after each."""
        groups = await asyncio.to_thread(self.directory.groups)
        for aside in await asyncio.to_thread(self.directory.quarantined):
            if aside.group in groups:  # rebuilt, and then the power went
                await asyncio.to_thread(self.directory.release_quarantined, aside.group, "rebuilt")
            else:
                self.quarantined[aside.group] = aside
        self.total = len(groups)
        await self._check_descriptors(groups)
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

    async def _check_descriptors(self, groups: list[int]) -> None:
        """Says before the first replica is opened that there may be too few files for all of them."""
        needed = await asyncio.to_thread(self.directory.descriptors_needed, groups) + DESCRIPTORS_BESIDE
        if needed > (limit := file_limit()):
            log.warning(
                "too_few_file_descriptors", limit=limit, needed=needed, groups=len(groups), way_out="ulimit -Hn"
            )

    async def _load_one(self, group: int) -> None:
        """Afterwards the group runs, is quarantined or is a failed replica; only a folder that certainly holds nothing is gone."""
        spec: GroupSpec | None = None
        known = self.replicas.get(group)
        try:
            await asyncio.to_thread(self._check_place, group)
            spec = await asyncio.to_thread(self.directory.read_group, group)
            if spec is None or not await asyncio.to_thread(self.directory.is_begun, group):
                await asyncio.to_thread(self.directory.discard, group)
                self.replicas.pop(group, None)
                log.info("unfinished_group_discarded", group=group)
                return
            self.replicas[group] = replica = self._replica(spec)
            await self._open(replica)
        except LogDamaged as e:
            await self._set_aside(group, e.message, spec)
        except Exception as e:
            # A disk or descriptor in trouble damages nothing, and neither does a mistake of ours: the folder stays where it is.
            self._fail(group, str(e) if isinstance(e, SteleError | OSError) else repr(e), spec, known)

    def _check_place(self, group: int) -> None:
        """StorageFailed: the group's folder is another one than that in which it ran, and may know less.  Blocks."""
        self.directory.check_in_place()
        if group in self._places and self.directory.place_of(group) != self._places[group]:
            path = self.directory.group_path(group)
            raise StorageFailed(
                f"{path} is another folder than the one in which the replica ran: put that back, or remove it for good",
                path=path,
            )

    async def _set_aside(self, group: int, problem: str, spec: GroupSpec | None) -> None:
        """Quarantines a group that does not run.  One that cannot even be moved is failed, and costs no other (R4.5)."""
        try:
            aside = await asyncio.to_thread(self.directory.quarantine, group, problem, spec)
        except (SteleError, OSError) as e:
            self._fail(group, f"{problem}; it could not be set aside: {e}", spec)
            return
        self.quarantined[group] = aside
        self._places.pop(group, None)
        self.replicas.pop(group, None)
        log.error("group_quarantined", group=group, problem=problem, path=str(aside.path))

    def _fail(self, group: int, problem: str, spec: GroupSpec | None, known: Replica | None = None) -> None:
        """The group is here and does not run: it is listed with its problem, its topic known or not.  ``known``: as it was listed
        before it was tried again."""
        if known is None or known.problem != problem:
            log.error("group_not_opened", group=group, problem=problem)
        spec = spec or (known.spec if known is not None else GroupSpec.unread(group))
        self.replicas[group] = replica = self._replica(spec)
        replica.fail(problem)

    async def _repair(self, aside: Quarantined) -> None:
        """Starts a quarantined group anew, to get its log back from its peers (R4.5); it stays quarantined if that is not safe, until its
        group has let it go and it joins again (:meth:`create`)."""
        try:
            spec = await asyncio.to_thread(self.directory.rebuild, aside)
        except (SteleError, OSError) as e:
            log.error("group_not_repaired", group=aside.group, problem=str(e))
            return
        if spec is None:
            return
        del self.quarantined[aside.group]  # it is spent
        await self._load_one(aside.group)
        log.warning("group_recovering", group=aside.group, from_peers=[m for m in spec.members if m != self.store_id])

    async def _open(self, replica: Replica) -> None:
        """It runs, and is listed, when this returns."""
        spec = replica.spec
        self._opening[spec.group] = replica
        try:
            place = await asyncio.to_thread(self.directory.place_of, spec.group)
            group = await self.registry.create(spec.group, spec.members, replica)
        finally:
            del self._opening[spec.group]
        self.replicas[spec.group] = replica
        self._held.add(spec.group)
        self._places[spec.group] = place
        group.subscribe(self._publish_group)
        group.on_damage = functools.partial(self.mender.found, spec.group)
        group.on_transfer = functools.partial(self._handed_over, replica, group)
        replica.on_first_write = functools.partial(self.events.written, spec)
        replica.run(group)
        self._publish(spec.group)

    # --- failed replicas ----------------------------------------------------------------------------------------------

    def failed(self) -> list[int]:
        """Groups that are here and do not run, and those whose folder has vanished under them."""
        return [g for g, r in self.replicas.items() if r.state == "failed"] + list(self._vanished)

    async def reopen(self, group: int) -> None:
        """Opens a failed replica again, as at a start; one that was to be deleted is deleted.  One whose folder is gone is not here any
        more, and reported so, until the folder is there again."""
        async with self._locks.hold(group):
            failed = self.replicas.get(group)
            if failed is not None and failed.state != "failed":
                return
            if group in self._deleting:
                with suppress(SteleError):  # it stays failed, with its problem
                    await self._bury(group)
                return
            if failed is not None:
                failed.end()
                await self.registry.stop_group(group)
            try:
                await asyncio.to_thread(self.directory.check_in_place)
            except StorageFailed as e:
                if failed is not None:
                    self._fail(group, e.message, failed.spec, failed)
                self._publish(group)
                return
            if await asyncio.to_thread(is_gone, self.directory.group_path(group)):
                if self.replicas.pop(group, None) is not None:
                    self._vanished.add(group)
                    log.error("replica_lost", group=group, path=str(self.directory.group_path(group)))
            else:
                self._vanished.discard(group)
                await self._load_one(group)
                if (aside := self.quarantined.get(group)) is not None:
                    await self._repair(aside)
            self._publish(group)

    def _replica(self, spec: GroupSpec) -> Replica:
        return Replica(spec, self.store_id, self._entry_bytes_max, self.disk)

    def settled(self) -> int:
        """How many of the loaded replicas do not hold the ready gate any more (R4.1, R4.3)."""
        return sum(r.state == "failed" or self.registry.settled(g) for g, r in self.replicas.items())

    # --- the end of a replica ---------------------------------------------------------------------------------------

    async def _unmake(self, spec: GroupSpec) -> None:
        """The folder that a create has made goes again: no replica ran in it.  One that stays is no replica either, and not listed:
        whatever was listed once counts as lost when it is gone, and this goes with the next create or start."""
        try:
            await asyncio.to_thread(self.directory.unmake, spec.group)
        except SteleError as e:
            log.warning("unfinished_group_stays", group=spec.group, problem=e.message)
        self._publish(spec.group)

    async def _bury(self, group: int) -> bool:
        """True if there was something.  StorageFailed: the folder stands where it stood, and the replica is listed as failed."""
        known = self.replicas.get(group)
        if known is not None:
            known.end()
        try:
            await asyncio.to_thread(self.directory.check_in_place)
            existed = await self.registry.delete(group) or known is not None
        except (SteleError, OSError) as e:
            problem = f"it is to be deleted: {e.message if isinstance(e, SteleError) else e}"
            if known is None or known.problem != problem:
                log.error("replica_not_deleted", group=group, problem=problem)
            if known is not None:  # what is listed is tried again, and what is not listed was never known here
                self._deleting.add(group)
                self.replicas[group] = replica = self._replica(known.spec)
                replica.fail(problem)
            self._publish(group)
            raise StorageFailed(f"group {group} is not deleted: {problem}", group=group) from e
        for groups in (self._deleting, self._vanished, self._held):
            groups.discard(group)
        self._places.pop(group, None)
        self.replicas.pop(group, None)
        if existed:
            log.info("replica_deleted", group=group)
        self._publish(group)
        return existed

    # --- asking -----------------------------------------------------------------------------------------------------

    def replica(self, group: int) -> Replica:
        """Raises GroupNotFound; NotReady while the store still loads (R4.7); LogDamaged for one that is quarantined."""
        replica = self.replicas.get(group) or self._opening.get(group)
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

    def _damage_changed(self, group: int) -> None:
        if (replica := self.replicas.get(group)) is not None:
            replica.mended()
        self._publish(group)

    def _publish_group(self, group: Group) -> None:
        self.note_election(group.group_id)
        self._publish(group.group_id)

    def note_election(self, group_id: int) -> None:
        """Once for each term, BEFORE anybody is told that the replica leads: whoever hears of that has heard why."""
        replica = self.replicas.get(group_id)
        victory = replica.group.victory if replica is not None and replica.group is not None else None
        if replica is not None and victory is not None and victory.term > replica.led_in:
            replica.led_in = victory.term
            self.events.elected(replica.spec, victory)

    def _handed_over(self, replica: Replica, group: Group, successor: int, cause: str) -> None:
        """Once for each term, however often the successor is asked."""
        if group.term > replica.handed_over_in:
            replica.handed_over_in = group.term
            self.events.handed_over(replica.spec, group.term, successor, cause)

    def _publish(self, group: int) -> None:
        for listener in list(self._listeners):
            listener(group)

    async def close(self) -> None:
        """Ends every replica and its storage; the directory stays open."""
        await self.mender.close()
        for replica in self.replicas.values():
            replica.end()
        await self.registry.close()
