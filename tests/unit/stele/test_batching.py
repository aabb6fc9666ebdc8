"""The producer's core against a model of a partition that deduplicates like a datanode."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from stele.batching import (
    BATCH_BYTES_LIMIT,
    INFLIGHT_BATCHES_MAX,
    GivenUp,
    PartitionBatches,
    ProducerBatch,
    StickyPartitioner,
    check_record,
    new_producer_id,
    partition_of_key,
    record_bytes,
)
from stele.errors import SendTimedOut
from stele.services.batch import DELTA_MS_MAX, EPOCH_SEQUENCES, SEQUENCE_END, BatchRecord, decode, read_header
from stele.services.errors import (
    ConnectionBroken,
    InvalidArgument,
    MessageTooLarge,
    NotOwner,
    OutOfOrderSequence,
    SteleError,
    Timeout,
    TopicNotFound,
    TopicReplaced,
)
from tests.support.both_ways import holds_and_mutant_fails, promise

REMEMBERED = 64


def fresh(
    batch_bytes_max: int = 200, inflight_max: int = INFLIGHT_BATCHES_MAX, idempotent: bool = True
) -> PartitionBatches:
    return PartitionBatches(7 if idempotent else 0, batch_bytes_max, inflight_max)


def add(batches: PartitionBatches, value: bytes, deadline_s: float = 100.0) -> tuple[bool, bool]:
    record = BatchRecord(value)
    return batches.add(record, check_record(record), value, deadline_s)


def send(batches: PartitionBatches) -> ProducerBatch:
    batch = batches.next_to_send(0.0)
    assert batch is not None
    return batch


async def what_a_former_topic_may_have_stored(make: type[PartitionBatches]) -> None:
    batches = make(7, 60)
    for value in (b"stored", b"lost", b"refused", b"late", b"never sent", b"open"):
        add(batches, value)
        if value != b"open":
            batches.seal()
    sent = [send(batches) for _ in range(4)]
    attempts = [b.attempt for b in sent]
    assert batches.stored(attempts[0]) is sent[0]
    again, given_up = batches.refused(attempts[1], ConnectionBroken("gone"))
    assert (again, given_up) == (True, [])
    mismatch = TopicReplaced("made anew")
    for batch, attempt in zip(
        sent[2:], attempts[2:], strict=True
    ):  # written off by then; their answers come all the same
        batches.refused_late(batch, attempt, mismatch)
    unsent, given_up = batches.retire(mismatch)
    with promise("what a former topic may have stored is not stored again"):
        assert unsent == [b"refused", b"late", b"never sent", b"open"]
        assert [g.batch.promises for g in given_up] == [[b"lost"]]
        assert not any(g.error.definite for g in given_up)
    assert batches.is_empty


async def test_p7b_what_a_former_topic_may_have_stored_is_not_stored_again() -> None:
    await holds_and_mutant_fails(
        what_a_former_topic_may_have_stored, PartitionBatches, "incarnations.SendsAgainWhatMayBeStored"
    )


def test_an_answer_of_unknown_outcome_takes_no_doubt_away() -> None:
    batches = fresh()
    add(batches, b"x")
    batches.seal()
    batch = send(batches)
    attempt = batch.attempt
    batches.rewind()
    batches.refused_late(batch, attempt, ConnectionBroken("gone"))
    assert batch.maybe_stored
    batches.refused_late(batch, attempt + 1, NotOwner("of another attempt"))
    assert batch.maybe_stored
    batches.refused_late(batch, attempt, NotOwner("moved"))
    assert not batch.maybe_stored


def test_a_batch_is_sealed_by_its_bytes_and_never_exceeds_them() -> None:
    batches = fresh(batch_bytes_max=300)
    outcomes = [add(batches, b"x" * 60) for _ in range(10)]
    batches.seal()
    assert outcomes[0] == (True, False)
    assert any(sealed for _, sealed in outcomes)
    sizes = []
    while (batch := batches.next_to_send(0.0)) is not None:
        assert len(batch.encoded) == batch.size_bytes <= 300
        sizes.append(len(batch.records))
    assert sum(sizes) == 10


def test_a_message_larger_than_a_batch_goes_alone() -> None:
    batches = fresh(batch_bytes_max=100)
    add(batches, b"small")
    add(batches, b"x" * 5000)
    add(batches, b"small")
    batches.seal()
    assert [len(send(batches).records) for _ in range(3)] == [1, 1, 1]


def test_the_size_of_a_record_is_what_it_takes_in_a_batch() -> None:
    record = BatchRecord(b"value", key=b"key", headers={"näme": b"v", "b": b""})
    batches = fresh(batch_bytes_max=10_000)
    batches.add(record, record_bytes(record), None, 1.0)
    batches.seal()
    batch = send(batches)
    assert len(batch.encoded) == batch.size_bytes
    assert decode(batch.encoded) == [record]


def test_an_oversized_message_is_refused_and_the_largest_one_accepted() -> None:
    with pytest.raises(MessageTooLarge, match="accepted are") as refused:
        check_record(BatchRecord(b"x" * BATCH_BYTES_LIMIT))
    accepted = int(refused.value.facts["bytes_max"])
    batches = fresh(batch_bytes_max=BATCH_BYTES_LIMIT)
    add(batches, b"x" * accepted)
    batches.seal()
    assert len(send(batches).encoded) == BATCH_BYTES_LIMIT
    with pytest.raises(MessageTooLarge):
        check_record(BatchRecord(b"x" * (accepted + 1)))


def test_a_repeated_batch_has_identical_bytes_and_keeps_its_place() -> None:
    batches = fresh()
    for i in range(6):
        add(batches, b"%d" % i)
        batches.seal()
    first = [send(batches) for _ in range(3)]
    sent = [b.encoded for b in first]
    again, given_up = batches.refused(first[0].attempt, NotOwner("moved"))
    assert (again, given_up) == (True, [])
    batches.validate()
    assert [send(batches).encoded for _ in range(3)] == sent
    assert [read_header(send(batches).encoded).base_sequence for _ in range(3)] == [3, 4, 5]


def test_answers_to_attempts_that_were_written_off_change_nothing_unless_they_are_good() -> None:
    batches = fresh()
    add(batches, b"a")
    batches.seal()
    batch = send(batches)
    old = batch.attempt
    batches.rewind()
    again = send(batches)
    assert again is batch
    assert batches.refused(old, NotOwner("late")) == (False, [])
    assert batches.stored(old) is None
    assert batches.stored_late(batch)
    assert batches.is_empty
    assert batches.stored(again.attempt) is None
    assert not batches.stored_late(batch)


def test_at_most_so_many_batches_are_in_flight() -> None:
    batches = fresh(inflight_max=2)
    for _ in range(4):
        add(batches, b"x")
        batches.seal()
    first, _second = send(batches), send(batches)
    assert batches.next_to_send(0.0) is None
    batches.stored(first.attempt)
    assert batches.next_to_send(0.0) is not None


def test_a_message_that_was_never_sent_fails_definitely() -> None:
    batches = fresh()
    add(batches, b"a", deadline_s=5.0)
    assert batches.expire(4.9) == []
    (given_up,) = batches.expire(5.0)
    assert isinstance(given_up.error, SendTimedOut)
    assert given_up.error.definite
    assert batches.is_empty


def test_an_unanswered_message_fails_indefinitely_and_takes_along_what_was_sent_behind_it() -> None:
    batches = fresh()
    for i, deadline_s in enumerate((5.0, 50.0, 50.0)):
        add(batches, b"%d" % i, deadline_s)
        batches.seal()
    head, _follower = send(batches), send(batches)
    given_up = batches.expire(6.0)
    assert [g.batch.promises for g in given_up] == [[b"0"], [b"1"]]
    assert all(not g.error.definite and isinstance(g.error, Timeout) for g in given_up)
    rest = read_header(send(batches).encoded)
    assert rest.producer_id == read_header(head.encoded).producer_id
    assert rest.base_sequence == EPOCH_SEQUENCES
    batches.validate()


def test_after_a_definite_refusal_the_rest_goes_out_in_a_new_epoch() -> None:
    batches = fresh()
    for i in range(3):
        add(batches, b"%d" % i)
        batches.seal()
    head, _ = send(batches), send(batches)
    again, given_up = batches.refused(head.attempt, InvalidArgument("no"))
    assert again
    assert [(g.batch.promises, type(g.error)) for g in given_up] == [([b"0"], InvalidArgument)]
    headers = [read_header(send(batches).encoded) for _ in range(2)]
    assert [h.base_sequence for h in headers] == [EPOCH_SEQUENCES, EPOCH_SEQUENCES + 1]
    assert headers[0].producer_id == headers[1].producer_id == read_header(head.encoded).producer_id


def test_where_a_producers_epochs_end_another_producer_begins() -> None:
    batches = fresh()
    batches.next_sequence = SEQUENCE_END - EPOCH_SEQUENCES
    add(batches, b"0")
    batches.seal()
    head = send(batches)
    assert read_header(head.encoded).base_sequence == SEQUENCE_END - EPOCH_SEQUENCES
    add(batches, b"1")
    batches.seal()
    batches.refused(head.attempt, InvalidArgument("no"))
    header = read_header(send(batches).encoded)
    assert (header.producer_id, header.base_sequence) == (read_header(head.encoded).producer_id + 1, 0)


def test_a_definite_refusal_after_an_unanswered_attempt_is_reported_as_indefinite() -> None:
    batches = fresh()
    add(batches, b"a")
    batches.seal()
    batches.refused(send(batches).attempt, ConnectionBroken("gone"))
    _, (given_up,) = batches.refused(send(batches).attempt, TopicNotFound("deleted meanwhile"))
    assert not given_up.error.definite


def test_a_partition_that_forgot_the_producer_is_sent_everything_anew() -> None:
    batches = fresh()
    for i in range(3):
        add(batches, b"%d" % i)
        batches.seal()
    batches.stored(send(batches).attempt)
    head = send(batches)
    again, given_up = batches.refused(head.attempt, OutOfOrderSequence("unknown producer", expected=0, got=1))
    assert (again, given_up) == (True, [])
    sent = [read_header(send(batches).encoded).base_sequence for _ in range(2)]
    assert sent == [EPOCH_SEQUENCES, EPOCH_SEQUENCES + 1]


def test_a_gap_behind_the_head_is_the_heads_fault() -> None:
    batches = fresh()
    for i in range(2):
        add(batches, b"%d" % i)
        batches.seal()
    head, follower = send(batches), send(batches)
    identity = batches.producer_id
    assert batches.refused(follower.attempt, OutOfOrderSequence("gap", expected=0, got=1)) == (True, [])
    assert send(batches) is head
    assert batches.producer_id == identity


def test_closing_fails_everything_each_as_it_is_true() -> None:
    batches = fresh()
    for i in range(2):
        add(batches, b"%d" % i)
        batches.seal()
    add(batches, b"2")
    send(batches)
    errors = [g.error for g in batches.fail_all(TopicNotFound("gone"))]
    assert [e.definite for e in errors] == [False, True, True]
    assert batches.is_empty


def test_keys_keep_their_partition() -> None:
    crc_check_value = 0xE3069283  # CRC-32C of "123456789", as every implementation documents it
    assert partition_of_key(b"123456789", 1000) == crc_check_value % 1000
    assert partition_of_key(b"", 7) == 0
    assert {partition_of_key(b"%d" % i, 4) for i in range(100)} == {0, 1, 2, 3}


def test_messages_without_key_avoid_stalled_partitions() -> None:
    sticky = StickyPartitioner(4, random.Random(1))
    sticky.current = 0
    sticky.advance(lambda p: p in (1, 2))
    assert sticky.current == 3
    sticky.advance(lambda _: True)
    assert sticky.current == 0


def test_producer_ids_are_never_zero() -> None:
    class Zero(random.Random):
        def getrandbits(self, k: int) -> int:
            return 0

    assert new_producer_id(Zero()) == 1
    assert 0 < new_producer_id(random.Random(3)) < 1 << 63


# --- any interleaving ---------------------------------------------------------------------------------------------


@dataclass
class ModelPartition:
    """Stores what a datanode would."""

    log: list[bytes] = field(default_factory=list)
    producers: dict[int, deque[tuple[int, int, int]]] = field(default_factory=dict)  # id → (base, last, offset)

    def append(self, encoded: bytes) -> int | SteleError:
        header = read_header(encoded)
        known = self.producers.get(header.producer_id)
        if known is not None:
            for base, _, offset in known:
                if base == header.base_sequence:
                    return offset
        expected = known[-1][1] + 1 if known else 0
        if not header.follows(expected):
            return OutOfOrderSequence("gap", expected=expected, got=header.base_sequence)
        offset = len(self.log)
        self.log += [r.value for r in decode(encoded)]
        entries = self.producers.setdefault(header.producer_id, deque(maxlen=REMEMBERED))
        if header.base_sequence != expected:
            entries.clear()
        entries.append((header.base_sequence, header.last_sequence, offset))
        return offset


@dataclass
class Wire:
    """Batches on their way: a stream that may lose its tail, repeat, refuse, and a broker that still has what came on an earlier one."""

    batches: PartitionBatches
    partition: ModelPartition
    rng: random.Random
    stream: deque[tuple[ProducerBatch, int, bytes]] = field(default_factory=deque)
    late: deque[bytes] = field(default_factory=deque)
    answers: deque[tuple[ProducerBatch, int, int | SteleError]] = field(default_factory=deque)
    acked: dict[bytes, int] = field(default_factory=dict)
    failed: dict[bytes, SteleError] = field(default_factory=dict)

    def send(self, now_s: float) -> None:
        while (batch := self.batches.next_to_send(now_s)) is not None:
            self.stream.append((batch, batch.attempt, batch.encoded))

    def serve(self) -> None:
        if self.late and self.rng.random() < 0.1:
            self.partition.append(self.late.popleft())
        if self.stream:
            batch, attempt, encoded = self.stream.popleft()
            if self.rng.random() < 0.1:
                refusal: SteleError = self.rng.choice([NotOwner("moved"), Timeout("slow"), InvalidArgument("no")])
                if isinstance(refusal, Timeout) and self.rng.random() < 0.5:
                    self.partition.append(encoded)
                self.answers.append((batch, attempt, refusal))
            else:
                self.answers.append((batch, attempt, self.partition.append(encoded)))

    def answer(self) -> None:
        if not self.answers:
            return
        batch, attempt, outcome = self.answers.popleft()
        if isinstance(outcome, SteleError):
            _, given_up = self.batches.refused(attempt, outcome)
            self.give_up(given_up)
        elif self.batches.stored(attempt) is batch or self.batches.stored_late(batch):
            for i, value in enumerate(batch.promises):
                assert value not in self.acked
                assert value not in self.failed
                self.acked[value] = outcome + i  # type: ignore[index]

    def break_stream(self) -> None:
        """What was not served is lost, or served late; what was served and not answered is not known to the producer."""
        if self.rng.random() < 0.5:
            self.late.extend(encoded for _, _, encoded in self.stream)
        self.stream.clear()
        self.answers.clear()
        self.batches.rewind(ConnectionBroken("broke"))

    def give_up(self, given_up: list[GivenUp]) -> None:
        for g in given_up:
            for value in g.batch.promises:
                assert value not in self.acked
                assert value not in self.failed
                self.failed[value] = g.error  # type: ignore[index]


async def nothing_that_was_given_up_comes_late(make: type[PartitionBatches]) -> None:
    batches, partition = make(7, 60), ModelPartition()
    for value in (b"unanswered", b"behind it"):
        add(batches, value, 1.0)
        batches.seal()
    with_the_broker = [send(batches).encoded, send(batches).encoded]
    assert not any(g.error.definite for g in batches.expire(2.0))
    add(batches, b"later")
    batches.seal()
    assert partition.append(send(batches).encoded) == 0
    late = [partition.append(encoded) for encoded in with_the_broker]
    with promise("what was given up is not stored behind what was sent later"):
        assert all(isinstance(outcome, OutOfOrderSequence) for outcome in late)
        assert partition.log == [b"later"]


async def test_what_was_given_up_is_not_stored_late() -> None:
    await holds_and_mutant_fails(nothing_that_was_given_up_comes_late, PartitionBatches, "batches.GoesOnAsAnother")


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_acknowledged_messages_are_stored_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    wire = Wire(fresh(rng.choice([1, 150, 400]), rng.choice([1, 4, 32])), ModelPartition(), rng)
    now_s, sent = 0.0, 0
    for _ in range(600):
        now_s += rng.random() * 0.1
        match rng.randrange(20):
            case 0 | 1 | 2 | 3 | 4:
                add(wire.batches, b"%d" % sent, now_s + 8.0)
                sent += 1
            case 5 | 6:
                wire.batches.seal()
            case 7 | 8 | 9:
                wire.send(now_s)
            case 10 | 11 | 12 | 13:
                wire.serve()
            case 14 | 15 | 16 | 17:
                wire.answer()
            case 18 if rng.random() < 0.3:
                wire.break_stream()
            case _:
                if seed % 2 == 0:
                    wire.give_up(wire.batches.expire(now_s))
        wire.batches.validate()
    for _ in range(3000):
        wire.batches.seal()
        wire.send(now_s)
        wire.serve()
        wire.answer()
    assert wire.batches.is_empty, seed
    stored = wire.partition.log
    assert len(wire.acked) + len(wire.failed) == sent
    assert len(stored) == len(set(stored)), f"seed {seed}: stored twice"
    for value, offset in wire.acked.items():
        assert stored[offset] == value, f"seed {seed}: acknowledged and not there"
    for value, error in wire.failed.items():
        assert not error.definite or value not in stored, f"seed {seed}: {value!r} was called not stored: {error!r}"
    in_order = [int(v) for v in stored]
    assert in_order == sorted(in_order), f"seed {seed}: out of order"


@pytest.mark.parametrize("step_ms", [60 * 86_400_000, -60 * 86_400_000, DELTA_MS_MAX + 1])
def test_p32_a_step_of_the_clock_seals_the_batch(step_ms: int) -> None:
    batches, now_ms = fresh(batch_bytes_max=10_000), 1_800_000_000_000
    for i, time_ms in enumerate((now_ms, now_ms + 5, now_ms + step_ms, now_ms + step_ms - 3, now_ms)):
        record = BatchRecord(b"%d" % i, timestamp_ms=time_ms)
        batches.add(record, check_record(record), i, 100.0)
        batches.validate()
    batches.seal()
    sent = [send(batches) for _ in range(3)]
    assert [b.promises for b in sent] == [[0, 1], [2, 3], [4]]
    assert [r.timestamp_ms for b in sent for r in decode(b.encoded)] == [
        now_ms,
        now_ms + 5,
        now_ms + step_ms,
        now_ms + step_ms - 3,
        now_ms,
    ]
    assert batches.next_to_send(0.0) is None


def test_what_cannot_be_encoded_is_still_there_to_be_given_up() -> None:
    batches = fresh()
    wrong = BatchRecord("text")  # type: ignore[arg-type]
    batches.add(wrong, 10, "wrong", 100.0)
    batches.seal()
    add(batches, b"behind")
    with pytest.raises(TypeError):
        batches.next_to_send(0.0)
    assert [p for given_up in batches.abandon() for p in given_up.batch.promises] == ["wrong", b"behind"]
    assert batches.is_empty
