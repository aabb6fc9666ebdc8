"""What clients do during a run, and what they were promised.

Producers append batches with sequences, several in flight, and repeat those whose outcome they do not know; owners fence one another
by their epochs; a subscriber acknowledges what was stored; readers look at what any replica shows.  Every promise is kept here
and must hold to the end, in every answer and in the state that all replicas come to.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stele.datanode import commands
from stele.datanode.commands import Appended, AppendOutcome, CursorOutcome, FenceOutcome, Outcome, Refused, TrimOutcome
from stele.services import batch
from stele.services.errors import Fenced, NotLeader, SteleError
from tests.simulation.checks import Violation
from tests.simulation.clients import Call

if TYPE_CHECKING:
    from tests.simulation.process import Machine, Process
    from tests.simulation.world import World

SUBSCRIPTION = "s"


@dataclass(frozen=True, slots=True)
class Batch:
    sequence: int
    count: int
    content: bytes


class Client:
    """Knows a store that may lead, and asks another where it does not."""

    def __init__(self, workload: Workload, rng: random.Random) -> None:
        self.workload = workload
        self.world = workload.world
        self.rng = rng
        self.target = rng.choice(self.world.ids)

    def missed(self, error: SteleError) -> None:
        """The target did not do it: whom to ask next."""
        leader = error.facts.get("leader") if isinstance(error, NotLeader) else None
        self.target = int(leader) if leader else self.rng.choice(self.world.ids)


class Producer(Client):
    """Batches in sequence, up to ``window`` of them in flight.  After a failure all of them are repeated, from the first that is not
    acknowledged, once every answer is in."""

    def __init__(self, workload: Workload, rng: random.Random, producer_id: int) -> None:
        super().__init__(workload, rng)
        self.id = producer_id
        self.window = rng.choice((1, 2, 5))
        self.epoch = 1
        self._next_sequence = 0
        self._unacked: deque[Batch] = deque()
        self._in_flight = 0
        self._again = False

    @property
    def busy(self) -> bool:
        return bool(self._unacked)

    def step(self) -> None:
        if self._again:
            if self._in_flight:
                return
            self._again = False
            for unacked in self._unacked:
                self._send(unacked)
            return
        if len(self._unacked) < self.window and not self.workload.closing:
            count = self.rng.choice((1, 1, 2, 3))
            size = self.rng.choice((10, 60, 60, 700)) if self.rng.random() < 0.97 else self.workload.large_bytes
            records = [
                batch.BatchRecord(b"%d:%d" % (self.id, self._next_sequence + i) + b"x" * size, timestamp_ms=1)
                for i in range(count)
            ]
            new = Batch(self._next_sequence, count, batch.encode(records, self.id, self._next_sequence))
            self._next_sequence += count
            self._unacked.append(new)
            self._send(new)

    def _send(self, sent: Batch) -> None:
        self._in_flight += 1
        epoch = self.epoch
        Call(
            self.world,
            self.rng,
            self.target,
            lambda process: _machine(process).append(epoch, [sent.content]),
            lambda result, error: self._answered(sent, epoch, result, error),
        )

    def _answered(self, sent: Batch, epoch: int, result: object, error: SteleError | None) -> None:
        self._in_flight -= 1
        if error is not None:
            if isinstance(error, Fenced):
                self.epoch = int(error.facts["seen"])
            else:
                self.missed(error)
            self._again = True
            return
        if isinstance(result, Refused):  # of the whole command: its epoch
            self.epoch = int(dict(result.facts)["seen"])
            self._again = True
            return
        assert isinstance(result, AppendOutcome), result
        stored = result.results[0]
        if isinstance(stored, Refused):  # out of sequence: one before it failed
            self._again = True
            return
        self.workload.acknowledged(self.id, sent, stored)
        while self._unacked and (self.id, self._unacked[0].sequence) in self.workload.acked:
            self._unacked.popleft()


class Owner(Client):
    """Takes the partition over, now and then, under a higher epoch."""

    def step(self) -> None:
        epoch = self.workload.epoch_asked = self.workload.epoch_asked + 1
        Call(
            self.world,
            self.rng,
            self.target,
            lambda process: _machine(process).propose(commands.FenceOwner(epoch)),
            lambda result, error: self._answered(epoch, result, error),
        )

    def insist(self, store_id: int, count: int) -> None:
        """Says ``count`` times at once to that store what it has said before, which changes nothing."""
        epoch = self.workload.epoch
        for _ in range(count if epoch else 0):
            Call(
                self.world,
                self.rng,
                store_id,
                lambda process: _machine(process).propose(commands.FenceOwner(epoch)),
                lambda result, error: None,
            )

    def _answered(self, epoch: int, result: object, error: SteleError | None) -> None:
        if error is not None:
            self.missed(error)
        elif isinstance(result, FenceOutcome):
            self.workload.fenced(epoch)


class Subscriber(Client):
    """One cursor; acknowledges ranges of what was stored, in any order, and more than once."""

    def __init__(self, workload: Workload, rng: random.Random) -> None:
        super().__init__(workload, rng)
        self.generation = 0

    def step(self) -> None:
        epoch = max(1, self.workload.epoch)
        command: commands.CreateCursor | commands.Ack
        ranges: tuple[tuple[int, int], ...] = ()
        if not self.generation:
            command = commands.CreateCursor(epoch, SUBSCRIPTION, commands.EARLIEST)
        else:
            if not self.workload.acked:
                return
            end = self.workload.high_watermark_promised
            first = self.rng.randrange(end)
            ranges = ((first, min(end - 1, first + self.rng.randrange(4))),)
            command = commands.Ack(epoch, SUBSCRIPTION, self.generation, ranges)
        Call(
            self.world,
            self.rng,
            self.target,
            lambda process: _machine(process).propose(command),
            lambda result, error: self._answered(ranges, result, error),
        )

    def _answered(self, ranges: tuple[tuple[int, int], ...], result: object, error: SteleError | None) -> None:
        if error is not None:
            self.missed(error)
        elif isinstance(result, CursorOutcome):
            if self.generation and result.generation != self.generation:
                raise Violation("cursor changed", f"generation {result.generation} after {self.generation}")
            self.generation = result.generation
            for first, last in ranges:
                self.workload.consumed.update(range(first, last + 1))


class Reader(Client):
    """Reads what some replica shows: only what is committed, and always the same at an offset."""

    def step(self) -> None:
        end = self.workload.high_watermark_promised
        offset = self.rng.randrange(end + 1)
        Call(
            self.world,
            self.rng,
            self.rng.choice(self.world.ids),
            lambda process: [(s.base_offset, s.batch) for s in _machine(process).read(offset, 4000)],
            self._answered,
        )

    def _answered(self, result: object, error: SteleError | None) -> None:
        if error is None:
            assert isinstance(result, list)
            for base_offset, content in result:
                self.workload.shown(base_offset, content)


class LinearizableReader(Client):
    """Asks the leader for what everybody was promised before."""

    def __init__(self, workload: Workload, rng: random.Random) -> None:
        super().__init__(workload, rng)
        self.checked = 0
        self._seen = 0  # what a read that is done has shown

    def step(self) -> None:
        promised = max(self.workload.high_watermark_promised, self._seen)
        Call(
            self.world,
            self.rng,
            self.target,
            lambda process: process.loop.create_task(self._read(process)),
            lambda result, error: self._answered(promised, result, error),
        )

    @staticmethod
    async def _read(process: Process) -> int:
        machine = _machine(process)
        assert process.group is not None
        await process.group.read_index()
        return machine.partition.high_watermark

    def _answered(self, promised: int, result: object, error: SteleError | None) -> None:
        if error is not None:
            self.missed(error)
            return
        assert isinstance(result, int)
        self.checked += 1
        if result < promised:
            raise Violation("stale read", f"a read shows {result} messages; {promised} were promised before it began")
        self._seen = max(self._seen, result)


def _machine(process: Process) -> Machine:
    if process.machine is None:
        raise NotLeader("loading")
    return process.machine


class Workload:
    """All clients, and what they know."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.closing = False
        self.in_flight = 0
        self.idle_until = 0.0
        self.acked: dict[tuple[int, int], int] = {}  # (producer, sequence of a batch) → offset
        self.stored: dict[int, tuple[int, int, int]] = {}  # base offset → producer, sequence, index, as first applied
        self.consumed: set[int] = set()
        self.high_watermark_promised = 0
        self.epoch = 0  # the highest that was granted
        self.epoch_asked = 0
        self.content_checked = 0
        self._epoch_applied = 0
        self._by_batch: dict[tuple[int, int], int] = {}
        self._contents: dict[int, bytes] = {}
        self.producers = [Producer(self, _sub(rng), n + 1) for n in range(rng.choice((1, 2, 3)))]
        self.owner = Owner(self, _sub(rng))
        self.subscriber = Subscriber(self, _sub(rng))
        self.reader = Reader(self, _sub(rng))
        self.linearizable = LinearizableReader(self, _sub(rng))
        self.gap_s = 10 ** rng.uniform(-2.3, -0.9)
        # Small beside bounds that are: pressure.py, shared_links.py.
        self.large_bytes = 1_200 if world.pressed or world.shared else 20_000
        if world.pressed:  # much is asked for at once
            self.gap_s /= 4
            for producer in self.producers:
                producer.window *= 8

    @property
    def idle(self) -> bool:
        """Nothing is asked any more that could change anything."""
        return not self.in_flight and not any(producer.busy for producer in self.producers)

    def start(self) -> None:
        self.world.scheduler.after(0.1, self._step)

    def _step(self) -> None:
        rng = self.rng
        if self.world.scheduler.now < self.idle_until and not self.world.healed:
            self.world.scheduler.at(self.idle_until, self._step)
            return
        if self.epoch == 0 or (rng.random() < 0.004 and not self.closing):
            self.owner.step()
        elif self.closing:
            for producer in self.producers:
                producer.step()
        else:
            x = rng.random()
            if x < 0.7:
                rng.choice(self.producers).step()
            elif x < 0.8:
                self.subscriber.step()
            elif x < 0.93:
                self.linearizable.step()
            else:
                self.reader.step()
        gap = 0.1 if self.epoch == 0 else rng.expovariate(1 / self.gap_s)
        self.world.scheduler.after(gap, self._step)

    # --- what was promised --------------------------------------------------------------------------------------------------

    def acknowledged(self, producer: int, sent: Batch, stored: Appended) -> None:
        key = (producer, sent.sequence)
        before = self.acked.setdefault(key, stored.base_offset)
        if before != stored.base_offset:
            raise Violation("acknowledged twice", f"batch {key} was stored at {before}, now at {stored.base_offset}")
        known = self.stored.get(stored.base_offset)
        if known is None or known[:2] != key:
            raise Violation(
                "acknowledged and not stored", f"batch {key} is acknowledged at {stored.base_offset}; there is {known}"
            )
        self.high_watermark_promised = max(self.high_watermark_promised, stored.base_offset + sent.count)

    def fenced(self, epoch: int) -> None:
        self.epoch = max(self.epoch, epoch)

    def first_applied(self, index: int, payload: bytes, outcome: Outcome) -> None:
        """An entry was applied somewhere for the first time."""
        epoch = int.from_bytes(payload[1:9], "big")
        if isinstance(outcome, (Refused, TrimOutcome)):
            return
        if epoch < self._epoch_applied:
            raise Violation(
                "fence ignored", f"entry {index} of epoch {epoch} was carried out after {self._epoch_applied}"
            )
        self._epoch_applied = epoch
        if not isinstance(outcome, AppendOutcome):
            return
        for (start, end, header), stored in zip(commands.batches_of(payload), outcome.results, strict=True):
            if isinstance(stored, Refused):
                continue
            key = (header.producer_id, header.base_sequence)
            at = self._by_batch.setdefault(key, stored.base_offset)
            if at != stored.base_offset:
                raise Violation("stored twice", f"batch {key} is stored at {at} and at {stored.base_offset}")
            if not stored.duplicate:
                self.stored[stored.base_offset] = (*key, index)
                self._contents[stored.base_offset] = payload[start:end]

    def shown(self, base_offset: int, content: bytes) -> None:
        """A replica gave this to a reader."""
        self.content_checked += 1
        if self._contents.get(base_offset) != content:
            raise Violation("wrong content", f"what is read at offset {base_offset} was never stored there")

    def check_end(self, machine: Machine) -> None:
        """Everything promised is in the state that all replicas came to."""
        partition = machine.partition
        for (producer, sequence), offset in self.acked.items():
            if self.stored[offset][:2] != (producer, sequence) or offset >= partition.high_watermark:
                raise Violation("acknowledged and lost", f"batch {(producer, sequence)} at offset {offset}")
        cursor = partition.cursor(SUBSCRIPTION)
        for offset in sorted(self.consumed):
            if cursor is None or not cursor.is_acked(offset):
                raise Violation("acknowledgement lost", f"offset {offset} of {SUBSCRIPTION}")
        offset = machine.log_start
        while offset < partition.high_watermark:
            found = machine.read(offset, 1 << 20)
            if not found:
                raise Violation("message lost", f"nothing is read at offset {offset}")
            for stored in found:
                self.shown(stored.base_offset, stored.batch)
                offset = stored.base_offset + batch.read_header(stored.batch).record_count


def _sub(rng: random.Random) -> random.Random:
    return random.Random(rng.getrandbits(64))
