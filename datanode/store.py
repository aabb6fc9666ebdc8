"""One store: what the leading nameserver orders about its replicas.

Guarantee: creates and deletes of one group happen one after the other (R3.3), are idempotent, and are refused under a lower
nameserver epoch than one seen before, from another cluster, and for another topic than the replica's own.  Only an order
to delete removes what a replica has promised.  What becomes of replicas without an order is datanode/held.py's.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from stele.datanode.directory import DataDirectory, GroupSpec
from stele.datanode.disk import Disk
from stele.datanode.held import HeldReplicas
from stele.datanode.partition import check_leap
from stele.services.errors import (
    ClusterMismatch,
    DiskFull,
    Fenced,
    InvalidArgument,
    LogDamaged,
    NotReady,
    SteleError,
    StorageFailed,
    StoreMismatch,
    StoreTombstone,
    Timeout,
    TopicMismatch,
)
from stele.services.high_water import NOTHING_TOLD, HighWater
from stele.services.raft.membership import check_change
from stele.services.raft.registry import Registry
from stele.services.raft.storage import Members
from stele.services.topics import Retention

CHANGE_TIMEOUT_S = 4.0
HANDOVER_CHECK_S = 0.02

log = structlog.get_logger()

RoleChange = Callable[[Members, int], Members]
"""The members with a store in that role (services/raft/membership.py)."""


@dataclass(frozen=True, slots=True)
class Mandate:
    """In whose name an order is given, and whom it is meant for."""

    cluster_id: str
    leader_epoch: int
    to_store_id: int
    told: HighWater = NOTHING_TOLD


class Store(HeldReplicas):
    """``await store.load(parallelism)`` once, then :meth:`create`, :meth:`delete`, :meth:`replica`."""

    def __init__(self, directory: DataDirectory, registry: Registry, disk: Disk, entry_bytes_max: int) -> None:
        super().__init__(directory, registry, disk, entry_bytes_max)
        self._epoch_lock = asyncio.Lock()
        self._deleted_lock = asyncio.Lock()
        self.on_removed: Callable[[SteleError], None] = lambda error: None

    async def create(self, spec: GroupSpec, mandate: Mandate) -> bool:
        """True if the replica was created, False if it was there.

        Errors: ClusterMismatch, StoreMismatch (R2.5), Fenced, InvalidArgument, TopicMismatch; StorageFailed and LogDamaged for a
        replica that is here and failed or quarantined: an empty one in its place would have forgotten its votes.  One that joins takes
        the place of a quarantined one all the same: its group has let that go, and what it voted with it.  What was there before the
        call is on the disk after it.
        """
        self._check_meant_for_us(mandate)
        if spec.members and (self.store_id not in spec.members or len(set(spec.members)) != len(spec.members)):
            raise InvalidArgument(
                f"group {spec.group} cannot have the members {list(spec.members)} on store {self.store_id}"
            )
        # Only now: a call that makes no sense must not depose the nameserver that leads.
        ids = HighWater(topics=spec.topic_id + 1, groups=spec.group + 1, stores=max((self.store_id, *spec.members)) + 1)
        await self._obey(
            mandate, ids
        )  # BEFORE the replica is there: whoever has data under an id knows that it was given out
        async with self._locks.hold(spec.group):
            if self._is_here(spec):
                return False
            if spec.members and spec.group in self._held:  # an order that was given before it was lost
                raise StorageFailed(f"group {spec.group} was lost here: it can only join again", group=spec.group)
            if spec.members and spec.group in self.directory.deleted:
                problem = (
                    "it was deleted here, and is in an older copy of the records: delete its topic and create that anew"
                )
                self._fail(spec.group, problem, spec)  # so that it is recorded as one that was here
                self._publish(spec.group)
                raise StorageFailed(f"group {spec.group} cannot begin here: {problem}", group=spec.group)
            if not await asyncio.to_thread(self.directory.create_group, spec):
                # It came after the store was loaded, with a volume perhaps: what is in it counts.
                await self._load_one(spec.group)
                self._publish(spec.group)
                if self._is_here(spec):
                    return False
                raise StorageFailed(
                    f"the folder of group {spec.group} was just cleared away; ask again", group=spec.group
                )
            try:
                if (aside := self.quarantined.get(spec.group)) is not None:
                    # What a crash leaves of both counts as rebuilt, since there is a folder.
                    await asyncio.to_thread(self.directory.release_quarantined, spec.group, "given-up")
                    log.warning("quarantined_given_up", group=spec.group, problem=aside.problem)
                    del self.quarantined[spec.group]
                await self._open(self._replica(spec))  # listed only once it runs: until then it may be taken back
            except Exception as e:
                await self._unmake(spec)
                raise e if isinstance(e, SteleError) else StorageFailed(str(e), group=spec.group) from e
            self._vanished.discard(spec.group)
            log.info("replica_created", group=spec.group, topic=spec.topic, partition=spec.partition)
            return True

    def _is_here(self, spec: GroupSpec) -> bool:
        """Whether the replica runs.  LogDamaged, StorageFailed: it is here and does not; InvalidArgument, TopicMismatch: another's is."""
        if (aside := self.quarantined.get(spec.group)) is not None:
            if aside.topic:
                _check_topic(spec.group, aside.topic_id, spec.topic_id)
            if spec.members:
                raise LogDamaged(f"group {spec.group} is quarantined here: {aside.problem}", path=aside.path)
        known = self.replicas.get(spec.group)
        if known is None:
            return False
        if known.spec.topic:
            _check_same(known.spec, spec)
        if known.state == "failed":
            problem = known.problem or (known.group.problem if known.group is not None else "")
            raise StorageFailed(f"group {spec.group} is here and failed: {problem}", group=spec.group)
        return True

    async def configure(self, group: int, topic_id: int, retention: Retention, mandate: Mandate) -> bool:
        """True if the replica keeps its messages for another time than before, or did not know its topic's id; durable when
        it returns.  ClusterMismatch, StoreMismatch, Fenced, TopicMismatch, NotReady, GroupNotFound."""
        self._check_meant_for_us(mandate)
        await self._obey(mandate)
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

    async def tell(self, mandate: Mandate) -> None:
        """How far the cluster's metadata has come.  ClusterMismatch, StoreMismatch, Fenced."""
        self._check_meant_for_us(mandate)
        await self._obey(mandate)

    async def change_member(
        self, group: int, topic_id: int, store_id: int, role: RoleChange, mandate: Mandate, lost: bool = False
    ) -> bool:
        """One step of the group that this store's replica leads: ``store_id`` gets another role, committed when this returns.  False if
        it has that role.  ``lost``: because it is said to have no replica.

        Errors: ClusterMismatch, StoreMismatch, Fenced, TopicMismatch, GroupNotFound, NotLeader, NotReady (another change is under way,
        too few of those left answer, the new voter lacks entries, or the replica that is lost is heard), InvalidArgument, all definite;
        ProposalLost, Timeout.
        """
        self._check_meant_for_us(mandate)
        replica = self.replica(group)
        _check_topic(group, replica.spec.topic_id, topic_id)
        raft = replica.leading()
        members = role(raft.members, store_id)
        if members == raft.members:
            return False
        check_change(raft.members, members)
        if lost and raft.hears(store_id):
            raise NotReady(
                f"the replica of group {group} that store {store_id} is said to have lost is heard", group=group
            )
        await self._obey(mandate)
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                await raft.change_members(members)
        except TimeoutError:
            raise Timeout(
                f"group {group} has not committed the change of store {store_id}", timeout_s=CHANGE_TIMEOUT_S
            ) from None
        log.info("member_changed", group=group, store=store_id, voters=members.voters, learners=members.learners)
        self._publish(group)
        return True

    async def hand_over(self, group: int, topic_id: int, successor: int, mandate: Mandate, cause: str = "") -> bool:
        """``successor``'s replica is asked to lead in place of this one's, as soon as it holds everything, again and again until this one
        leads no more.  False: it did not lead.

        Errors: ClusterMismatch, StoreMismatch, Fenced, TopicMismatch, GroupNotFound, NotReady (it leads still), all definite.
        """
        self._check_meant_for_us(mandate)
        replica = self.replica(group)
        _check_topic(group, replica.spec.topic_id, topic_id)
        await self._obey(mandate)
        raft = replica.running()
        loop = asyncio.get_running_loop()
        deadline, led = loop.time() + CHANGE_TIMEOUT_S, raft.is_leader
        while raft.is_leader:
            if loop.time() >= deadline:
                raise NotReady(f"store {successor} could not take group {group} over yet", group=group)
            raft.transfer_leadership(successor, cause)
            await asyncio.sleep(HANDOVER_CHECK_S)
        if led:
            log.info("leadership_handed_over_by_order", group=group, successor=successor)
        return led

    async def removed(self, mandate: Mandate) -> None:
        """This store was removed from the cluster for good (R2.6).  ClusterMismatch, StoreMismatch, Fenced."""
        self._check_meant_for_us(mandate)
        await self._obey(mandate)
        log.warning("store_removed", store_id=self.store_id)
        self.on_removed(StoreTombstone(f"store {self.store_id} was removed from this cluster", store_id=self.store_id))

    async def delete(self, group: int, topic_id: int, mandate: Mandate) -> bool:
        """True if there was such a replica.  When it returns nothing of it runs and its folder is gone (R3.4).

        Errors: ClusterMismatch, StoreMismatch, Fenced, TopicMismatch; StorageFailed where what it is cannot be read, and then it runs
        on, or where its folder cannot be moved into the trash: then it is listed as failed, nothing is served from it, and its
        deletion is tried again (``reopen``).
        """
        self._check_meant_for_us(mandate)
        await self._obey(mandate)
        async with self._locks.hold(group):
            if (known := self.replicas.get(group)) is not None:
                _check_topic(group, known.spec.topic_id, topic_id)
                if not known.spec.topic:
                    raise StorageFailed(f"what group {group} is cannot be read: {known.problem}", group=group)
            if (aside := self.quarantined.get(group)) is not None:
                _check_topic(group, aside.topic_id, topic_id)
            if known is not None or aside is not None:
                await self._record_deleted(group)
            # BEFORE the folder goes: what a crash leaves in quarantine without it would come back at the next start.
            existed = await asyncio.to_thread(self.directory.release_quarantined, group, "deleted")
            self.quarantined.pop(group, None)
            return await self._bury(group) or existed

    async def _record_deleted(self, group: int) -> None:
        """BEFORE anything of it goes: where ZooKeeper is put back to a copy of before, the group would begin anew beside replicas that
        still hold what it was."""
        try:
            async with self._deleted_lock:
                await asyncio.to_thread(self.directory.record_deleted, group)
        except DiskFull as e:  # a deletion makes room; it is written with the next one, and counts at once
            log.warning("deletion_not_recorded", group=group, error=e.message)

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

    async def _obey(self, mandate: Mandate, ids: HighWater = NOTHING_TOLD) -> None:
        """Fenced where a higher epoch was seen; what the mandate tells is kept, durable when it returns."""
        async with self._epoch_lock:
            seen, epoch = self.directory.identity.seen, mandate.leader_epoch
            if epoch < seen.epoch:
                raise Fenced(f"nameserver epoch {epoch} was overtaken by {seen.epoch}", epoch=epoch, seen=seen.epoch)
            told = mandate.told.joined(ids).joined(HighWater(epoch=epoch))
            for name in told.beyond(seen):  # BEFORE it is kept: whatever is kept refuses all that is lower
                check_leap(getattr(told, name), getattr(seen, name))
            if told.beyond(seen):
                await asyncio.to_thread(self.directory.record_seen, told)
                self._publish(0)


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
