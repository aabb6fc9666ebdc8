"""A group of replicas under virtual time: a seeded scheduler, a network that delays and cuts, disks that forget, processes that die.

It runs the product's own engine and journal.  After every event the safety properties of Raft are checked; after the faults stop, a
write must commit within LIVENESS_S.  The same seed gives the same run, event for event.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from services.errors import SteleError
from services.pb import raft_pb2 as pb
from services.raft.engine import Engine
from services.raft.journal import Flush, Journal
from services.raft.library import LEADER, Timing
from services.raft.storage import NO_OP, Entry
from tests.simulation.disk import Platter, SimulatedLog, SimulatedTerms

LIVENESS_S = 10.0
TRACE_LINES = 60


class Violation(AssertionError):
    """A safety or liveness property does not hold."""


class Machine:
    """The replicated state: the list of commands, in order."""

    def __init__(self, world: World, store: int) -> None:
        self._world = world
        self._store = store
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self._world.saw_apply(self._store, index, term, payload)
        self.applied.append(payload)
        return len(self.applied)


@dataclass
class Node:
    store: int
    platter: Platter = field(default_factory=Platter)
    engine: Engine | None = None
    log: SimulatedLog | None = None
    machine: Machine | None = None
    flush: Flush | None = None
    drift: float = 1.0
    paused_until: float = 0.0
    incarnation: int = 0
    next_tick: float = 0.0


@dataclass
class Options:
    nodes: int = 3
    seconds: float = 30.0
    faults: bool = True
    make_engine: Callable[..., Engine] = Engine
    make_journal: Callable[..., Journal] = Journal


class World:
    def __init__(self, seed: int, options: Options | None = None) -> None:
        self.seed = seed
        self.options = options or Options()
        self.rng = random.Random(seed)
        self.now = 0.0
        self.timing = Timing()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.ids = list(range(1, self.options.nodes + 1))
        self.nodes = {i: Node(i) for i in self.ids}
        self.links: dict[tuple[int, int], int | None] = {}
        self._generation = itertools.count(1)
        self._last_delivery: dict[tuple[int, int], float] = {}
        self._cut: set[tuple[int, int]] = set()
        self.trace: list[str] = []
        self.faults: Counter[str] = Counter()
        self.events = 0
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, bytes | None]] = {}
        self.acked: dict[bytes, int] = {}
        self._proposals = itertools.count()
        self._faulty = self.options.faults
        for i in self.ids:
            self._start(i)
        for a, b in itertools.combinations(self.ids, 2):
            self._connect(a, b)

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole run.  Raises Violation with the seed and the last events."""
        try:
            self._at(0.5, self._propose_some)
            if self.options.faults:
                self._at(1.0, self._fault)
            self._run_until(self.options.seconds)
            self._heal()
            before = len(self.acked)
            self._run_until(self.now + LIVENESS_S, lambda: len(self.acked) > before)
            if len(self.acked) <= before:
                raise Violation(f"no write committed within {LIVENESS_S} s after the faults stopped")
            self._run_until(self.now + 3.0)
            self._check_converged()
        except AssertionError as e:
            tail = "\n".join(self.trace[-TRACE_LINES:])
            raise Violation(
                f"seed {self.seed}: {e}\nreplay: make sim SEED={self.seed} RUNS=1 NODES={self.options.nodes}\n{tail}"
            ) from e

    def _run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._queue and self._queue[0][0] <= end and not done():
            self.now, _, event = heapq.heappop(self._queue)
            self.events += 1
            event()
            self._check()
        if not done():
            self.now = max(self.now, end)

    def _at(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._count), event))

    def _say(self, line: str) -> None:
        self.trace.append(f"{self.now:9.4f} {line}")
        if len(self.trace) > 4 * TRACE_LINES:
            del self.trace[:TRACE_LINES]

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self, i: int) -> None:
        node = self.nodes[i]
        node.incarnation += 1
        node.drift = self.rng.uniform(0.9, 1.1)
        offset = self.rng.uniform(0, 1000)
        node.log = SimulatedLog(node.platter)
        journal = self.options.make_journal(node.log, SimulatedTerms(node.platter))
        node.machine = Machine(self, i)
        node.flush = None
        node.paused_until = 0.0
        node.engine = self.options.make_engine(
            7,
            i,
            self.ids,
            journal,
            node.machine,
            lambda: offset + self.now * node.drift,
            random.Random(self.rng.getrandbits(32)),
            self.timing,
            lambda: True,
            1 << 20,
            node.platter.recovering,
        )
        self._say(f"start {i}: term {node.engine.term} last {journal.last_index}")
        self._turn_soon(i)

    def _crash(self, i: int) -> None:
        node = self.nodes[i]
        if node.engine is None:
            return
        self._say(f"crash {i}")
        node.engine = None
        node.incarnation += 1
        node.platter.crash(self.rng)
        for b in self.ids:
            if b != i:
                self._disconnect(i, b)

    def _turn_soon(self, i: int) -> None:
        incarnation = self.nodes[i].incarnation
        self._at(self.rng.expovariate(1 / 0.0005), lambda: self._turn(i, incarnation))

    def _turn(self, i: int, incarnation: int) -> None:
        node = self.nodes[i]
        engine = node.engine
        if engine is None or node.incarnation != incarnation:
            return
        if self.now < node.paused_until:
            self._at(node.paused_until - self.now, lambda: self._turn(i, incarnation))
            return
        engine.tick()
        self._effects(i)
        due = max(0.0005, (engine.next_deadline() - engine._now()) / node.drift)
        if due < 1e9:
            at = self.now + due
            if not (self.now < node.next_tick <= at):
                node.next_tick = at
                self._at(due, lambda: self._turn(i, incarnation))

    def _effects(self, i: int) -> None:
        """Carries out what the engine wants; a crash may come between any two effects."""
        node = self.nodes[i]
        engine = node.engine
        assert engine is not None
        for out in engine.take_ready():
            self._send(i, out.to, out.message)
            if self._faulty and self.rng.random() < 0.0002:
                self.faults["crash between effects"] += 1
                self._crash(i)
                self._at(self.rng.random() * 2, lambda: self._restart(i))
                return
        if engine.holds_again:
            node.platter.recovering = False
            engine.recovered()
            self._say(f"recovered {i}")
        if node.flush is None:
            flush = engine.journal.begin()
            if flush is not None:
                node.flush = flush
                incarnation = node.incarnation
                slow = self.rng.random() < 0.02
                self._at(
                    self.rng.uniform(0.05, 1.0) if slow else self.rng.expovariate(1 / 0.002),
                    lambda: self._flushed(i, incarnation, flush),
                )

    def _flushed(self, i: int, incarnation: int, flush: Flush) -> None:
        node = self.nodes[i]
        if node.engine is None or node.incarnation != incarnation:
            return
        flush.run()
        node.flush = None
        error = node.engine.journal.finish(flush)
        if error is None:
            node.engine.synced()
        self._turn(i, incarnation)

    def _restart(self, i: int) -> None:
        if self.nodes[i].engine is None:
            self._start(i)
            for b in self.ids:
                if b != i:
                    self._at(self.rng.random() * 0.3, lambda b=b: self._connect(i, b))

    # --- network ------------------------------------------------------------------------------------------------------

    def _connect(self, a: int, b: int) -> None:
        key = (min(a, b), max(a, b))
        if self.links.get(key) is None and self.nodes[a].engine and self.nodes[b].engine:
            self.links[key] = next(self._generation)
            self._last_delivery[(a, b)] = self._last_delivery[(b, a)] = self.now
            for x, y in ((a, b), (b, a)):
                engine = self.nodes[x].engine
                assert engine is not None
                engine.connected(y)
                self._turn_soon(x)

    def _disconnect(self, a: int, b: int) -> None:
        key = (min(a, b), max(a, b))
        if self.links.get(key) is not None:
            self.links[key] = None
            self._cut -= {(a, b), (b, a)}
            for x, y in ((a, b), (b, a)):
                engine = self.nodes[x].engine
                if engine is not None:
                    engine.disconnected(y)
                    if self.nodes[y].engine is None and self.rng.random() < 0.7:
                        engine.peer_gone(y)
                    self._turn_soon(x)

    def _send(self, a: int, b: int, message: pb.RaftMessage) -> None:
        generation = self.links.get((min(a, b), max(a, b)))
        if generation is None or (a, b) in self._cut:
            return
        delay = self.rng.expovariate(1 / 0.002) if self.rng.random() < 0.97 else self.rng.random() * 0.6
        at = max(self.now + delay, self._last_delivery[(a, b)] + 1e-6)
        self._last_delivery[(a, b)] = at
        data = message.SerializeToString()
        self._at(at - self.now, lambda: self._deliver(a, b, generation, data))

    def _deliver(self, a: int, b: int, generation: int, data: bytes) -> None:
        node = self.nodes[b]
        if self.links.get((min(a, b), max(a, b))) != generation or node.engine is None:
            return
        if self.now < node.paused_until:
            self._at(node.paused_until - self.now, lambda: self._deliver(a, b, generation, data))
            return
        message = pb.RaftMessage.FromString(data)
        self._say(f"{a}->{b} {_short(message)}")
        node.engine.receive(a, message)
        self._turn_soon(b)

    # --- load and faults ----------------------------------------------------------------------------------------------

    def _propose_some(self) -> None:
        for _ in range(self.rng.randint(1, 6)):
            leaders = [
                n
                for n in self.nodes.values()
                if n.engine is not None and n.engine.is_leader and self.now >= n.paused_until
            ]
            if leaders:
                node = self.rng.choice(leaders)
                assert node.engine is not None
                command = b"c%d" % next(self._proposals) + b"x" * self.rng.randint(0, 60)
                try:
                    node.engine.propose(command, lambda result, error, c=command: self._answered(c, error))
                except SteleError:
                    continue
                self._turn_soon(node.store)
        self._at(0.02, self._propose_some)

    def _answered(self, command: bytes, error: SteleError | None) -> None:
        if error is None:
            self.acked[command] = len(self.acked)

    def _fault(self) -> None:
        x = self.rng.random()
        if x < 0.06:
            self._damage(self.rng.choice(self.ids))
        elif x < 0.3:
            i = self.rng.choice(self.ids)
            self.faults["crash"] += 1
            self._crash(i)
            self._at(self.rng.random() * 1.5, lambda: self._restart(i))
        elif x < 0.6:
            a, b = self.rng.sample(self.ids, 2)
            self.faults["disconnect"] += 1
            self._say(f"disconnect {a}-{b}")
            self._disconnect(a, b)
            self._at(self.rng.random(), lambda: self._connect(a, b))
        elif x < 0.75:
            a, b = self.rng.sample(self.ids, 2)
            self.faults["one-way cut"] += 1
            self._say(f"cut {a}->{b}")
            self._cut.add((a, b))
            self._at(self.rng.random() * 3, lambda: self._disconnect(a, b))
            self._at(3.1, lambda: self._connect(a, b))
        elif x < 0.9:
            i = self.rng.choice(self.ids)
            self.faults["pause"] += 1
            length = self.rng.random() * 4
            self._say(f"pause {i} for {length:.2f}")
            self.nodes[i].paused_until = self.now + length
        else:
            self.faults["isolate"] += 1
            i = self.rng.choice(self.ids)
            self._say(f"isolate {i}")
            for b in self.ids:
                if b != i:
                    self._disconnect(i, b)
                    self._at(self.rng.random() * 4, lambda b=b: self._connect(i, b))
        self._at(self.rng.random() * 1.2, self._fault_if_running)

    def _damage(self, i: int) -> None:
        """A log is lost for good, unless that many are gone already that entries may be."""
        if sum(n.platter.recovering for n in self.nodes.values()) >= (len(self.ids) - 1) // 2:
            return
        self.faults["lost log"] += 1
        self._say(f"lost log {i}")
        self._crash(i)
        self.nodes[i].platter.lose_log()
        self._at(self.rng.random() * 1.5, lambda: self._restart(i))

    def _fault_if_running(self) -> None:
        if self.now < self.options.seconds:
            self._fault()

    def _heal(self) -> None:
        self._say("heal")
        self._faulty = False
        for i in self.ids:
            self.nodes[i].paused_until = 0.0
            self._restart(i)
        for a, b in itertools.combinations(self.ids, 2):
            if self._cut & {(a, b), (b, a)}:
                self._disconnect(a, b)
            self._connect(a, b)

    # --- checks -------------------------------------------------------------------------------------------------------

    def saw_apply(self, store: int, index: int, term: int, payload: bytes) -> None:
        known = self.committed.setdefault(index, (term, payload))
        if known != (term, payload):
            raise Violation(f"store {store} applies {(term, payload[:20])} at {index}, another applied {known}")

    def _check(self) -> None:
        for node in self.nodes.values():
            engine = node.engine
            if engine is None:
                continue
            if engine.failed:
                raise Violation(f"store {node.store} failed: {engine.failed}")
            if engine._SyncObj__raftState == LEADER:
                other = self.leaders.setdefault(engine.term, node.store)
                if other != node.store:
                    raise Violation(f"two leaders in term {engine.term}: {other} and {node.store}")
        # the cheap invariants of one core at a time, all of them over time
        node = self.nodes[self.ids[self.events % len(self.ids)]]
        if node.engine is not None:
            node.engine.validate()
        if self.events % 50 == 0:
            self._check_leader_completeness()

    def _check_leader_completeness(self) -> None:
        for node in self.nodes.values():
            engine = node.engine
            if engine is None or not engine.is_leader:
                continue
            if engine.term < max(self.leaders):  # deposed, and does not know it yet
                continue
            last = max(self.committed, default=0)
            for index in range(max(2, last - 100), last + 1):
                if index not in self.committed:
                    continue
                term, payload = self.committed[index]
                held: Entry | None = next(iter(engine.journal.read(index, index, 1)), None)
                if held is None or held.term != term or (held.kind != NO_OP and held.payload != payload):
                    raise Violation(f"leader {node.store} of term {engine.term} lacks committed entry {index}: {held}")

    def _check_converged(self) -> None:
        applied = [n.machine.applied for n in self.nodes.values() if n.machine is not None and n.engine is not None]
        longest = max(applied, key=len)
        stored = set(longest)
        if len(stored) != len(longest):
            raise Violation("a command was applied twice")
        lost = [c for c in self.acked if c not in stored]
        if lost:
            raise Violation(f"{len(lost)} acknowledged commands are not in the log, first {lost[0][:20]!r}")
        for one in applied:
            if longest[: len(one)] != one:
                raise Violation("two replicas hold different states")


def _short(m: pb.RaftMessage) -> str:
    body = m.WhichOneof("body")
    inner = getattr(m, body)
    if body == "append_entries":
        span = f"{inner.entries[0].index}..{inner.entries[-1].index}" if inner.entries else "-"
        return f"t{m.term} append #{inner.request} prev {inner.prev_log_index}/t{inner.prev_log_term} {span} commit {inner.commit_index}"
    return f"t{m.term} {body} " + str(inner).replace("\n", " ")
