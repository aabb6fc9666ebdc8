"""Replicas moved by hand: one clock, messages delivered when the test says so, flushes that run when the test says so."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Sequence

from services.errors import SteleError
from services.pb import raft_pb2 as pb
from services.raft.engine import Engine
from services.raft.journal import Journal
from services.raft.library import Timing
from tests.simulation.disk import Platter, SimulatedLog, SimulatedTerms


class Commands:
    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.applied.append(payload)
        return len(self.applied)


class Bench:
    """``Bench(3)``: stores 1..3, all connected.  ``sync`` runs flushes at once while True."""

    def __init__(self, count: int = 3, kind: type[Engine] = Engine) -> None:
        self.now = 100.0
        self.kind = kind
        self.ids = list(range(1, count + 1))
        self.platters = {i: Platter() for i in self.ids}
        self.machines: dict[int, Commands] = {}
        self.engines: dict[int, Engine] = {}
        self.logs: dict[int, SimulatedLog] = {}
        self.wires: dict[tuple[int, int], deque[pb.RaftMessage]] = defaultdict(deque)
        self.sync = {i: True for i in self.ids}
        self.may_lead = {i: True for i in self.ids}
        self.outcomes: dict[bytes, object] = {}
        for i in self.ids:
            self.start(i)
        for i in self.ids:
            for j in self.ids:
                if i != j:
                    self.engines[i].connected(j)

    def start(self, i: int) -> Engine:
        self.logs[i] = SimulatedLog(self.platters[i])
        self.machines[i] = Commands()
        self.engines[i] = self.kind(
            7,
            i,
            self.ids,
            Journal(self.logs[i], SimulatedTerms(self.platters[i])),
            self.machines[i],
            lambda: self.now,
            random.Random(i),
            Timing(),
            lambda: self.may_lead[i],
            1 << 20,
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

    def elect(self, i: int, without: Sequence[int] = ()) -> Engine:
        """Makes ``i`` the leader through a real election."""
        engine = self.engines[i]
        for other in self.ids:
            self.engines[other]._leader_heard_at = float("-inf")
        engine._SyncObj__raftElectionDeadline = self.now
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
        return [(index, journal.term_at(index)) for index in range(1, journal.last_index + 1)]
