"""Replicas moved by hand: one clock, messages delivered when the test says so, flushes that run when the test says so."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Sequence

from crc32c import crc32c

from stele.services.errors import SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine
from stele.services.raft.journal import Journal
from stele.services.raft.storage import Members, Snapshot
from stele.services.raft.timing import Timing
from tests.unit.raft.platter import Platter, SimulatedLog, SimulatedSnapshots, SimulatedTerms


class Commands:
    """The machine: the commands it was given, in order."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.applied.append(payload)
        return len(self.applied)

    def snapshot(self) -> tuple[bytes, int]:
        return b",".join(self.applied), len(self.applied)

    def restore(self, state: bytes) -> None:
        if state.startswith(b"?"):
            raise ValueError("no state")
        self.applied = state.split(b",") if state else []


class Bench:
    """``Bench(3)``: stores 1..3, all connected, all voters; ``spare`` more that belong to the group once they are made members.

    ``sync`` runs flushes at once while True.
    """

    def __init__(self, count: int = 3, spare: int = 0, engine: type[Engine] = Engine) -> None:
        self._engine = engine
        self.now = 100.0
        self.first_members = Members(tuple(range(1, count + 1)))
        self.ids = list(range(1, count + spare + 1))
        self.platters = {i: Platter() for i in self.ids}
        self.machines: dict[int, Commands] = {}
        self.engines: dict[int, Engine] = {}
        self.logs: dict[int, SimulatedLog] = {}
        self.snapshots: dict[int, SimulatedSnapshots] = {}
        self.wires: dict[tuple[int, int], deque[pb.RaftMessage]] = defaultdict(deque)
        self.sync = {i: True for i in self.ids}
        self.may_lead = {i: True for i in self.ids}
        self.outcomes: dict[bytes, object] = {}
        self.changes: list[SteleError | None] = []  # outcomes of membership changes
        for i in self.ids:
            self.start(i)
        for i in self.ids:
            for j in self.ids:
                if i != j:
                    self.engines[i].connected(j)

    def start(self, i: int) -> Engine:
        platter = self.platters[i]
        self.logs[i] = SimulatedLog(platter)
        self.snapshots[i] = SimulatedSnapshots(platter)
        self.machines[i] = Commands()
        if platter.snapshots:
            self.machines[i].restore(platter.snapshots[-1][1])
        first = self.first_members if i in self.first_members.voters else Members(())
        self.engines[i] = self._engine(
            7,
            i,
            Journal(self.logs[i], SimulatedTerms(platter), self.snapshots[i], first),
            self.machines[i],
            lambda: self.now,
            random.Random(i),
            Timing(),
            lambda: self.may_lead[i],
            1 << 20,
            lambda: round(self.now * 1000),
            recovering=platter.recovering,
        )
        return self.engines[i]

    def crash(self, i: int, keep_unsynced: bool = False) -> None:
        """Stops a store and starts it again from its disk, with what was not synced lost (or all of it kept)."""
        if not keep_unsynced:
            self.platters[i].unsynced.clear()
        for wire in self.wires:
            if i in wire:
                self.wires[wire].clear()
        for j in self.ids:
            if j != i:
                self.engines[j].disconnected(i)
        self.start(i)
        for j in self.ids:
            if j != i:
                self.engines[j].connected(i)
                self.engines[i].connected(j)

    def turn(self, i: int) -> None:
        """One turn of store ``i``: tick, flush where ``sync`` allows, messages onto the wires."""
        engine = self.engines[i]
        for _ in range(3):
            engine.tick()
            if self.sync[i]:
                self.flush(i)
            for out in engine.take_ready():
                copy = pb.RaftMessage()
                copy.CopyFrom(out.message)
                self.wires[(i, out.to)].append(copy)
        engine.validate()

    def flush(self, i: int) -> None:
        flush = self.engines[i].journal.begin()
        if flush is None:
            return
        flush.run()
        error = self.engines[i].journal.finish(flush)
        if error is not None:
            self.engines[i].fail(SteleError(str(error)))
        else:
            self.engines[i].synced()

    def deliver(self, a: int, b: int, count: int | None = None) -> list[pb.RaftMessage]:
        """Delivers what is on the wire from ``a`` to ``b``; returns it."""
        wire = self.wires[(a, b)]
        delivered = []
        while wire and (count is None or len(delivered) < count):
            message = wire.popleft()
            delivered.append(message)
            self.engines[b].receive(a, message)
        self.turn(b)
        return delivered

    def settle(self, rounds: int = 6, without: Sequence[int] = ()) -> None:
        """Heartbeats and deliveries among all but ``without``, long enough for everything to commit."""
        for _ in range(rounds):
            self.now += 0.16
            for i in self.ids:
                if i not in without:
                    self.turn(i)
            for a in self.ids:
                for b in self.ids:
                    if a != b and a not in without and b not in without:
                        self.deliver(a, b)

    def alone(self, i: int, seconds: float) -> None:
        """Time passes for store ``i``, and it hears of nobody."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self.turn(i)

    def elect(self, i: int, without: Sequence[int] = ()) -> Engine:
        """Makes ``i`` the leader through a real election."""
        engine = self.engines[i]
        for other in self.ids:
            self.engines[other].election.leader_active_at = float("-inf")
        engine.election.deadline = self.now
        self.turn(i)
        for _ in range(2):  # pre-vote, vote
            for other in self.ids:
                if other != i and other not in without:
                    self.deliver(i, other)
                    self.deliver(other, i)
        assert engine.is_leader, (i, engine.state, engine.term)
        return engine

    def propose(self, i: int, *commands: bytes) -> None:
        for command in commands:
            self.engines[i].propose(
                command, lambda result, error, c=command: self.outcomes.__setitem__(c, error or result)
            )
        self.turn(i)

    def terms(self, i: int) -> list[tuple[int, int]]:
        journal = self.engines[i].journal
        return [(index, journal.term_at(index)) for index in range(journal.first_index, journal.last_index + 1)]

    # --- snapshots and members ------------------------------------------------------------------------------------------

    def take_snapshot(self, i: int) -> Snapshot:
        """Of what store ``i`` has applied; durable at once."""
        journal, index = self.engines[i].journal, self.engines[i].applied_index
        state, mark = self.machines[i].snapshot()
        snapshot = Snapshot(
            index, journal.term_at(index), journal.members.at(index), mark, 0, len(state), crc32c(state)
        )
        self.snapshots[i].write(snapshot, state)
        return snapshot

    def compact(self, i: int) -> Snapshot:
        """Store ``i`` keeps a snapshot of what it applied, and the log behind it."""
        snapshot = self.take_snapshot(i)
        self.engines[i].journal.compact(snapshot.index)
        self.turn(i)
        return snapshot

    def fetch(self, i: int, state: bytes | None = None) -> bool:
        """Store ``i`` fetches and installs what it was offered; ``state``: what arrives instead of the leader's bytes."""
        offer = self.engines[i].offer
        assert offer is not None
        if state is None:
            state = self.snapshots[offer.leader].read(offer.snapshot.index)
        staged = self.snapshots[i]
        staged.stage(offer.snapshot, staged.staged(offer.snapshot), state)
        installed = self.engines[i].install(offer.snapshot, staged.check_staged(offer.snapshot))
        self.turn(i)
        return installed

    def change(self, i: int, members: Members) -> None:
        self.engines[i].change_members(members, lambda result, error: self.changes.append(error))
        self.turn(i)
