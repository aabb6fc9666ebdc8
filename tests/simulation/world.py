"""One run: stores under virtual time, a workload, a list of faults, and what must hold all along.

Guarantee: a run is a function of its options.  The same seed gives the same run, event for event, in any process.

    World(Options(seed=7)).run()        raises Violation

Faults strike for ``seconds``; then everything is repaired, a write must commit within LIVENESS_S and all replicas must come to the
same state.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stele.services.errors import GroupStopped
from stele.services.raft.timing import Timing
from tests.simulation import shared_links
from tests.simulation.bounds import REPLICA, Bounds
from tests.simulation.checks import Checks, Violation
from tests.simulation.companions import Companions
from tests.simulation.faults import Strike
from tests.simulation.network import Network
from tests.simulation.plan import CLOSED, CLOSED_SHARE, MEMBERS, SNAPSHOTS, choose_kinds, plan, plan_closed
from tests.simulation.pressure import PRESSURE_SHARE, kept_up
from tests.simulation.process import Process, Store
from tests.simulation.scheduler import Scheduler
from tests.simulation.shared_links import SharedProcessLinks
from tests.simulation.workload import Workload

LIVENESS_S = 10.0
CONVERGENCE_S = 10.0
STORES_MAX = 6
SHARED_SHARE = 0.05  # of the runs
SHARED_GROUPS = (6, 12)
TRACE_LINES_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of.  ``nodes`` 0: most runs have 3, some 5.  ``only_faults``: their numbers in the seed's plan."""

    seed: int = 0
    nodes: int = 0
    seconds: float = 0.0  # 0: drawn from the seed
    only_faults: tuple[int, ...] | None = None
    kinds: tuple[str, ...] = ()  # of faults; none: drawn from the seed
    traced: bool = False
    mutants: tuple[str, ...] = ()  # of lab/mutants, wrong on purpose (mutants.py)
    pressure: bool = False  # what bounds memory is small
    groups: int = 0  # that share each link; 0: one in most runs, many in some

    def world(self) -> World:
        return World(self)

    def replay(self) -> str:
        """The command that shows it again."""
        return replay("sim", self, f" NODES={self.nodes}")


def replay(target: str, options: Any, variables: str = "") -> str:
    """The command that runs ``options`` again, of whichever world."""
    more = ""
    if options.only_faults is not None:
        more += f" --only-faults {','.join(map(str, options.only_faults)) or 'none'}"
    if options.seconds:
        more += f" --seconds {options.seconds}"
    if options.kinds:
        more += f" --kinds {','.join(kind.replace(' ', '-') for kind in options.kinds)}"
    if getattr(options, "operations", False):
        more += " --operations"
    if getattr(options, "pressure", False):
        more += " --pressure"
    if getattr(options, "groups", 0):
        more += f" --groups {options.groups}"
    if options.mutants:
        more += f" --mutants {','.join(options.mutants)}"
    arguments = f' ARGS="{more.strip()}"' if more else ""
    return f"make {target} SEED={options.seed} RUNS=1{variables}{arguments}"


class World:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = rng = random.Random(f"world {options.seed} {options.nodes}")
        self.nodes = options.nodes or (5 if rng.random() < 0.2 else 3)
        self.seconds = drawn if not options.seconds and (drawn := rng.uniform(3.0, 8.0)) else options.seconds
        drawing = self._stream("faults")
        self.kinds = list(options.kinds) or choose_kinds(drawing)
        spare = drawing.choice((1, 2)) if set(MEMBERS) & set(self.kinds) else 0
        self.ids = list(range(1, self.nodes + 1 + min(spare, max(1, STORES_MAX - self.nodes))))
        self.faults = plan(drawing, self.ids, self.seconds, self.kinds)
        closing = self._stream("closed in order")
        if CLOSED in self.kinds or (not options.kinds and closing.random() < CLOSED_SHARE):
            self.faults += plan_closed(closing, self.ids, self.seconds)
        if options.only_faults is not None:
            self.faults = [f for f in self.faults if f.number in options.only_faults]
        self.trace: list[str] | None = [] if options.traced else None
        self.fault_counts: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # of what was done in between
        self.scheduler = Scheduler()
        self.timing = Timing(idle_s=rng.choice((0.2, 0.5, Timing().idle_s)))
        self.segment_bytes = rng.choice((1024, 4096, 65536, 1 << 20))
        self.retention_s = 10 ** rng.uniform(-1.0, 0.3) if SNAPSHOTS[0] in self.kinds and rng.random() < 0.8 else 0.0
        self.stores = {i: Store(i, self._stream(f"disk {i}")) for i in self.ids}
        self.first_members = tuple(self.ids[: self.nodes])
        self.network = Network(self, self._stream("network"))
        self.network.delay_s = 10 ** rng.uniform(-3.7, -2.0)
        self.checks = Checks(self)
        under_pressure = not options.kinds and self._stream("under pressure").random() < PRESSURE_SHARE
        self.pressed = options.pressure or under_pressure
        sharing = self._stream("groups")
        shared = not options.kinds and not self.pressed and sharing.random() < SHARED_SHARE
        groups = options.groups or (sharing.randint(*SHARED_GROUPS) if shared else 1)
        self.companions = Companions(self, groups - 1, sharing)
        self.shared = groups > 1
        if self.shared:
            self.network.links = SharedProcessLinks
        self.bounds = Bounds(REPLICA, self.violated, self._running)
        self.workload = Workload(self, self._stream("workload"))
        self._crashes = self._stream("crashes")
        self._strike = Strike(self)
        self.healed = False
        self._remains: list[Process] = []  # of the dead: whatever they hold must not be collected while the run lasts
        self._error: Violation | None = None

    @property
    def events(self) -> int:
        return self.scheduler.events

    @property
    def now(self) -> float:
        return self.scheduler.now

    def _stream(self, name: str) -> random.Random:
        """Randomness of its own for each purpose: a fault taken out of the plan changes little else."""
        return random.Random(f"{name} {self.options.seed}")

    # --- running --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole run.  Raises Violation; an exception that nobody was to see is one too."""
        try:
            with (
                self.bounds.watched(),
                kept_up(self.shared, self._stream("shared"), shared_links.CONSTANTS),
                kept_up(self.pressed, self._stream("pressure")),
            ):
                self._run()
        except Violation:
            if self._error is not None:  # it was noticed before
                raise self._error from None
            raise
        except Exception as e:
            raise Violation("unhandled error", repr(e)) from e

    def _run(self) -> None:
        for store in self.stores.values():
            self.start(store)
        self.workload.start()
        self.companions.start()
        for fault in self.faults:
            self.scheduler.at(fault.at, self._strike, fault)
        self._run_until(self.seconds)
        self._heal()
        self._must(self._written_since(len(self.workload.acked)), LIVENESS_S, "no write commits after the faults")
        self.companions.ask_all()
        self._must(
            lambda: not self.companions.starving(), LIVENESS_S, "a group beside others commits nothing after the faults"
        )
        self.workload.closing = True
        self._must(self._converged, CONVERGENCE_S, "replicas do not come to the same state")
        self._check_end()

    def _run_until(self, end: float, done: Callable[[], bool] | None = None) -> None:
        def over() -> bool:
            return self._error is not None or (done is not None and done())

        self.scheduler.run_until(end, over)
        if self._error is not None:
            raise self._error

    def _must(self, done: Callable[[], bool], within_s: float, otherwise: str) -> None:
        self._run_until(self.scheduler.now + within_s, done)
        if not done():
            states = ", ".join(f"{s.id}: {self._state(s)}" for s in self.stores.values())
            raise Violation("liveness", f"{otherwise} within {within_s:.0f} s ({states})")

    @staticmethod
    def _state(store: Store) -> str:
        if store.process is None or store.process.group is None:
            return "down" if store.process is None else "loading"
        group = store.process.group
        return f"{group.state} in term {group.term}, applied {group.applied_index} of {group.last_index}"

    def _written_since(self, before: int) -> Callable[[], bool]:
        return lambda: len(self.workload.acked) > before

    def _converged(self) -> bool:
        found = self._members()
        groups = [process.group for process in found if process is not None]
        if not groups or len(groups) < len(found) or any(g is None or g.engine.recovering for g in groups):
            return False
        ends = {(g.last_index, g.applied_index) for g in groups if g is not None}
        return len(ends) == 1 and len(set(*ends)) == 1 and self.workload.idle and self.companions.converged()

    def _members(self) -> list[Process | None]:
        """What runs on the members' stores, going by the leader; none while nobody leads."""
        leader = self.leader_store()
        if leader is None or leader.process is None or leader.process.group is None:
            return []
        members = leader.process.group.members
        return [self.stores[i].process for i in members.voters + members.learners]

    def _check_end(self) -> None:
        machines = [process.machine for process in self._members() if process is not None]
        states = {m.partition.encode_snapshot() for m in machines if m is not None}
        if len(states) != 1:
            raise Violation("states differ", "replicas that applied the same entries hold different states at the end")
        for machine in machines:
            assert machine is not None
            machine.partition.validate()
            self.workload.check_end(machine)

    def say(self, line: str) -> None:
        if self.trace is not None and len(self.trace) < TRACE_LINES_MAX:
            self.trace.append(f"{self.scheduler.now:10.6f} {line}")

    def nearest(self) -> dict[str, float]:
        return self.bounds.nearest

    def counted(self) -> dict[str, int]:
        """What was done in this run, for the totals."""
        workload = self.workload
        return {
            "acknowledged writes": len(workload.acked),
            "entries committed": self.checks.top,
            "leaders elected": self.checks.elections,
            "linearizable reads": workload.linearizable.checked,
            "batches read back": workload.content_checked,
            "runs under pressure": self.pressed,
            "runs with many groups": self.shared,
            "commits of other groups": self.companions.committed,
            **self.counts,
        }

    def digest(self) -> str:
        """Of everything that was traced and counted: equal runs have equal digests."""
        found = hashlib.sha256("\n".join(self.trace or ()).encode())
        counted = (self.scheduler.events, self.checks.top, sorted(self.workload.acked.items()), self.fault_counts)
        found.update(repr(counted).encode())
        return found.hexdigest()

    def unhandled(self, process: Process, error: BaseException | str) -> None:
        """What a callback raised: a check that failed, or the product."""
        if self._error is None:
            if isinstance(error, Violation):
                self._error = error
            else:
                self._error = Violation("unhandled error", f"on store {process.store.id}: {error!r}")
                self._error.__cause__ = error if isinstance(error, BaseException) else None

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """For checks inside the product: what they find ends the run, not the replica."""
        try:
            yield
        except Violation as e:
            self._error = self._error or e

    def violated(self, kind: str, what: str) -> None:
        """A check that is made in the midst of things has failed."""
        self._error = self._error or Violation(kind, what)

    def _running(self) -> str:
        """Whose turn it is."""
        running = asyncio.events._get_running_loop()
        of = (s.id for s in self.stores.values() if s.process is not None and s.process.loop is running)
        return f"store {next(of, 0)}"

    # --- processes ------------------------------------------------------------------------------------------------------

    def start(self, store: Store) -> None:
        if store.process is None:
            self.say(f"start {store.id}")
            store.process = Process(self, store)
            store.process.start()

    def kill(self, store: Store, why: str, lose_log: bool = False, keep_share: float | None = None) -> None:
        """The process on ``store`` ends here; it is started again after ``store.down_s``.  ``keep_share``: how much of
        its log is left."""
        process = store.process
        if process is None:
            return
        self.say(f"{'power loss' if store.power_fails else 'kill'} {store.id} ({why})")
        held = store.durable.terms() if lose_log or keep_share is not None else {}
        process.loop.end()
        self._remains.append(process)
        store.process = None
        if store.power_fails or store.broken:  # what a failed sync covered is in no cache one could rely on
            store.disk.crash(self._crashes)
        else:
            store.disk.kill()
        if lose_log and not store.lose_log(held):
            self.say(f"the log of {store.id} stays: it has no term file")
        if keep_share is not None:
            kept = store.lose_tail(held, int(keep_share * max(held, default=0)), self._missed(store, held))
            self.say(f"the log of {store.id} ends at {kept} now")
            if kept < max(held, default=0):
                self.counts["tails lost that were noted" if store.must_notice else "tails lost that were not"] += 1
        self.network.process_ended(store.id)
        self.scheduler.after(store.down_s, self.start, store)

    def start_failed(self, process: Process, error: BaseException) -> None:
        """A replica could not be opened."""
        store = process.store
        if process.closed and isinstance(error, GroupStopped):  # it was told to end while it still opened
            return
        if not store.broken:
            self.unhandled(process, Violation("cannot be opened", f"store {store.id}: {error!r}"))

    def repair(self, store: Store) -> None:
        """A disk with errors is replaced by one that holds what was durable, or by an empty one."""
        store.disk.heal()
        store.broken = False
        if store.process is not None:
            store.down_s = 0.05
            store.power_fails = True
            self.kill(store, "repair", lose_log=self._crashes.random() < 0.5 and self.may_lose_log(store))

    def may_lose_log(self, store: Store) -> bool:
        """As many logs may be lost at a time as a majority can do without."""
        lost = sum(s.recovers for s in self.stores.values() if s is not store)
        bearable = 1 if set(MEMBERS) & set(self.kinds) else (self.nodes - 1) // 2
        if store.recovers or store.broken or lost >= bearable or store.process is None or store.process.group is None:
            return False
        running = {s.id for s in self.stores.values() if s.process is not None and s.process.group is not None}
        if set(MEMBERS) & set(self.kinds) and not running.issuperset(self.ids):
            return False  # one that is down, an added one too, may hold a removal that leaves two voters, of which this is one
        processes = [s.process for s in self.stores.values() if s.process is not None]
        voters = [(set(p.group.members.voters), p.leaving) for p in processes if p.group is not None]
        return all(len(members - leaving) >= 3 for members, leaving in voters if members)

    def _missed(self, store: Store, held: dict[int, int]) -> int:
        """The last entry of what ``store`` held that no majority of the voters holds durably without it.  Where members change, it
        is not known which majority counts."""
        if set(MEMBERS) & set(self.kinds):
            return max(held, default=0)
        others = [s for s in self.stores.values() if s is not store and s.id in self.first_members]
        wanted = len(self.first_members) // 2 + 1
        for index in sorted(held, reverse=True):
            if sum(other.durable.holds(index, held[index]) for other in others) < wanted:
                return index
        return 0

    def leader_store(self) -> Store | None:
        """The one that leads in the highest term."""
        found: list[tuple[int, Store]] = []
        for store in self.stores.values():
            group = store.process.group if store.process is not None else None
            if group is not None and group.is_leader:
                found.append((group.term, store))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def voters(self, engine: Any) -> list[int]:
        return list(engine.members.voters)

    # --- the end of the faults --------------------------------------------------------------------------------------------

    def after_unless_healed(self, seconds: float, event: Callable[[], object]) -> None:
        self.scheduler.after(seconds, lambda: None if self.healed else event())

    def _heal(self) -> None:
        self.say("HEAL")
        self.healed = True
        for store in self.stores.values():
            store.latency.factor, store.latency.slow_share = 1.0, 0.0
            store.disk.capacity_bytes = 1 << 40
            store.power_fails = False
            store.down_s = 0.05
            if store.process is not None:
                store.process.loop.fuse = None
                store.process.loop.resume()
                if store.process.registry is not None and store.process.group is not None:
                    store.process.loop.arrive(setattr, store.process.registry, "may_lead", True)
            if store.broken:
                self.repair(store)
            elif store.disk.dark:
                self.kill(store, "power returns")
            self.start(store)
        self.network.heal()
