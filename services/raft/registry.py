"""The groups of one store: created once, deleted for good (F3 in docs/reference/failures.md).

Guarantee: at any moment a group id has at most one running replica here and its directory at most one opener; concurrent creates of
one group return the same instance (R3.1, R3.2); a delete waits for the same lock (R3.3); once a directory is removed from ``root``
nothing of its group is left running (R3.4).  Locks are per group, so a thousand groups are created side by side.

``may_lead`` is the ready gate (R4.2): while it is False the groups vote and follow, and neither campaign nor take over.  The same holds
while ``has_room`` is False: a leader that cannot store its first entry leads nothing, and a vote for itself that cannot be stored
ends the term of one that still serves.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import structlog
from prometheus_client import CollectorRegistry, Counter

from stele.services.clock import SYSTEM, Clock
from stele.services.errors import GroupNotFound, GroupStopped, LogDamaged, NotReady, StorageFailed
from stele.services.files import is_gone, move_folder
from stele.services.keyed_lock import KeyedLock
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.group import Group
from stele.services.raft.journal import UnsyncedBytes
from stele.services.raft.listener import PeerSign
from stele.services.raft.membership import first_members
from stele.services.raft.mending import READ_BYTES_MAX
from stele.services.raft.state_machine import StateMachine
from stele.services.raft.storage import Entry, Members, OpenStorage, SnapshotSource
from stele.services.raft.ticker import Ticker
from stele.services.raft.timing import Timing
from stele.services.tasks import Tasks

log = structlog.get_logger()

DIRECTORY_CHECK_S = 2.0


class Links(Protocol):
    """What the registry needs of the transport."""

    def listen(self, listener: Registry) -> None: ...

    def use(self, store_id: int) -> None: ...

    def release(self, store_id: int) -> None: ...

    def is_connected(self, store_id: int) -> bool: ...

    def send(self, to: int, message: pb.RaftMessage) -> None: ...

    def flush(self) -> None: ...

    def fetch_snapshot(self, store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]: ...

    def fetch_entries(self, store_id: int, group_id: int, first: int, last: int) -> Awaitable[list[Entry]]: ...


@runtime_checkable
class ActivityLinks(Protocol):
    """Links that also report ``peer_silent`` and ``peer_active``.  Over others groups never sleep (services/raft/quiescence.py)."""

    def last_active(self, store_id: int) -> float:
        """When anything came from that store last, on the registry's clock; minus infinity if never."""
        ...


@runtime_checkable
class SharedLinks(Protocol):
    """Links whose groups take turns in sending entries, and that report ``turn`` (services/raft/lanes.py)."""

    def may_send(self, to: int, group_id: int, ahead_bytes: int) -> bool: ...


class Registry:
    """``root`` holds one folder per group; ``open_storage(folder)`` runs on a thread and raises GroupDirectoryBusy or LogDamaged;
    ``observed_ms`` is the time in which the snapshots of this store have an age (datanode/observed_time.py)."""

    def __init__(
        self,
        store_id: int,
        root: Path,
        links: Links,
        open_storage: Callable[[Path], OpenStorage],
        *,
        observed_ms: Callable[[], int],
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
        timing: Timing | None = None,
        entry_bytes_max: int = 1 << 20,
        metrics: CollectorRegistry | None = None,
        has_room: Callable[[], bool] = lambda: True,
        pace: BuildPace | None = None,
    ) -> None:
        self.store_id = store_id
        self.root = root
        self.trash = root.parent / "trash"
        self._links = links
        self._open_storage = open_storage
        self._rng = rng or random.Random()
        self._timing = timing or Timing()
        self._entry_bytes_max = entry_bytes_max
        self._observed_ms = observed_ms
        self._ticker = Ticker(links.send, links.flush, clock)
        self._unsynced = UnsyncedBytes()
        self._groups: dict[int, Group] = {}
        self._storage: dict[int, OpenStorage] = {}
        self._by_peer: dict[int, dict[Group, None]] = {}  # in the order in which they came: none by address
        self._linked: dict[Group, set[int]] = {}
        self._locks = KeyedLock[int]()  # by group
        self._may_lead = False
        self._has_room = has_room
        self._pace = pace or BuildPace()
        self._closed = False
        self._tasks = Tasks()
        self._watching: asyncio.Task[None] | None = None
        self.on_peer: Callable[[PeerSign, int], None] = lambda sign, store_id: None  # before the groups are told
        metrics = metrics or CollectorRegistry()
        self._vanished = Counter(
            "stele_group_directories_vanished",
            "Groups whose directory vanished under them",
            registry=metrics,
        )
        self.messages_refused = 0
        self._refusals = Counter(
            "stele_raft_messages_refused",
            "Messages of other stores that no replica can have said, and that were dropped",
            registry=metrics,
        )
        links.listen(self)

    # --- groups -----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds, by which its groups run."""
        return self._ticker.now()

    def get(self, group_id: int) -> Group | None:
        return self._groups.get(group_id)

    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def path(self, group_id: int) -> Path:
        return self.root / str(group_id)

    async def create(self, group_id: int, members: Sequence[int] | Members, machine: StateMachine) -> Group:
        """The running group, opened or begun in its folder, which is there: nothing is made in the place of one that is gone, since a
        replica that forgot its votes would vote again.  A group that runs already is returned as it is, and ``machine`` is not used.

        ``members`` are those that a new group begins with; none for a replica that joins one that exists: it is silent until a leader
        tells it.  What the storage says of members goes before.

        Errors: GroupDirectoryBusy, LogDamaged, OSError of opening (FileNotFoundError without a folder); GroupStopped once the registry
        is closed.  The folder stays as it is.
        """
        async with self._locks.hold(group_id):
            running = self._groups.get(group_id)
            if running is not None:
                return running
            if self._closed:
                raise GroupStopped(f"store {self.store_id} is stopping", group=group_id)
            storage, state = await asyncio.to_thread(self._open, self.path(group_id))
            if self._closed:
                await asyncio.to_thread(storage.close)
                raise GroupStopped(f"store {self.store_id} is stopping", group=group_id)
            try:
                if state is not None:
                    _restore(machine, state, self.path(group_id))
                group = self._start(group_id, first_members(members), machine, storage)
            except BaseException:
                await asyncio.to_thread(storage.close)
                raise
            self._groups[group_id] = group
            self._storage[group_id] = storage
            return group

    def _open(self, path: Path) -> tuple[OpenStorage, bytes | None]:
        """The storage and the state of its newest snapshot."""
        storage = self._open_storage(path)
        try:
            newest = storage.snapshots.snapshots
            return storage, storage.snapshots.read(newest[-1].index) if newest else None
        except BaseException:
            storage.close()
            raise

    def _start(self, group_id: int, members: Members, machine: StateMachine, storage: OpenStorage) -> Group:
        group = Group(
            group_id,
            self.store_id,
            members,
            storage,
            machine,
            self._ticker,
            self._rng,
            self._timing,
            lambda: self._may_lead and self._has_room(),
            self._entry_bytes_max,
            self.path(group_id),
            self._vanished.inc,
            self._refused,
            self._links.fetch_snapshot,
            self._links.fetch_entries,
            self._observed_ms,
            self._link,
            self._unsynced,
        )
        group.engine.replication.pace = self._pace
        if isinstance(self._links, ActivityLinks):
            group.engine.quiescence.node_active_at = self._links.last_active
        if isinstance(self._links, SharedLinks):
            may_send = self._links.may_send
            group.engine.replication.may_send = lambda to, ahead_bytes: may_send(to, group_id, ahead_bytes)
        self._linked[group] = set()
        self._link(group)
        self._ticker.wake(group)
        if self._watching is None:
            self._watching = self._tasks.keep(self._watch_directories, "group-directories")
        return group

    async def delete(self, group_id: int) -> bool:
        """Stops the group and moves its directory into the trash, whole, where whoever owns that keeps or removes it (R3.4).  False if
        there was neither."""
        async with self._locks.hold(group_id):
            stopped = await self._stop(group_id)
            return await asyncio.to_thread(self._discard, self.path(group_id)) or stopped

    async def stop_group(self, group_id: int) -> None:
        """Stops the group and closes its storage; its directory stays (quarantine moves it, R4.5)."""
        async with self._locks.hold(group_id):
            await self._stop(group_id)

    async def _stop(self, group_id: int) -> bool:
        group = self._groups.get(group_id)
        if group is None:
            return False
        for peer in self._linked.pop(group):
            self._by_peer[peer].pop(group, None)
            self._links.release(peer)
        await group.stop()
        try:
            await asyncio.to_thread(self._storage.pop(group_id).close)
        finally:  # whatever closing came to, it runs no more: half registered, it could neither be stopped nor opened again
            if self._groups.get(group_id) is group:  # R3.2: only what we stopped
                del self._groups[group_id]
        return True

    def _discard(self, path: Path) -> bool:
        """Durable when it returns: what is said to be deleted does not come back by a loss of power.  StorageFailed: the directory is still
        there, or it is not known whether it is."""
        if is_gone(path):
            return False
        try:
            self.trash.mkdir(parents=True, exist_ok=True)
            move_folder(path, self.trash / f"{path.name}-{uuid.uuid4().hex}")
        except OSError as e:
            raise StorageFailed(f"{path} cannot be moved into the trash: {e.strerror or e}", path=path) from e
        return True

    def _link(self, group: Group) -> None:
        """A link to each of its members, and to nobody else."""
        linked = self._linked.get(group)
        if linked is None:
            return
        wanted = {*group.members.voters, *group.members.learners} - {self.store_id}
        for peer in sorted(wanted - linked):
            linked.add(peer)
            self._by_peer.setdefault(peer, {})[group] = None
            self._links.use(peer)
            if self._links.is_connected(peer):
                group.connected(peer)
        for peer in sorted(linked - wanted):
            linked.discard(peer)
            self._by_peer[peer].pop(group, None)
            group.disconnected(peer)
            self._links.release(peer)

    # --- readiness, draining ------------------------------------------------------------------------------------------

    @property
    def may_lead(self) -> bool:
        return self._may_lead

    @may_lead.setter
    def may_lead(self, open_: bool) -> None:
        self._may_lead = open_
        for group in self._groups.values():
            self._ticker.wake(group)

    def settled(self, group_id: int) -> bool:
        """Whether the group does not hold the ready gate any more (R4.1, R4.3)."""
        group = self._groups.get(group_id)
        return group is not None and group.settled

    async def transfer_all(self, deadline_s: float) -> int:
        """Hands leadership over, group by group, for at most ``deadline_s`` seconds (R4.8).  Returns how many are still led here."""
        self._may_lead = False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            led = [g for g in self._groups.values() if g.is_leader and len(g.members.voters) > 1]
            if not led or loop.time() >= deadline:
                return len(led)
            for group in led:
                group.transfer_leadership(cause="stopping")
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Stops every group and closes its storage."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(self.stop_group(g) for g in list(self._groups)))
        self._ticker.close()

    async def _watch_directories(self) -> None:
        while True:
            await asyncio.sleep(DIRECTORY_CHECK_S)
            watched = [(g, self.path(g.group_id)) for g in self._groups.values() if not g.engine.failed]
            gone = await asyncio.to_thread(_look, watched, list(self._storage.values()))
            for group in gone:
                if self._groups.get(group.group_id) is group and not group.engine.failed:
                    group.directory_vanished()

    # --- what arrives from the transport --------------------------------------------------------------------------------

    def deliver(self, sender: int, message: pb.RaftMessage) -> None:
        group = self._groups.get(message.group)
        if group is not None:
            group.receive(sender, message)

    def _refused(self, sender: int, group_id: int, reason: str) -> None:
        """Counts it; says so at the first, second, fourth … time, whatever a peer sends."""
        self.messages_refused += 1
        self._refusals.inc()
        if self.messages_refused & (self.messages_refused - 1) == 0:
            log.warning(
                "raft_message_refused", group=group_id, peer=sender, reason=reason, refused=self.messages_refused
            )

    def open_snapshot(self, group_id: int, index: int) -> SnapshotSource:
        """For a peer that fetches it.  Blocks.  GroupNotFound; KeyError if there is no such snapshot."""
        group, storage = self._groups.get(group_id), self._storage.get(group_id)
        if group is None or storage is None:
            raise GroupNotFound(f"store {self.store_id} has no replica of group {group_id}", group=group_id)
        try:
            return storage.snapshots.open(index)
        except LogDamaged:
            group.suspect_snapshot(index)
            raise

    async def read_entries(self, group_id: int, first: int, last: int) -> list[Entry]:
        """For a peer whose copy is damaged: committed entries from ``first`` on, at least that one.  GroupNotFound; NotReady: not known
        here to be committed, or not kept; LogDamaged."""
        group, storage = self._groups.get(group_id), self._storage.get(group_id)
        if group is None or storage is None:
            raise GroupNotFound(f"store {self.store_id} has no replica of group {group_id}", group=group_id)
        # What is synced: behind it the disk may hold entries that the log has replaced by then.
        last = min(last, group.commit_index, group.journal.synced_index)
        if not group.journal.first_index <= first <= last:
            raise NotReady(f"store {self.store_id} has no committed entry {first} of group {group_id}")
        try:
            return await asyncio.to_thread(storage.log.read, first, last, READ_BYTES_MAX)
        except IndexError:
            raise NotReady(f"store {self.store_id} does not keep entry {first} of group {group_id}") from None
        except LogDamaged as e:
            group.report_damage(e)
            raise

    def turn(self, store_id: int, group_id: int) -> None:
        group = self._groups.get(group_id)
        if group is not None:
            self._ticker.wake(group)

    def peer_connected(self, store_id: int) -> None:
        self.on_peer(PeerSign.CONNECTED, store_id)
        for group in list(self._by_peer.get(store_id, ())):
            group.connected(store_id)

    def peer_disconnected(self, store_id: int) -> None:
        self.on_peer(PeerSign.DISCONNECTED, store_id)
        for group in list(self._by_peer.get(store_id, ())):
            group.disconnected(store_id)

    def peer_gone(self, store_id: int) -> None:
        self.on_peer(PeerSign.GONE, store_id)
        for group in list(self._by_peer.get(store_id, ())):
            group.peer_gone(store_id)

    def peer_silent(self, store_id: int) -> None:
        self.on_peer(PeerSign.SILENT, store_id)
        for group in list(self._by_peer.get(store_id, ())):
            group.peer_silent(store_id)

    def peer_active(self, store_id: int) -> None:
        self.on_peer(PeerSign.ACTIVE, store_id)
        for group in list(self._by_peer.get(store_id, ())):
            group.peer_active(store_id)


def _look(watched: Sequence[tuple[Group, Path]], open_ones: Sequence[OpenStorage]) -> list[Group]:
    """Notes how far each log is synced, so that a later start sees what it lost (R4.5); the groups whose folder is gone."""
    for storage in open_ones:
        storage.note_synced()
    return [group for group, path in watched if is_gone(path)]


def _restore(machine: StateMachine, state: bytes, path: Path) -> None:
    try:
        machine.restore(state)
    except ValueError as e:
        raise LogDamaged(f"the newest snapshot in {path} is no state: {e}", path=path, offset=0) from e
