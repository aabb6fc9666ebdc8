"""One replica of a group on the event loop: the engine, its journal's flushes and futures for its proposers.

Guarantee: a proposal's future ends with the result of ``apply``, or with an error that says whether the outcome is known.  Everything
happens on one loop; only :meth:`Flush.run` leaves it, on the flush threads of the ticker.

    group.propose(payload) -> Future     on the leader
    group.read_index() -> Future         on the leader: from here the machine may be read
    group.add_member(store_id)           learner, caught up, voter
    group.take_snapshot(), compact()     what is applied now; what may go
    group.mend(index)                    a damaged entry, had again from a peer
    group.subscribe(callback)            leader or state changed

Failures of storage end the replica, never the process: ENOSPC makes it read-only until space returns, any other error stops it
(a sync that failed is never taken for done).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import structlog

from stele.services.errors import (
    DiskFull,
    GroupStopped,
    InvalidArgument,
    LogDamaged,
    NotReady,
    SteleError,
    StorageFailed,
)
from stele.services.files import is_gone
from stele.services.pb import raft_pb2 as pb
from stele.services.raft import membership
from stele.services.raft.door import MessageRefused
from stele.services.raft.election import Victory
from stele.services.raft.engine import Engine
from stele.services.raft.journal import Flush, Journal, UnsyncedBytes
from stele.services.raft.mending import FetchEntries, Mending
from stele.services.raft.snapshotting import Fetch, Snapshotting
from stele.services.raft.state_machine import StateMachine
from stele.services.raft.storage import Entry, Members, OpenStorage, Snapshot
from stele.services.raft.ticker import Ticker
from stele.services.raft.timing import Timing
from stele.services.tasks import Tasks

log = structlog.get_logger()

DISK_FULL_RETRY_S = 1.0
READY_CHECK_S = 0.05


class Group:
    """A running replica.  Made by the registry (services/raft/registry.py), which owns its storage.

    ``first_members`` are those of a group of which the storage says nothing yet; ``machine`` is as its newest snapshot has it.
    """

    def __init__(
        self,
        group_id: int,
        store_id: int,
        first_members: Members,
        storage: OpenStorage,
        machine: StateMachine,
        ticker: Ticker,
        rng: random.Random,
        timing: Timing,
        may_lead: Callable[[], bool],
        entry_bytes_max: int,
        directory: Path,
        count_vanished: Callable[[], None],
        refused: Callable[[int, int, str], None],
        fetch: Fetch,
        fetch_entries: FetchEntries,
        observed_ms: Callable[[], int],
        on_members: Callable[[Group], None],
        unsynced: UnsyncedBytes,
    ) -> None:
        self.group_id = group_id
        self.store_id = store_id
        self.machine = machine
        self.journal = Journal(storage.log, storage.terms, storage.snapshots, first_members, on_disk=unsynced)
        self._storage = storage
        self._ticker = ticker
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._count_vanished = count_vanished
        self._refused = refused
        self._callbacks: list[Callable[[Group], None]] = []
        self.engine = Engine(
            group_id,
            store_id,
            self.journal,
            machine,
            ticker.now,
            rng,
            timing,
            may_lead,
            entry_bytes_max,
            observed_ms,
            storage.recovering,
        )
        self.engine.on_change = self._changed
        self.engine.on_members = lambda: self._soon(on_members)
        self._snapshotting = Snapshotting(
            self.engine, storage.snapshots, fetch, observed_ms, lambda: ticker.wake(self), self._broken
        )
        self._mending = Mending(self.engine, storage.log, fetch_entries, lambda: ticker.wake(self))
        self.on_damage: Callable[[LogDamaged], None] = lambda _: None
        self.engine.on_damage = self.report_damage
        self.on_transfer: Callable[[int, str], None] = lambda successor, cause: None
        self.engine.on_transfer = lambda successor, cause: self.on_transfer(successor, cause)
        self._retry: asyncio.TimerHandle | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._flush_began = 0.0
        self._tasks = Tasks(lambda _, error: self._broken(error))
        self._checking: asyncio.Task[None] | None = None  # a snapshot that was found damaged
        self._stopped = False
        self._keeping: asyncio.Task[None] | None = None  # what becomes durable of its recovery

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.engine.is_leader

    @property
    def leader_store_id(self) -> int:
        return self.engine.leader

    @property
    def members(self) -> Members:
        """Those in force here, committed or not."""
        return self.engine.members

    @property
    def members_settled(self) -> bool:
        """It leads, and they are committed."""
        return self.engine.members_settled

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Oldest first; each is durable."""
        return self.journal.snapshots

    @property
    def term(self) -> int:
        return self.engine.term

    @property
    def victory(self) -> Victory | None:
        """How it came to lead, the last time that it did."""
        return self.engine.election.victory

    @property
    def state(self) -> str:
        """``follower``, ``candidate``, ``leader``, ``recovering`` (entries were lost and come back from its peers) or ``failed``."""
        return "recovering" if self.engine.recovering and not self.engine.failed else self.engine.state

    @property
    def problem(self) -> str:
        """One line when the replica has failed, recovers or does not catch up after its start; else empty."""
        engine = self.engine
        if engine.failed:
            return str(engine.failed)
        if engine.recovering:
            return f"lost entries that it had acknowledged, holds {self.last_index} and does not count until it has all again"
        if engine.catch_up.is_stuck(self._ticker.now()):
            return f"does not catch up: at {engine.applied_index} of {engine.catch_up.leader_commit} since its start"
        return ""

    @property
    def commit_index(self) -> int:
        return self.engine.commit_index

    @property
    def applied_index(self) -> int:
        return self.engine.applied_index

    @property
    def last_index(self) -> int:
        return self.journal.last_index

    @property
    def log_bytes(self) -> int:
        return self.journal.bytes

    @property
    def disk_full(self) -> bool:
        return self.journal.disk_full

    @property
    def awaits_disk_s(self) -> float:
        """For how long the disk has owed the end of a write or sync; 0 while it owes none."""
        return 0.0 if self._flushed.is_set() else self._ticker.now() - self._flush_began

    @property
    def settled(self) -> bool:
        """Loaded and caught up, or no leader anywhere, or failed, recovering or stuck: it does not hold the ready gate (R4.1, R4.3,
        R4.5)."""
        return self.engine.failed is not None or self.engine.caught_up

    def subscribe(self, callback: Callable[[Group], None]) -> None:
        """``callback(group)`` soon after each change of leader, term or state; on the loop, never nested in the change itself."""
        self._callbacks.append(callback)

    # --- what can be asked of it --------------------------------------------------------------------------------------

    def propose(self, payload: bytes) -> asyncio.Future[object]:
        """Replicates ``payload``.  The future ends with the result of ``apply`` on this replica.

        Errors, of what was not accepted: NotLeader (fact ``leader``), MessageTooLarge, Overloaded, DiskFull, GroupStopped, all definite;
        of what was: ProposalLost, StorageFailed (indefinite).
        """
        return self._asked(self.engine.propose, payload)

    def read_index(self) -> asyncio.Future[int]:
        """Linearizable reads: once the future is done, what is read from the machine before control returns to the loop holds
        everything that was acknowledged before this call.  It ends with the applied index.

        Errors, all definite (a read has no effect): NotLeader (fact ``leader``), Overloaded, GroupStopped, StorageFailed.
        """
        return self._asked(self.engine.read_index)

    def _asked(self, ask: Callable[..., None], *arguments: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: object, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            ask(*arguments, done)
        except Exception as e:
            future.set_exception(e)
            return future
        self._ticker.wake(self)
        return future

    # --- members ------------------------------------------------------------------------------------------------------

    @property
    def successor(self) -> int:
        """The store that leadership is being handed to, while nothing can be proposed here; 0: none."""
        return self.engine.handover.successor

    def hears(self, store_id: int) -> bool:
        """Whether this leader has heard that follower within one election timeout, or, while the group sleeps, its node."""
        heard = self.engine.hears(store_id)
        self._ticker.wake(self)
        return heard

    def change_members(self, members: Members) -> asyncio.Future[object]:
        """One store more or less, or a learner promoted (H6).  The future is done once a majority of the new set has it.

        Errors: NotLeader, InvalidArgument, NotReady (another change is under way, or the new voter has not caught up), DiskFull, all
        definite; ProposalLost, StorageFailed, indefinite.
        """
        return self._asked(self.engine.change_members, members)

    async def add_member(self, store_id: int) -> None:
        """Makes ``store_id`` a learner, waits until it holds what is committed, and makes it a voter; waits for other changes too.

        Bounded by the caller's deadline; may be repeated after any error.  Errors: those of :meth:`change_members` but NotReady.
        """
        while store_id not in self.members.voters:
            step = membership.with_voter if store_id in self.members.learners else membership.with_learner
            await self._change_when_ready(step(self.members, store_id))

    async def remove_member(self, store_id: int) -> None:
        """Takes ``store_id`` out of the group, if it is in it.  Like :meth:`add_member`."""
        while store_id in (*self.members.voters, *self.members.learners):
            await self._change_when_ready(membership.without(self.members, store_id))

    async def _change_when_ready(self, members: Members) -> None:
        try:
            await self.change_members(members)
        except NotReady:
            await asyncio.sleep(READY_CHECK_S)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    async def take_snapshot(self) -> Snapshot | None:
        """A snapshot of what is applied now; None if nothing was applied since the last one, or one is under way.

        Errors: DiskFull (nothing has changed); StorageFailed, GroupStopped.
        """
        return await self._snapshotting.take()

    def compact(self, index: int) -> bool:
        """The snapshot at ``index`` becomes the oldest: those before it and whole segments of entries up to it go.

        False while a follower may be fetching an older one: ask again later.  InvalidArgument if there is no such snapshot.
        """
        if all(snapshot.index != index for snapshot in self.snapshots):
            raise InvalidArgument(f"group {self.group_id} has no snapshot at entry {index}")
        offered = self.engine.offered_index
        if offered is not None and offered < index:
            return False
        self.journal.compact(index)
        self._ticker.wake(self)
        return True

    async def drop_snapshots(self, indexes: Set[int]) -> None:
        """Removes snapshots that nobody needs; the log stays as it is.  One that a follower may be fetching stays, and so does the
        oldest where the log begins behind 1 (H10)."""
        oldest = self.snapshots[0].index if self.snapshots and self.journal.first_index > 1 else None
        gone = set(indexes) - {self.engine.offered_index, oldest}
        if gone:
            await self._snapshotting.drop(gone)

    # --- damage -------------------------------------------------------------------------------------------------------

    def report_damage(self, error: LogDamaged) -> None:
        """An entry of its log was found damaged (fact ``index``): ``on_damage`` is told, soon."""
        if not self._stopped:
            self._loop.call_soon(lambda: self.on_damage(error))

    def read_stored(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """What is on the disk of these entries, checked, on any thread; as ``LogStorage.read``."""
        return self._storage.log.read(first, last, bytes_max)

    def suspect_snapshot(self, index: int) -> None:
        """It was found damaged, on any thread: set aside if nobody needs it; else its leadership goes to one that may have a whole one."""

        def begin() -> None:
            if not self._stopped and self._checking is None:
                self._checking = self._tasks.start(self._check_suspect(index), "check-snapshot")

        self._loop.call_soon_threadsafe(begin)

    async def _check_suspect(self, index: int) -> None:
        try:
            await self.check_snapshot(index)
        except LogDamaged as e:
            self.engine.report_damage(e)
            self._ticker.wake(self)
        except (SteleError, OSError) as e:
            log.warning("snapshot_not_set_aside", group=self.group_id, index=index, problem=str(e))
        finally:
            self._checking = None

    async def check_snapshot(self, index: int) -> None:
        """Reads it whole.  One that is damaged is set aside if there is all without it that it stands for; else LogDamaged."""
        await self._snapshotting.check(index)

    async def mend(self, index: int) -> None:
        """When it returns entry ``index`` is readable again, had from a peer.  Errors: those of ``Mending.mend``."""
        await self._mending.mend(index)

    # --- what is stored -------------------------------------------------------------------------------------------------

    def transfer_leadership(self, to: int | None = None, cause: str = "") -> bool:
        """Hands leadership to the most caught-up follower, or to ``to``; True if that is under way (services/raft/handover.py)."""
        begun = self.engine.transfer_leadership(to, cause)
        self._ticker.wake(self)
        return begun

    # --- events from the transport and the ticker --------------------------------------------------------------------

    def receive(self, sender: int, message: pb.RaftMessage) -> None:
        self._guarded(self._receive, sender, message)

    def _receive(self, sender: int, message: pb.RaftMessage) -> None:
        """What no replica can have said is dropped: it must not cost the group this one (H17)."""
        try:
            self.engine.receive(sender, message)
        except MessageRefused as e:
            self._refused(sender, self.group_id, str(e))

    def connected(self, store_id: int) -> None:
        self._guarded(self.engine.connected, store_id)

    def disconnected(self, store_id: int) -> None:
        self._guarded(self.engine.disconnected, store_id)

    def peer_gone(self, store_id: int) -> None:
        self._guarded(self.engine.peer_gone, store_id)

    def peer_silent(self, store_id: int) -> None:
        self._guarded(self.engine.peer_silent, store_id)

    def peer_active(self, store_id: int) -> None:
        self._guarded(self.engine.peer_active, store_id)

    def step(self) -> float:
        """One turn: time, messages that may leave, the next flush.  Returns the monotonic second of the next turn."""
        if self._stopped:
            return float("inf")
        try:
            self.engine.tick()
        except Exception as e:
            self._broken(e)
        self._send_ready()
        self._start_flush()
        recovery = self.engine.recovery
        if (recovery.unmarked or recovery.holds_again) and self._keeping is None and not self.engine.failed:
            self._keeping = self._tasks.start(self._keep_recovery(), "keep-recovery")
        return self.engine.next_deadline()

    def _guarded(self, event: Callable[..., None], *arguments: Any) -> None:
        if self._stopped:
            return
        try:
            event(*arguments)
        except Exception as e:
            self._broken(e)
        self._ticker.wake(self)

    def _send_ready(self) -> None:
        for outgoing in self.engine.take_ready():
            self._ticker.send(outgoing.to, outgoing.message)

    def _start_flush(self) -> None:
        if self._retry is not None or self.engine.failed:
            return
        flush = self.journal.begin()
        if flush is None:
            return
        self._flushed.clear()
        self._flush_began = self._ticker.now()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._ticker.flush_threads, flush.run)
        running.add_done_callback(lambda _: self._flush_done(flush))

    def _flush_done(self, flush: Flush) -> None:
        error = self.journal.finish(flush)
        self._flushed.set()
        self._snapshotting.flushed()
        self._mending.flushed()
        if self._stopped:
            return
        if isinstance(error, DiskFull):
            log.warning("disk_full", group=self.group_id, store=self.store_id)
            self._retry = asyncio.get_running_loop().call_later(DISK_FULL_RETRY_S, self._retry_flush)
        elif error is not None:
            self._broken(error)
        else:
            self.engine.synced()
        self._ticker.wake(self)

    def _retry_flush(self) -> None:
        self._retry = None
        self._ticker.wake(self)

    def _broken(self, error: BaseException) -> None:
        """The replica cannot go on: no vote, no acknowledgement leaves it any more (R3.8)."""
        if is_gone(self._directory):
            self.directory_vanished()
        elif not self.engine.failed:
            log.error("replica_failed", group=self.group_id, store=self.store_id, error=repr(error), exc_info=error)
            self.engine.fail(
                StorageFailed(f"replica of group {self.group_id} on store {self.store_id} stopped: {error}")
            )

    async def _keep_recovery(self) -> None:
        """That it recovers is durable as soon as it is known: a restart, half filled up, would look whole.  And, PERSIST BEFORE VOTE,
        that it does no more: once it counts again, a restart must not take it for one that lost entries."""
        recovery, about = self.engine.recovery, {"group": self.group_id, "store": self.store_id}
        try:
            if recovery.unmarked:
                log.warning("replica_recovering", last_index=self.last_index, **about)
                await asyncio.to_thread(self._storage.lost)
                recovery.marked()
            if recovery.holds_again:
                await asyncio.to_thread(self._storage.recovered)
                log.info("replica_recovered", last_index=self.last_index, **about)
                self.engine.recovered()
        except Exception as e:
            self._broken(e)
        self._keeping = None
        self._changed()

    def directory_vanished(self) -> None:
        """Its directory is no longer there: it stops itself and reports once (R3.7)."""
        if not self.engine.failed:
            self._count_vanished()
            log.error("group_directory_vanished", group=self.group_id, store=self.store_id)
            self.engine.fail(GroupStopped(f"the directory of group {self.group_id} has vanished", group=self.group_id))

    def directory_replaced(self, problem: str) -> None:
        """Its directory's path leads elsewhere: it ends, as where its disk fails (R3.8)."""
        if not self.engine.failed:
            self.engine.fail(StorageFailed(problem, group=self.group_id))

    def _changed(self) -> None:
        if not self._stopped and self._callbacks:
            asyncio.get_running_loop().call_soon(self._publish)
        if self.engine.failed:
            self._snapshotting.flushed()
            self._mending.flushed()
        self._ticker.wake(self)

    def _soon(self, callback: Callable[[Group], None]) -> None:
        """Outside of the event that is being handled."""
        if not self._stopped:
            asyncio.get_running_loop().call_soon(callback, self)

    def _publish(self) -> None:
        for callback in list(self._callbacks):
            try:
                callback(self)
            except Exception:
                log.exception("group_callback_failed", group=self.group_id)

    async def stop(self) -> None:
        """Ends every task, timer and flush of this replica; afterwards its storage may be closed (R3.4)."""
        if not self._stopped:
            self.engine.fail(
                GroupStopped(f"group {self.group_id} on store {self.store_id} is stopping", group=self.group_id)
            )
            self._send_ready()
            self._ticker.flush()
            self._stopped = True
            self._callbacks.clear()
            if self._retry is not None:
                self._retry.cancel()
            self._ticker.forget(self)
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self._snapshotting.stop()
        await self._mending.stop()
        await self._flushed.wait()
        self.journal.close()
        if self._keeping is not None:
            await asyncio.gather(self._keeping, return_exceptions=True)
