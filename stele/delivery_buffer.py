"""What one partition delivered to a consumer and how far it is with it.  Pure: no clock, socket or task here.

Guarantee: a message whose acknowledgement is on its way, or that the user holds while the stream is opened anew, is not handed out again;
one that was handed back (nack) or that its broker delivers again on the same stream is.  An acknowledgement stays until it is confirmed,
over any number of streams, but not over a change of the cursor's generation: after a seek, or for a subscription made anew, nothing of
before counts.

::

    delivered ──► buffered ──take──► held by the user ──ack──► to be sent ──► sent ──► confirmed
                                          └──nack──► forgotten: it comes again       └─ stream broke: to be sent again
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from stele.model import Message
from stele.services.batch import decode_readable
from stele.services.errors import BatchCorrupt, StaleAck, SteleError

OffsetRange = tuple[int, int]
PromiseT = TypeVar("PromiseT")
ACKS_MAX = 2_000  # of one request


@dataclass(frozen=True, slots=True)
class AckRequest(Generic[PromiseT]):
    """Acknowledgements that are sent together: (offset, promise), the promises belonging to the shell."""

    request_id: int
    cumulative: bool
    acks: tuple[tuple[int, PromiseT], ...]

    @property
    def ranges(self) -> list[OffsetRange]:
        offsets = [offset for offset, _ in self.acks]
        return [(max(offsets), max(offsets))] if self.cumulative else join(offsets)

    @property
    def promises(self) -> list[PromiseT]:
        return [promise for _, promise in self.acks]


def join(offsets: Iterable[int]) -> list[OffsetRange]:
    """Offsets as ascending ranges, both ends included."""
    ranges: list[OffsetRange] = []
    for offset in sorted(set(offsets)):
        if ranges and offset == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], offset)
        else:
            ranges.append((offset, offset))
    return ranges


def read_delivery(
    topic: str,
    partition: int,
    base_offset: int,
    batch: bytes,
    ranges: Sequence[OffsetRange],
    redelivery_count: int,
    topic_id: int,
    generation: int,
) -> tuple[list[Message], BatchCorrupt | None]:
    """The messages of a stored batch that are meant for this consumer; and what of them cannot be decoded, with its place."""
    records, problem = decode_readable(batch)
    unread = [(first, last) for first, last in ranges if last >= base_offset + len(records)]
    lost: BatchCorrupt | None = None
    if problem is not None and unread:
        first, last = max(unread[0][0], base_offset + len(records)), unread[-1][1]
        lost = BatchCorrupt(
            f"messages {first} to {last} of {topic}-{partition} cannot be read: {problem}",
            topic=topic,
            partition=partition,
            first=first,
            last=last,
        )
    return [
        Message(
            topic, partition, offset, r.key, r.value, r.headers, r.timestamp_ms, redelivery_count, topic_id, generation
        )
        for first, last in ranges
        for offset in range(max(first, base_offset), min(last, base_offset + len(records) - 1) + 1)
        for r in (records[offset - base_offset],)
    ], lost


class DeliveryBuffer(Generic[PromiseT]):
    """One partition's side of a consumer; see the module's docstring."""

    def __init__(self) -> None:
        self.generation: int | None = None  # of the cursor; None: not known yet
        self._buffered: dict[int, Message] = {}  # in order of delivery
        self._held: set[int] = set()
        self._held_before: set[int] = set()  # held when the stream was opened anew: their first repetition is no news
        self._acking: set[int] = set()  # acknowledgements under way
        self._acking_below = 0  # a cumulative acknowledgement is under way for every offset below
        self._to_send: list[tuple[int, PromiseT]] = []
        self._cumulative_to_send: list[tuple[int, PromiseT]] = []
        self._sent: dict[int, AckRequest[PromiseT]] = {}
        self._next_request = 1

    # --- deliveries -----------------------------------------------------------------------------------------------

    def opened(self, generation: int) -> list[PromiseT]:
        """A new stream: what was only buffered comes again; what the user holds need not.  Under another generation than before
        everything may come again, and is new: the promises that are void."""
        before, self.generation = self.generation, generation
        if before not in (None, generation):
            return self.reset()
        self._buffered.clear()
        self._held_before = set(self._held)
        sent, self._sent = self._sent, {}
        self._to_send = [ack for r in sent.values() if not r.cumulative for ack in r.acks] + self._to_send
        self._cumulative_to_send = [
            ack for r in sent.values() if r.cumulative for ack in r.acks
        ] + self._cumulative_to_send
        return []

    def delivered(self, messages: Iterable[Message]) -> int:
        """Takes messages in; how many of them were not wanted."""
        unwanted = 0
        for message in messages:
            offset = message.offset
            if offset in self._acking or offset < self._acking_below:
                unwanted += 1
            elif offset in self._held_before:
                self._held_before.discard(offset)
                unwanted += 1
            else:
                unwanted += offset in self._buffered
                self._buffered[offset] = message  # what waits here already keeps its place
        return unwanted

    def held_of(self, messages: Iterable[Message]) -> list[int]:
        """Which of these, not yet taken in, the user holds since before the stream was opened anew."""
        return [m.offset for m in messages if m.offset in self._held_before]

    def take(self) -> Message | None:
        """The next message for the user."""
        if not self._buffered:
            return None
        offset = next(iter(self._buffered))
        self._held.add(offset)
        return self._buffered.pop(offset)

    @property
    def buffered(self) -> int:
        return len(self._buffered)

    @property
    def held(self) -> int:
        return len(self._held)

    # --- acknowledgements -----------------------------------------------------------------------------------------

    def check(self, generation: int) -> None:
        """Raises StaleAck: a message that was delivered under ``generation`` cannot be acknowledged any more."""
        if self.generation is None:
            # It was delivered to another consumer of the subscription: the first stream shows whether it still counts.
            self.generation = generation
        elif generation != self.generation:
            raise StaleAck(
                "the subscription was moved or made anew since the message was delivered",
                generation=generation,
                current=self.generation,
            )

    def ack(self, offset: int, promise: PromiseT) -> None:
        """Of a message that ``check`` let pass."""
        self._drop(offset)
        self._acking.add(offset)
        self._to_send.append((offset, promise))

    def ack_cumulative(self, offset: int, promise: PromiseT) -> None:
        for other in [o for o in (*self._held, *self._buffered) if o <= offset]:
            self._drop(other)
        self._acking_below = max(self._acking_below, offset + 1)
        self._cumulative_to_send.append((offset, promise))

    def nack(self, offset: int) -> bool:
        """The user hands a message back; False: it did not hold it."""
        held = offset in self._held
        self._drop(offset)
        return held

    def next_request(self) -> AckRequest[PromiseT] | None:
        """The next acknowledgements to send; None: there are none."""
        if self._cumulative_to_send:
            part, self._cumulative_to_send = self._cumulative_to_send, []
            return self._request(True, part)
        if not self._to_send:
            return None
        part, self._to_send = self._to_send[:ACKS_MAX], self._to_send[ACKS_MAX:]
        return self._request(False, part)

    def confirmed(self, request_id: int) -> AckRequest[PromiseT] | None:
        """The acknowledgements of a request are durable."""
        request = self._sent.pop(request_id, None)
        if request is not None:
            self._done(request)
        return request

    def refused(self, request_id: int, error: SteleError) -> AckRequest[PromiseT] | None:
        """They were not accepted: sent again if that may help, else the user holds those messages again (and the request is returned)."""
        request = self._sent.pop(request_id, None)
        if request is None:
            return None
        if error.retryable or not error.definite:
            if request.cumulative:
                self._cumulative_to_send += request.acks
            else:
                self._to_send += request.acks
            return None
        self._done(request)
        if not request.cumulative and not isinstance(error, StaleAck):
            self._held.update(offset for offset, _ in request.acks)
        return request

    def reset(self) -> list[PromiseT]:
        """The subscription was set anew: nothing of before counts; the promises that are void."""
        acks = [ack for r in self._sent.values() for ack in r.acks] + self._to_send + self._cumulative_to_send
        for emptied in (self._buffered, self._held, self._held_before, self._acking, self._sent):
            emptied.clear()
        self._to_send, self._cumulative_to_send, self._acking_below = [], [], 0
        return [promise for _, promise in acks]

    def give_up(self) -> list[PromiseT]:
        """Nothing is acknowledged any more; the promises that are void.  What is buffered may still be taken."""
        promises = [promise for r in self._sent.values() for _, promise in r.acks]
        promises += [promise for _, promise in self._to_send + self._cumulative_to_send]
        self._sent, self._to_send, self._cumulative_to_send = {}, [], []
        return promises

    @property
    def unconfirmed(self) -> bool:
        return bool(self._sent or self._to_send or self._cumulative_to_send)

    def validate(self) -> None:
        assert self._held_before <= self._held
        assert not self._held & self._acking, "a message is held and being acknowledged"
        assert all(o >= self._acking_below for o in self._buffered)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _drop(self, offset: int) -> None:
        self._held.discard(offset)
        self._held_before.discard(offset)
        self._buffered.pop(offset, None)

    def _request(self, cumulative: bool, acks: list[tuple[int, PromiseT]]) -> AckRequest[PromiseT]:
        request = AckRequest(self._next_request, cumulative, tuple(acks))
        self._next_request += 1
        self._sent[request.request_id] = request
        return request

    def _done(self, request: AckRequest[PromiseT]) -> None:
        if not request.cumulative:
            self._acking.difference_update(offset for offset, _ in request.acks)
        elif not self._cumulative_to_send and not any(r.cumulative for r in self._sent.values()):
            self._acking_below = 0
