"""One partition's messages on their way out of a producer.  Pure: no clock, socket or task here.

Guarantee: batches leave in the order of their messages; a batch that was sent once is repeated with identical bytes, so that the datanode
recognises it; no message is reported *definitely not stored* if any attempt may have stored it; sequences have no gap that the
partition could see.

::

    add ──► open batch ──(bytes, linger)──► queued ──(sequence and bytes fixed)──► in flight ──► stored
                                                          ▲                            │
                                                          └──────── rewind ◄───────────┘ refused, broken, moved

``rewind`` takes everything unanswered back to the front in order.  A batch that is given up for good leaves a gap in the sequence, so
what follows begins a new producer epoch (``stele/services/batch.py``) if it cannot have been stored, and fails as indefinite otherwise.
What was given up is then stored before the new epoch's first message, or never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from crc32c import crc32c

from stele.errors import SendTimedOut
from stele.retry import may_retry
from stele.services.batch import DELTA_MS_MAX, EPOCH_SEQUENCES, HEADER_BYTES, SEQUENCE_END, BatchRecord, encode
from stele.services.errors import InvalidArgument, MessageTooLarge, OutOfOrderSequence, SteleError, Timeout
from stele.services.rng import Rng

INFLIGHT_BATCHES_MAX = 32  # half of the 64 batches that a datanode remembers of a producer
BATCH_BYTES_LIMIT = 1024 * 1024 - 1024  # a log entry has at most 1 MiB, its own framing included
HEADERS_MAX = 0xFFFF
PRODUCER_ID_BITS = 63
MESSAGE_MEMORY_BYTES = 300  # what a waiting message costs besides its bytes
_RECORD_BYTES = 14
VALUE_BYTES_MAX = BATCH_BYTES_LIMIT - HEADER_BYTES - _RECORD_BYTES  # of a message: value, key and headers
_KEY_SEED = 0

PromiseT = TypeVar("PromiseT")


def record_bytes(record: BatchRecord) -> int:
    """The size of a record inside a batch."""
    size = _RECORD_BYTES + len(record.value) + (len(record.key) if record.key is not None else 0)
    if record.headers:
        size += sum(6 + len(name.encode()) + len(value) for name, value in record.headers.items())
    return size


def check_record(record: BatchRecord) -> int:
    """The record's size.  Raises MessageTooLarge, InvalidArgument: nothing of it can be sent."""
    size = record_bytes(record)
    if size + HEADER_BYTES > BATCH_BYTES_LIMIT:
        accepted = VALUE_BYTES_MAX
        raise MessageTooLarge(
            f"the message has {size - _RECORD_BYTES} bytes (value, key and headers), accepted are {accepted}",
            bytes_max=accepted,
        )
    if len(record.headers) > HEADERS_MAX or any(len(name.encode()) > HEADERS_MAX for name in record.headers):
        raise InvalidArgument(f"a message has at most {HEADERS_MAX} headers with names of at most {HEADERS_MAX} bytes")
    return size


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of a key: CRC32C of the key modulo the number of partitions; the same in every version and language."""
    return int(crc32c(key, _KEY_SEED)) % partitions


class StickyPartitioner:
    """Where messages without a key go: to one partition until its batch is full or due, then to the next that is not stalled."""

    def __init__(self, partitions: int, rng: Rng) -> None:
        self._partitions = partitions
        self.current = rng.randrange(partitions)

    def grow(self, partitions: int) -> None:
        """There are as many now."""
        self._partitions = partitions

    def advance(self, is_stalled: Callable[[int], bool]) -> None:
        following = [(self.current + step) % self._partitions for step in range(1, self._partitions + 1)]
        self.current = next((p for p in following if not is_stalled(p)), following[0])


@dataclass(slots=True, eq=False)
class ProducerBatch(Generic[PromiseT]):
    """Messages that are stored together.  ``promises`` belong to the shell, one per record, in order."""

    deadline_s: float
    records: list[BatchRecord] = field(default_factory=list)
    promises: list[PromiseT] = field(default_factory=list)
    size_bytes: int = HEADER_BYTES
    settled: bool = False  # its messages have their results, and their memory is given back
    earliest_ms: int = 0  # of its records' times
    latest_ms: int = 0
    encoded: bytes = b""  # fixed at the first attempt
    base_sequence: int = -1
    attempt: int = 0  # number of the attempt that is unanswered; 0: none
    sent_s: float = 0.0
    attempts: int = 0
    unknown: set[int] = field(default_factory=set)  # attempts that were written off, or ended without a definite answer
    last_error: SteleError | None = None

    def has_room(self, record: BatchRecord, size: int, bytes_max: int) -> bool:
        """Whether a record fits, by its bytes and by its time: a batch has one time, from which those of its records are counted."""
        earliest_ms, latest_ms = min(self.earliest_ms, record.timestamp_ms), max(self.latest_ms, record.timestamp_ms)
        return self.size_bytes + size <= bytes_max and latest_ms - earliest_ms <= DELTA_MS_MAX

    def take(self, record: BatchRecord, size: int, promise: PromiseT) -> None:
        if not self.records:
            self.earliest_ms = self.latest_ms = record.timestamp_ms
        self.earliest_ms, self.latest_ms = (
            min(self.earliest_ms, record.timestamp_ms),
            max(self.latest_ms, record.timestamp_ms),
        )
        self.records.append(record)
        self.promises.append(promise)
        self.size_bytes += size

    @property
    def was_sent(self) -> bool:
        return self.attempts > 0

    @property
    def maybe_stored(self) -> bool:
        return bool(self.unknown)

    @property
    def memory_bytes(self) -> int:
        """What its messages count for in the producer's buffer."""
        return self.size_bytes - HEADER_BYTES + len(self.records) * MESSAGE_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class GivenUp(Generic[PromiseT]):
    """A batch that will not be sent again, and why."""

    batch: ProducerBatch[PromiseT]
    error: SteleError


class PartitionBatches(Generic[PromiseT]):
    """The batches of one partition; see the module's docstring.

    ``producer_id`` 0 means: not idempotent.  ``batch_bytes_max`` bounds a batch with its header (a single larger record goes alone),
    ``inflight_max`` the batches that are unanswered.  Times are seconds of one monotonic clock.
    """

    def __init__(self, producer_id: int, batch_bytes_max: int, inflight_max: int = INFLIGHT_BATCHES_MAX) -> None:
        self.producer_id = producer_id
        self._batch_bytes_max = min(batch_bytes_max, BATCH_BYTES_LIMIT)
        self._inflight_max = inflight_max
        self.next_sequence = 0
        self.sealed_batches = 0  # complete so far
        self._next_attempt = 1
        self._open: ProducerBatch[PromiseT] | None = None
        self._queued: deque[ProducerBatch[PromiseT]] = deque()  # not in flight; those that were sent before come first
        self._inflight: dict[int, ProducerBatch[PromiseT]] = {}  # by attempt, in order of sequence

    # --- filling --------------------------------------------------------------------------------------------------

    def add(self, record: BatchRecord, size: int, promise: PromiseT, deadline_s: float) -> tuple[bool, bool]:
        """Adds a message; (a batch was begun with it, some batch was sealed)."""
        sealed = False
        if self._open is not None and not self._open.has_room(record, size, self._batch_bytes_max):
            self.seal()
            sealed = True
        begun = self._open is None
        if self._open is None:
            self._open = ProducerBatch(deadline_s)
        self._open.take(record, size, promise)
        if self._open.size_bytes >= self._batch_bytes_max:
            self.seal()
            sealed = True
        return begun, sealed

    def seal(self) -> None:
        """What was added so far waits for no more company."""
        if self._open is not None:
            self._queued.append(self._open)
            self._open = None
            self.sealed_batches += 1

    # --- sending --------------------------------------------------------------------------------------------------

    def next_to_send(self, now_s: float) -> ProducerBatch[PromiseT] | None:
        """The next batch, with its bytes fixed and an attempt number that its answer must carry; None: nothing now."""
        if not self._queued or len(self._inflight) >= self._inflight_max:
            return None
        batch = self._queued[0]
        if not batch.encoded:
            # BEFORE it leaves the queue: if this fails it is still there, to be failed with all the others.
            batch.encoded = encode(batch.records, self.producer_id, self.next_sequence if self.producer_id else 0)
            batch.base_sequence = self.next_sequence
            self.next_sequence += len(batch.records)
        self._queued.popleft()
        batch.attempt, self._next_attempt = self._next_attempt, self._next_attempt + 1
        batch.attempts += 1
        batch.sent_s = now_s
        self._inflight[batch.attempt] = batch
        return batch

    def stored(self, attempt: int) -> ProducerBatch[PromiseT] | None:
        """An attempt was answered with success.  A batch that waits to be repeated is done as well: its old attempt came through."""
        batch = self._inflight.pop(attempt, None)
        if batch is not None:
            batch.attempt = 0
        return batch

    def stored_late(self, batch: ProducerBatch[PromiseT]) -> bool:
        """An attempt that was already written off was answered with success after all; False: the batch was settled before."""
        if batch.attempt in self._inflight and self._inflight[batch.attempt] is batch:
            del self._inflight[batch.attempt]
            return True
        if batch in self._queued:
            self._queued.remove(batch)
            return True
        return False

    def refused(self, attempt: int, error: SteleError) -> tuple[bool, list[GivenUp[PromiseT]]]:
        """An attempt failed: (try again from the front, what is given up).  An attempt that was written off before changes nothing."""
        batch = self._inflight.get(attempt)
        if batch is None:
            return False, []
        batch.last_error = error
        is_head = next(iter(self._inflight)) == attempt
        if not error.definite:
            batch.unknown.add(attempt)
        self._rewind(answered=attempt)
        # What is not at the head may be refused because of the head alone: it goes again after it.
        if not is_head or (may_retry(error) and not isinstance(error, OutOfOrderSequence)):
            return True, []
        if isinstance(error, OutOfOrderSequence) and not batch.maybe_stored:
            # The partition has forgotten this producer (it remembers a bounded number): nothing of what waits here is stored.
            self._begin_epoch()
            return True, []
        return True, self._give_up(batch, error)

    def refused_late(self, batch: ProducerBatch[PromiseT], attempt: int, error: SteleError) -> None:
        """An attempt that was written off was answered with ``error`` after all: if that is definite, it stored nothing."""
        if error.definite:
            batch.unknown.discard(attempt)

    def rewind(self, error: SteleError | None = None) -> None:
        """Every unanswered attempt is written off, its outcome unknown; all of them go again, in order."""
        for batch in self._inflight.values():
            batch.last_error = error or batch.last_error
        self._rewind(answered=0)

    def expire(self, now_s: float) -> list[GivenUp[PromiseT]]:
        """Gives up what is past its deadline."""
        given_up: list[GivenUp[PromiseT]] = []
        while (head := self._head()) is not None and head.deadline_s <= now_s:
            if head is self._open:
                self.seal()
            if head.attempt:
                self.rewind()
            given_up += self._give_up(head, _timed_out(head))
        return given_up

    def fail_all(self, error: SteleError) -> list[GivenUp[PromiseT]]:
        """Gives up everything: the topic is gone, or the producer was closed."""
        self.seal()
        self.rewind(error)
        given_up = [GivenUp(b, _explained(b, error)) for b in self._queued]
        self._queued.clear()
        self._begin_epoch()
        return given_up

    def retire(self, error: SteleError) -> tuple[list[PromiseT], list[GivenUp[PromiseT]]]:
        """Takes everything out, for nothing more is sent: the promises of what cannot have been stored, in order, and what may have
        been, which is given up."""
        self.seal()
        self.rewind(error)
        left, self._queued = self._queued, deque()
        unsent = [promise for b in left if not b.maybe_stored for promise in b.promises]
        return unsent, [GivenUp(b, _explained(b, error)) for b in left if b.maybe_stored]

    def abandon(self) -> list[GivenUp[PromiseT]]:
        """Takes everything out after a fault of this program: nothing here is relied upon any more."""
        left = [*self._inflight.values(), *self._queued, *([self._open] if self._open is not None else [])]
        self._inflight, self._queued, self._open = {}, deque(), None
        return [GivenUp(b, b.last_error or SteleError("given up")) for b in left]

    # --- questions ------------------------------------------------------------------------------------------------

    def unanswered(self) -> Iterator[PromiseT]:
        """The promises of all that is here, in order."""
        last = [self._open] if self._open is not None else []
        for batch in [*self._inflight.values(), *self._queued, *last]:
            yield from batch.promises

    @property
    def is_empty(self) -> bool:
        return self._open is None and not self._queued and not self._inflight

    @property
    def has_open(self) -> bool:
        return self._open is not None

    @property
    def has_work(self) -> bool:
        """Something is to be sent or is unanswered."""
        return bool(self._queued or self._inflight)

    def oldest_sent_s(self) -> float:
        """When the oldest unanswered attempt was sent; infinity: none is unanswered."""
        return next((b.sent_s for b in self._inflight.values()), float("inf"))

    def validate(self) -> None:
        order = [*self._inflight.values(), *self._queued]
        sent = [b for b in order if b.encoded]
        assert order[: len(sent)] == sent, "a batch that was never sent stands before one that was"
        at = 0
        for b in sent:  # with gaps where a written-off attempt came through before its predecessor was answered
            assert b.base_sequence >= at, f"sequence {b.base_sequence} where {at} is due"
            at = b.base_sequence + len(b.records)
        assert at <= self.next_sequence, (at, self.next_sequence)
        assert len(self._inflight) <= self._inflight_max
        assert all(b.attempt == a for a, b in self._inflight.items())
        assert all(b.attempt == 0 for b in self._queued)
        assert all(len(b.records) == len(b.promises) > 0 for b in order)
        assert all(b.size_bytes <= BATCH_BYTES_LIMIT for b in order)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _head(self) -> ProducerBatch[PromiseT] | None:
        return next(iter(self._inflight.values()), None) or (self._queued[0] if self._queued else self._open)

    def _rewind(self, answered: int) -> None:
        for attempt, batch in self._inflight.items():
            if attempt != answered:
                batch.unknown.add(attempt)
            batch.attempt = 0
        self._queued.extendleft(reversed(self._inflight.values()))
        self._inflight.clear()

    def _give_up(self, batch: ProducerBatch[PromiseT], error: SteleError) -> list[GivenUp[PromiseT]]:
        """The head (nothing is in flight) will not be sent again.  Sequences are checked by the partition, so a batch after it can be
        stored only if the head was."""
        assert not self._inflight
        assert self._queued[0] is batch
        self._queued.popleft()
        given_up = [GivenUp(batch, _explained(batch, error))]
        if not batch.was_sent or not self.producer_id:
            return given_up
        if batch.maybe_stored:
            while self._queued and self._queued[0].was_sent:
                follower = self._queued.popleft()
                given_up.append(GivenUp(follower, _explained(follower, error)))
        self._begin_epoch()
        return given_up

    def _begin_epoch(self) -> None:
        """What waits goes out as the first messages of the producer's next epoch."""
        self.next_sequence = (self.next_sequence // EPOCH_SEQUENCES + 1) * EPOCH_SEQUENCES
        if self.producer_id and self.next_sequence >= SEQUENCE_END:
            self.producer_id, self.next_sequence = self.producer_id + 1, 0  # sixteen million are all that one has
        for batch in self._queued:
            batch.encoded, batch.base_sequence = b"", -1
            batch.attempts = 0
            batch.unknown.clear()


def new_producer_id(rng: Rng) -> int:
    """Random, never 0 (which means: not idempotent)."""
    return rng.getrandbits(PRODUCER_ID_BITS) or 1


def _timed_out(batch: ProducerBatch[PromiseT]) -> SteleError:
    why = f": {batch.last_error}" if batch.last_error is not None else ""
    last = batch.last_error.reason if batch.last_error is not None else None
    if batch.maybe_stored:
        return Timeout(f"no answer before the send timeout, the message may be stored{why}", last=last)
    return SendTimedOut(f"not stored before the send timeout{why}", last=last)


def _explained(batch: ProducerBatch[PromiseT], error: SteleError) -> SteleError:
    """``error`` as it is true for this batch: a definite refusal says nothing of an earlier attempt that was never answered."""
    if batch.maybe_stored and error.definite:
        return Timeout(
            f"an earlier attempt was not answered, the message may be stored; then: {error}", last=error.reason
        )
    if not batch.maybe_stored and not error.definite:
        return SendTimedOut(f"not stored: {error}", last=error.reason)
    return error
