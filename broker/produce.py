"""Producing: the streams of clients on one side, the pipelines of partitions on the other.

Guarantee: every request on a stream is answered exactly once while the stream lasts, those of one partition in their
order; a client never has more than its credit stored here unanswered. The decisions are the pipeline's
(broker/pipeline.py); here its effects are carried out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from stele.broker.metrics import BrokerMetrics
from stele.broker.partition_client import ATTEMPT_S, POLL, TRY_ANOTHER_STORE, PartitionClient
from stele.broker.pipeline import Deposed, Pipeline, PipelineEffect, Recover, Respond, Result, Send, StoredAt
from stele.broker.produce_budget import ProduceBudget
from stele.services.backoff import Backoff
from stele.services.batch import BatchHeader
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import InternalError, Overloaded, SteleError, Timeout
from stele.services.pb import broker_pb2, datanode_pb2
from stele.services.rarely import Rarely
from stele.services.rpc.status import from_pb, to_wire
from stele.services.rpc.streams import AnswerPump
from stele.services.tasks import Tasks

RECOVER_AGAIN = Backoff(first_s=0.04, max_s=0.1)
PATIENCE_S = 0.3  # with a store that owes an answer and is known to lead no more

_log = structlog.get_logger()


class Offered(Protocol):
    """What is offered to a partition, and hears what became of it."""

    @property
    def batch(self) -> bytes: ...

    @property
    def header(self) -> BatchHeader: ...

    def answer(self, result: Result) -> None: ...


class PartitionProducer:
    """Carries out the effects of one partition's pipeline.  Begins closed to the leader: ``opened`` lets it flow."""

    def __init__(
        self,
        partition: PartitionClient,
        pipeline: Pipeline,
        *,
        on_stored: Callable[[int, BatchHeader, bytes | None], None],
        on_deposed: Callable[[SteleError], None],
        on_failed: Callable[[str, BaseException], None],
        metrics: BrokerMetrics,
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
    ) -> None:
        self._partition, self._pipeline = partition, pipeline
        self._on_stored, self._on_deposed = on_stored, on_deposed
        self._metrics, self._clock, self._rng = metrics, clock, rng or random.Random()
        self._failures = 0  # recoveries since the last success
        self._refused: dict[str, Rarely] = {}  # by reason
        self._tasks = Tasks(on_failed)
        self._sent_to: dict[int, int] = {}  # append in flight → the store it was sent to, oldest first
        self._suspecting = False
        self._idle = asyncio.Event()
        self._idle.set()

    def offer(self, offered: Offered) -> None:
        self._idle.clear()
        self._carry_out(
            self._pipeline.offer(offered.batch, offered.header.producer_id, offered, self._clock.monotonic())
        )

    def refuse(self, offered: Offered, error: SteleError) -> None:
        """Answers ``offered`` with ``error`` when its turn comes."""
        self._carry_out(self._pipeline.refuse(offered, error, self._clock.monotonic()))

    def opened(self) -> None:
        """The partition is fenced for this owner and its leader is known."""
        self._carry_out(self._pipeline.recovered(self._clock.monotonic()))

    def tick(self) -> None:
        """To be called a few times a second: deadlines, and a leader that is silent."""
        now_s = self._clock.monotonic()
        self._carry_out(self._pipeline.timer(now_s))
        if self._silent_store() and not self._suspecting:
            self._suspecting = True
            self._tasks.start(self._suspect())

    def close(self, error: SteleError) -> None:
        """Takes nothing more; what is in flight may still be answered."""
        self._carry_out(self._pipeline.close(error, self._clock.monotonic()))

    async def drained(self) -> None:
        """Everything offered is answered."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Ends at once: what is in flight has an unknown outcome."""
        self._carry_out(self._pipeline.abandon(Timeout("the broker stopped"), self._clock.monotonic()))
        await self._tasks.cancel()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[PipelineEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(request_id, batches):
                    store_id = self._sent_to[request_id] = self._partition.leader
                    self._metrics.append_batches.observe(len(batches))
                    answer = self._partition.append(batches)
                    answer.add_done_callback(
                        lambda done, r=request_id, s=store_id: self._answered(r, s, done)  # type: ignore[misc]
                    )
                case Respond(token, result):
                    self._answer(token, result)  # type: ignore[arg-type]
                case Recover(error):
                    self._failures += 1
                    self._tasks.start(self._recover(error))
                case Deposed(error):
                    self._on_deposed(error)
        if self._pipeline.is_idle:
            self._idle.set()

    def _answer(self, offered: Offered, result: Result) -> None:
        if isinstance(result, StoredAt):
            self._failures = 0
            # Counted as stored BEFORE its sender is answered: who looks for it then finds it.
            # The stored form of a duplicate may be part of a larger batch: its bytes are read back where they are wanted.
            self._on_stored(result.base_offset, offered.header, None if result.duplicate else offered.batch)
        offered.answer(result)

    def _answered(self, request_id: int, store_id: int, done: asyncio.Future[datanode_pb2.AppendResponse]) -> None:
        now_s = self._clock.monotonic()
        self._sent_to.pop(request_id, None)
        error: SteleError | None
        if done.cancelled():
            error = Timeout("the append was given up")
        elif (failure := done.exception()) is not None:
            error = failure if isinstance(failure, SteleError) else InternalError(f"the append failed: {failure!r}")
        else:
            error = from_pb(done.result().error)
        if error is not None:
            if store_id and isinstance(error, TRY_ANOTHER_STORE):
                self._partition.failed(store_id, error)
            self._carry_out(self._pipeline.failed(request_id, error, now_s))
            return
        results = [from_pb(r.error) or StoredAt(r.base_offset, r.duplicate) for r in done.result().results]
        self._carry_out(self._pipeline.answered(request_id, results, now_s))

    async def _recover(self, error: SteleError) -> None:
        if times := self._refused.setdefault(error.reason, Rarely()).times(self._clock.monotonic()):
            _log.info(
                "append_recovering", group=self._partition.group, reason=error.reason, error=error.message, times=times
            )
        if self._failures > 1:  # the first time at once: another replica may lead already
            await asyncio.sleep(RECOVER_AGAIN.after(self._failures - 1, self._rng))
        await self._partition.find_leader()
        self._carry_out(self._pipeline.recovered(self._clock.monotonic()))

    async def _suspect(self) -> None:
        """A store is silent: it may be slow, or frozen with another one elected.  Only another's word decides."""
        try:
            while silent := self._silent_store():
                known = self._partition.leader
                if known not in (0, silent) or await self._partition.newer_leader(silent):
                    _log.warning("leader_silent", group=self._partition.group, store=silent, now=self._partition.leader)
                    error = Timeout(f"store {silent} gave no answer", timeout_s=ATTEMPT_S)
                    self._sent_to.clear()
                    self._carry_out(self._pipeline.abandon(error, self._clock.monotonic()))
                    return
                await asyncio.sleep(POLL.max_s)
        finally:
            self._suspecting = False

    def _silent_store(self) -> int:
        """The store that owes the oldest answer for too long; less is enough once another one is known to lead."""
        oldest_s = self._pipeline.oldest_sent_s()
        store_id = next(iter(self._sent_to.values()), 0)
        if oldest_s is None or not store_id:
            return 0
        patience_s = ATTEMPT_S if self._partition.leader in (0, store_id) else PATIENCE_S
        return store_id if self._clock.monotonic() - oldest_s > patience_s else 0


@dataclass(frozen=True, slots=True, eq=False)
class Produced:
    """One request of a stream."""

    session: ProduceSession
    request_id: int
    batch: bytes
    header: BatchHeader
    read_s: float  # when it was read from the stream, on the session's clock

    def answer(self, result: Result) -> None:
        self.session.answer(self.request_id, len(self.batch), result, self.read_s)


class ProduceSession:
    """One client's stream: its answers, and its credit."""

    def __init__(self, credit_bytes: int, budget: ProduceBudget, metrics: BrokerMetrics, clock: Clock = SYSTEM) -> None:
        self._credit_bytes, self._budget = credit_bytes, budget
        self._metrics = metrics
        self.now = clock.monotonic
        self._unanswered_bytes = 0
        self._pump: AnswerPump[broker_pb2.ProduceRequest, broker_pb2.ProduceResponse] = AnswerPump()

    def run(
        self,
        requests: AsyncIterator[broker_pb2.ProduceRequest],
        take: Callable[[broker_pb2.ProduceRequest], Awaitable[None]],
    ) -> AsyncGenerator[broker_pb2.ProduceResponse, None]:
        """The answers, until the client has ended and everything is answered."""
        return self._pump.run(requests, take)

    def charge(self, size: int) -> Overloaded | None:
        """Counts a request of ``size`` bytes that was just read; the refusal if the client has overdrawn its credit."""
        overdrawn = self._pump.unanswered > 1 and self._unanswered_bytes + size > self._credit_bytes
        self._unanswered_bytes += size
        self._budget.take(size)
        if overdrawn:
            return Overloaded(f"more than {self._credit_bytes} bytes are unanswered", limit=self._credit_bytes)
        return None

    def answer(self, request_id: int, size: int, result: Result, read_s: float) -> None:
        self._unanswered_bytes -= size
        self._budget.give_back(size)
        response = broker_pb2.ProduceResponse(request_id=request_id)
        if isinstance(result, StoredAt):
            response.base_offset, response.duplicate = result.base_offset, result.duplicate
        else:
            response.error.CopyFrom(to_wire(result))
        self._metrics.produced(result, size, self.now() - read_s)
        self._pump.answer(response)
