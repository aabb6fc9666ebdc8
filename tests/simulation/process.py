"""A store under simulation: its disk, which outlives its processes, and the process that runs on it now.

The process is the product's: Registry, Group, Ticker, Engine, Journal, the storage that ``opener`` opens on a simulated disk, and a
Replica with its partition for a state machine.  What it would ask of the machine it asks of the world: time, threads, folders,
locks, links.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

import stele.datanode.log.log as log_module
from stele.datanode.commands import Outcome, TrimOutcome
from stele.datanode.directory import GroupSpec
from stele.datanode.log import frames
from stele.datanode.log.reached import REACHED_NAME, read_reached
from stele.datanode.log.segments import HEADER_BYTES, base_of, read_header, segment_name
from stele.datanode.log.snapshot_format import index_of
from stele.datanode.replica import Replica
from stele.datanode.storage import RECOVERING_NAME, GroupStorage, opener
from stele.services.errors import SteleError
from stele.services.raft import membership
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry
from tests.simulation.durable import DurableLog
from tests.simulation.loop import Latency, SimulatedLoop
from tests.support.disks import SimulatedDisk

if TYPE_CHECKING:
    from tests.simulation.world import World

GROUP = 7
ROOT = "/data/groups"
ENTRY_BYTES_MAX = 1 << 16
DISK_RESERVE_BYTES = 2048
READY_POLL_S = 0.05
CHANGE_TIMEOUT_S = 4.0
HAND_OVER_S = 0.5
VOTERS_MIN, VOTERS_MAX = 2, 5


class SimulatedPath(PosixPath):
    """A path on a simulated disk: a subclass per disk, so that what the product derives from it stays there."""

    disk: SimulatedDisk

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self.disk.makedirs(self)

    def is_dir(self) -> bool:
        return self.disk.has_folder(self)

    def exists(self) -> bool:
        return self.disk.has_folder(self) or self.disk.has_file(self)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return os.stat_result((stat.S_IFDIR if self.is_dir() else stat.S_IFREG, *[0] * 9))

    def unlink(self, missing_ok: bool = False) -> None:
        if missing_ok and not self.disk.has_file(self):
            return
        self.disk.unlink(self)


class _Lock:
    """A simulated disk belongs to one process anyway."""

    def check_in_place(self) -> None:
        return None

    def release(self) -> None:
        return None


class _Secrets:
    """Checksum seeds of segments come from the run's seed while one is under way."""

    rng: random.Random | None = None

    def randbits(self, bits: int) -> int:
        return (self.rng or random.SystemRandom()).getrandbits(bits)


_seeds = _Secrets()
log_module.secrets = _seeds  # type: ignore[assignment]


class _Room:
    def take(self, size: int) -> bool:
        return True


class Machine(Replica):
    """The product's replica, watched: every outcome is compared with what other replicas came to."""

    def __init__(self, process: Process, members: tuple[int, ...]) -> None:
        super().__init__(GroupSpec(GROUP, "topic", 0, members), process.store.id, ENTRY_BYTES_MAX, _Room())
        self._process = process

    def apply(self, index: int, term: int, payload: bytes) -> Outcome:
        outcome = super().apply(index, term, payload)
        if not self._process.loop.dead:
            with self._process.world.noticing():
                self._process.world.checks.applied(self._process, index, payload, outcome)
        return outcome

    def restore(self, state: bytes) -> None:
        super().restore(state)
        if not self._process.loop.dead:
            if self._process.group is not None:
                self._process.world.counts["snapshots installed"] += 1
            with self._process.world.noticing():
                self._process.world.checks.restored(self._process, self.partition.applied_index, state)


class _Clock:
    def __init__(self, loop: SimulatedLoop, wall_base_ms: int) -> None:
        self.monotonic = loop.time
        self._wall_base_ms = wall_base_ms

    def wall_ms(self) -> int:
        return self._wall_base_ms + int(self.monotonic() * 1000)


class Process:
    """One incarnation of a store's process."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store
        self.group: Group | None = None
        self.machine: Machine | None = None
        rng = random.Random(world.rng.getrandbits(64))
        self.loop = SimulatedLoop(
            world.scheduler, rng, store.latency, self._after_handle, self._failed, self._died, self._worked
        )
        self.loop._drift = store.drift
        self.links = world.network.attach(self)
        self.registry: Registry | None = None
        # what the checks have seen of it
        self.led_term = 0
        self.campaign_term = 0
        self.asleep_seen = False
        self.recovering_seen = False
        self.commit_seen = 0
        self.position_seen = -1
        self.applied_seen = 0
        self._rng = rng
        self._aside: set[asyncio.Task[object]] = set()
        self._ending = False
        self.closed = False  # in order: its group has ended, or is about to
        self.leaving: set[int] = set()  # members whose removal was asked for and may come any moment

    def start(self) -> None:
        world, store = self.world, self.store
        self.links.alive = True
        world.network.process_started(store.id)
        asyncio.events._set_running_loop(self.loop)
        try:
            self.registry = Registry(
                store.id,
                store.path,
                self.links,
                self._opener(),
                observed_ms=lambda: int(self.loop.time() * 1000),
                clock=_Clock(self.loop, 1_700_000_000_000),
                rng=random.Random(self._rng.getrandbits(64)),
                timing=world.timing,
                entry_bytes_max=ENTRY_BYTES_MAX,
            )
            self._starting = self.loop.create_task(self._run())
        finally:
            asyncio.events._set_running_loop(None)

    def _opener(self) -> Callable[[Path], GroupStorage]:
        world, disk = self.world, self.store.disk
        open_group = opener(world.segment_bytes, DISK_RESERVE_BYTES, disk, lambda folder: _Lock())
        seeds = random.Random(self._rng.getrandbits(64))

        def opened(folder: Path) -> GroupStorage:
            _seeds.rng = seeds
            return open_group(folder)

        return opened

    async def _run(self) -> None:
        assert self.registry is not None
        first = self.world.first_members
        members = first if self.store.id in first else ()  # a spare one joins what exists
        machine = Machine(self, members)
        self.registry.path(GROUP).mkdir(parents=True, exist_ok=True)  # what is in it lies on the simulated disk
        try:
            self.group = await self.registry.create(GROUP, members, machine)
        except (SteleError, OSError) as e:
            self.world.start_failed(self, e)
            return
        machine.run(self.group)
        self.machine = machine
        self.world.checks.opened(self)
        try:
            groups = [self.group, *await self.world.companions.open(self)]
        except (SteleError, OSError) as e:
            self.world.start_failed(self, e)
            return
        while not all(group.settled for group in groups):  # noqa: ASYNC110 - so does the store's gate
            await asyncio.sleep(READY_POLL_S)
        self.registry.may_lead = True
        if self.world.retention_s:
            self._run_aside(self._retain(self.world.retention_s), "")

    async def _retain(self, every_s: float) -> None:
        """A snapshot now and then; the leader gives up old messages; what nothing stands for any more goes."""
        group = self.group
        assert group is not None
        while not group.engine.failed:
            await asyncio.sleep(self._rng.uniform(0.3, 1.7) * every_s)
            self.take_snapshot()
            self.trim(self._rng.random())
            self.compact()

    # --- what an operator or a timer asks of it -------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        assert self.group is not None
        self._run_aside(self.group.take_snapshot(), "snapshots asked for")

    def trim(self, share: float) -> None:
        """Retention's decision: the leader gives up what one of its snapshots stands for."""
        group, machine = self.group, self.machine
        if group is not None and machine is not None and group.is_leader and group.snapshots:
            snapshot = group.snapshots[int(share * len(group.snapshots))]
            self._run_aside(self._trim(machine, snapshot.mark), "trims")

    @staticmethod
    async def _trim(machine: Machine, log_start: int) -> None:
        assert isinstance(await machine.trim(log_start), TrimOutcome)

    def compact(self) -> None:
        """As far as what is kept allows."""
        group, machine = self.group, self.machine
        if group is None or machine is None:
            return
        reached = [s.index for s in group.snapshots if s.mark <= machine.partition.log_start]
        if (
            reached
            and not group.engine.failed
            and reached[-1] > group.snapshots[0].index
            and group.compact(reached[-1])
        ):
            self.world.counts["compactions"] += 1

    def add_member(self, store: int) -> None:
        group = self.group
        if group is not None and store not in group.members.voters and len(group.members.voters) < VOTERS_MAX:
            self._run_aside(asyncio.wait_for(group.add_member(store), CHANGE_TIMEOUT_S), "members added")

    def add_learner(self, store: int) -> None:
        group = self.group
        if group is not None and store not in group.members.voters + group.members.learners:
            changed = membership.with_learner(group.members, store)
            self._run_aside(asyncio.wait_for(group.change_members(changed), CHANGE_TIMEOUT_S), "learners added")

    def remove_member(self, store: int) -> None:
        group = self.group
        if group is None or (store in group.members.voters and len(group.members.voters) <= VOTERS_MIN):
            return
        if any(store.recovers for store in self.world.stores.values()):
            return  # who is left might be no majority without the one that has to come back (R4.5)
        if store == self.store.id:
            group.transfer_leadership()
        elif store in group.members.voters + group.members.learners:
            self._run_aside(self._remove(group, store), "members removed")

    async def _remove(self, group: Group, store: int) -> None:
        self.leaving.add(store)
        try:
            await asyncio.wait_for(group.remove_member(store), CHANGE_TIMEOUT_S)
        finally:
            self.leaving.discard(store)

    def change_member(self, store: int) -> None:
        """Out, if it is in, and in, if it is out."""
        if self.group is not None and store in self.group.members.voters:
            self.remove_member(store)
        else:
            self.add_member(store)

    def close(self, hand_over: bool, down_s: float) -> None:
        """It ends in order, and is started again after ``down_s``."""
        if self.group is not None and not self._ending:
            self._ending = True
            self._run_aside(self._close(hand_over, down_s), "")

    async def _close(self, hand_over: bool, down_s: float) -> None:
        assert self.registry is not None
        if hand_over:
            await self.registry.transfer_all(HAND_OVER_S)
        self.closed = True
        with suppress(SteleError, OSError):  # of a disk that failed
            await self.registry.close()
        self.store.power_fails, self.store.down_s = False, down_s
        self.world.kill(self.store, "closed in order")

    def _run_aside(self, work: Coroutine[Any, Any, object], counted: str) -> None:
        self._aside.add(task := self.loop.create_task(work))
        task.add_done_callback(lambda done: self._was_run(done, counted))

    def _was_run(self, done: asyncio.Task[object], counted: str) -> None:
        self._aside.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            if counted:
                self.world.counts[counted] += 1
        elif not isinstance(error, (SteleError, TimeoutError)):
            raise error

    # --- what the loop tells ------------------------------------------------------------------------------------------

    def _after_handle(self) -> None:
        if self.group is not None:
            self.world.checks.after(self)

    def _failed(self, error: BaseException | str) -> None:
        self.world.unhandled(self, error)

    def _worked(self) -> None:
        if self.store.disk.dark:
            self.world.kill(self.store, "disk operation")

    def _died(self) -> None:
        self.world.kill(self.store, "fuse")


class Store:
    """A machine: disk, folder, clock's quality.  ``process`` is None while nothing runs on it."""

    def __init__(self, store_id: int, rng: random.Random) -> None:
        self.id = store_id
        self.disk = SimulatedDisk()
        self.path: Path = type("Path", (SimulatedPath,), {"disk": self.disk})(ROOT)
        self.folder = self.path / str(GROUP)
        self.durable = DurableLog(self.disk, self.folder)
        self.latency = Latency(rng)
        self.drift = 1.0
        self.process: Process | None = None
        self.lost_log = False  # its log, or the end of it, is gone and not all of it has come back yet (R4.5)
        self.must_notice = False  # its log's end is gone, which the next process has to find out by itself
        self.promised: dict[
            int, int
        ] = {}  # index → term of what it held durably, and may have acknowledged, when it was lost
        self.broken = False  # an error of the disk was injected: its replica may fail
        self.power_fails = False  # the next death of its process is a loss of power
        self.down_s = 0.5  # how long it stays down after that

    @property
    def recovers(self) -> bool:
        """It does not vote: its log is gone, or the leader told it that what it had promised is (R4.5)."""
        group = self.process.group if self.process is not None else None
        told = group is not None and group.engine.recovering
        return self.lost_log or told or self.disk.has_file(self.folder / RECOVERING_NAME)

    def lose_log(self, held: dict[int, int]) -> bool:
        """The log, which ``held`` entries of these terms, is damaged, set aside and to be brought back from the peers.  False: that is not
        possible safely."""
        disk, folder = self.disk, self.folder
        if not disk.has_file(folder / "term"):
            return False
        for name in disk.listdir(folder):
            if name != "term":
                disk.unlink(folder / name)
        disk.create(folder / RECOVERING_NAME).close()
        disk.fsync_dir(folder)
        self._lost(held)
        return True

    def lose_tail(self, held: dict[int, int], keep: int, missed: int) -> int:
        """The log, which ``held`` entries of these terms, ends behind entry ``keep`` from now on, or further on: never in front of a
        snapshot, and where it would not be noticed behind the last entry that would be ``missed``.  Returns where it ends."""
        disk, folder = self.disk, self.folder
        names = disk.listdir(folder)
        bases = sorted(base for name in names if (base := base_of(name)) is not None)
        if not bases:
            return 0
        keep = max(keep, bases[0] - 1, *(index_of(name) or 0 for name in names))
        if keep < read_reached(folder / REACHED_NAME, disk):
            self._lost(held)
            self.must_notice = True
        else:
            keep = max(keep, missed)
        for base in reversed(bases):
            path = folder / segment_name(base)
            if base <= keep + 1:
                end = _end_of(disk.content(path), path, keep)
                disk.damage(path, lambda content, end=end: content.__delitem__(slice(end, None)))  # type: ignore[misc]
                break
            disk.unlink(path)
        disk.fsync_dir(folder)
        return keep

    def _lost(self, held: dict[int, int]) -> None:
        self.lost_log = True
        self.promised = held


def _end_of(content: bytes, path: Path, keep: int) -> int:
    """Where the entries of a segment up to ``keep`` end."""
    at, seed = HEADER_BYTES, read_header(content, path).seed
    while (frame := frames.frame_at(content, at, seed)) is not None and frame.index <= keep:
        at = frame.end
    return at
