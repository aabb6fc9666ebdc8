"""The appending core against a model of a partition under random failures: nothing lost, nothing twice, everything in order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stele.broker.pipeline import Pipeline, PipelineEffect, Recover, Respond, Result, Send, StoredAt
from stele.services.errors import ConnectionBroken, NotLeader, OutOfOrderSequence, ProposalLost, SteleError, Timeout


@dataclass(frozen=True)
class Token:
    producer: int
    sequence: int
    number: int  # of all offers

    @property
    def bytes(self) -> bytes:
        return f"{self.producer} {self.sequence} {self.number}".encode()


class Partition:
    """What a partition does with batches, in a few lines: one record per batch."""

    def __init__(self) -> None:
        self.log: list[tuple[int, int]] = []

    def append(self, batches: tuple[bytes, ...]) -> list[Result]:
        return [self._append(*map(int, b.split()[:2])) for b in batches]

    def _append(self, producer: int, sequence: int) -> Result:
        if producer and (producer, sequence) in self.log:
            return StoredAt(self.log.index((producer, sequence)), duplicate=True)
        expected = sum(1 for p, _ in self.log if p == producer)
        if producer and sequence != expected:
            return OutOfOrderSequence("gap", expected=expected, got=sequence)
        self.log.append((producer, sequence))
        return StoredAt(len(self.log) - 1)


class PipelineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pipe = Pipeline(inflight_max=3, append_bytes_max=24)
        self.partition = Partition()
        self.next_sequence = {0: 0, 1: 0, 2: 0}
        self.offered: list[Token] = []
        self.answers: dict[Token, Result] = {}
        self.wire: list[Send] = []  # sent, not processed by the partition yet
        self.replies: dict[int, list[Result]] = {}  # processed, not seen by the pipeline yet
        self.lost: list[Send] = []  # abandoned: the old leader may still process these
        self.recovering = False

    def carry_out(self, effects: list[PipelineEffect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    assert not self.recovering
                    self.wire.append(effect)
                case Respond(token, result):
                    assert isinstance(token, Token)
                    assert token == self.offered[len(self.answers)], "answered once, in the order of the offers"
                    self.answers[token] = result
                case Recover():
                    assert not self.recovering
                    assert not self.wire
                    assert not self.replies
                    self.recovering = True

    @rule(producer=st.sampled_from([0, 1, 1, 2]))
    def offer(self, producer: int) -> None:
        token = Token(producer, self.next_sequence[producer], len(self.offered))
        self.next_sequence[producer] += 1
        self.offered.append(token)
        self.carry_out(self.pipe.offer(token.bytes, producer, token, 0))

    @precondition(lambda self: self.wire)
    @rule()
    def process(self) -> None:
        send = self.wire.pop(0)
        self.replies[send.request_id] = self.partition.append(send.batches)

    @precondition(lambda self: self.replies)
    @rule()
    def reply(self) -> None:
        request_id = next(iter(self.replies))
        self.carry_out(self.pipe.answered(request_id, self.replies.pop(request_id), 0))

    @precondition(lambda self: self.wire)
    @rule()
    def refuse_one(self) -> None:
        """The leader steps down and back up: one append is refused, the following are not."""
        self.carry_out(self.pipe.failed(self.wire.pop(0).request_id, NotLeader("x"), 0))

    @precondition(lambda self: self.wire or self.replies)
    @rule(processed=st.integers(0, 3))
    def connection_breaks(self, processed: int) -> None:
        for _ in range(min(processed, len(self.wire))):
            self.process()
        for request_id in [*self.replies, *(s.request_id for s in self.wire)]:
            self.replies.pop(request_id, None)
            self.wire = [s for s in self.wire if s.request_id != request_id]
            self.carry_out(self.pipe.failed(request_id, ConnectionBroken("x"), 0))

    @precondition(lambda self: self.wire)
    @rule()
    def leader_freezes(self) -> None:
        self.lost += self.wire
        self.wire, self.replies = [], {}
        self.carry_out(self.pipe.abandon(Timeout("x"), 0))

    @precondition(lambda self: self.lost)
    @rule()
    def old_proposals_commit_late(self) -> None:
        self.partition.append(self.lost.pop(0).batches)

    @precondition(lambda self: self.replies)
    @rule()
    def proposal_lost(self) -> None:
        request_id = next(iter(self.replies))
        del self.replies[request_id]
        self.carry_out(self.pipe.failed(request_id, ProposalLost("x"), 0))

    @precondition(lambda self: self.recovering)
    @rule()
    def leader_found(self) -> None:
        self.recovering = False
        self.carry_out(self.pipe.recovered(0))

    @invariant()
    def is_valid(self) -> None:
        self.pipe.validate()

    def teardown(self) -> None:
        for _ in range(10_000):
            if self.pipe.is_idle and not self.recovering:
                break
            if self.recovering:
                self.leader_found()
            while self.wire:
                self.process()
            while self.replies:
                self.reply()
        assert self.pipe.is_idle
        assert len(self.answers) == len(self.offered)
        for producer in (1, 2):
            stored = [s for p, s in self.partition.log if p == producer]
            assert stored == list(range(self.next_sequence[producer])), "each once, in order"
        anonymous = [s for p, s in self.partition.log if p == 0]
        assert len(set(anonymous)) == len(anonymous), "without an id nothing is sent twice"
        for token, result in self.answers.items():
            if isinstance(result, StoredAt):
                assert self.partition.log[result.base_offset] == (token.producer, token.sequence)
            else:
                assert isinstance(result, SteleError)
                assert token.producer == 0, "an idempotent batch is stored in the end"
                assert not result.definite or (0, token.sequence) not in self.partition.log


TestPipelineMachine = PipelineMachine.TestCase
TestPipelineMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
