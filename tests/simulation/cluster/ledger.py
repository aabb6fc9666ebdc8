"""What the clients were promised, and what the cluster showed of it: kept outside every process.

* An offset of a partition holds one message, for ever; a message that is sent by an idempotent producer has one offset.
* A message whose sending failed definitely is never seen.
* A message is seen in its own topic, and in no later one of the same name.
* What was acknowledged, and the acknowledgement confirmed, before a consumer opened is not delivered to it under the same generation.
* Once the faults are over: what was acknowledged is in the log, in its producer's order, and was delivered to every subscription.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stele.model import Message
from tests.simulation.checks import Violation

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

Place = tuple[int, int]  # partition and offset
Acked = frozenset[tuple[int, int, int]]  # partition, generation of the cursor, offset


@dataclass(slots=True)
class Sent:
    value: bytes
    producer: str
    number: int
    at: float
    outcome: str = ""  # acknowledged, definite or indefinite
    place: Place | None = None


@dataclass(slots=True)
class TopicLedger:
    """One topic, from its creation to its end."""

    name: str
    generation: int
    partitions: int
    sent: dict[bytes, Sent] = field(default_factory=dict)
    held: dict[Place, bytes] = field(default_factory=dict)
    delivered: dict[str, set[bytes]] = field(default_factory=dict)  # by subscription
    confirmed: dict[str, set[tuple[int, int, int]]] = field(default_factory=dict)  # acknowledgements, likewise


class Ledger:
    def __init__(self, world: World) -> None:
        self._world = world
        self.topics: list[TopicLedger] = []
        self._numbers: dict[str, int] = {}
        self.acknowledged = self.definite = self.indefinite = self.deliveries = self.redeliveries = 0

    def created(self, name: str, partitions: int) -> TopicLedger:
        topic = TopicLedger(name, len(self.topics), partitions)
        self.topics.append(topic)
        return topic

    # --- sending ------------------------------------------------------------------------------------------------------

    def sending(self, topic: TopicLedger, producer: str, padding: bytes = b"") -> Sent:
        """A value that nobody else sends, with ``padding`` at its end."""
        number = self._numbers[producer] = self._numbers.get(producer, 0) + 1
        value = f"{topic.name}#{topic.generation} {producer} {number}.".encode() + padding
        sent = Sent(value, producer, number, self._world.now)
        topic.sent[sent.value] = sent
        return sent

    def acked(self, topic: TopicLedger, sent: Sent, partition: int, offset: int) -> None:
        sent.outcome = "acknowledged"
        self.acknowledged += 1
        self._seen(topic, sent.value, (partition, offset), "acknowledged")
        self._world.durable.acknowledged(topic, sent, partition)

    def failed(self, topic: TopicLedger, sent: Sent, definite: bool) -> None:
        sent.outcome = "definite" if definite else "indefinite"
        if not definite:
            self.indefinite += 1
            return
        self.definite += 1
        if sent.place is not None:
            raise Violation(
                "definite error", f"{sent.value!r} failed definitely and is at {sent.place} of {topic.name}"
            )

    # --- receiving ----------------------------------------------------------------------------------------------------

    def confirmed(self, topic: TopicLedger, subscription: str) -> Acked:
        """For a consumer that opens now."""
        return frozenset(topic.confirmed.get(subscription, ()))

    def confirm(self, topic: TopicLedger, subscription: str, message: Message) -> None:
        """An acknowledgement was answered."""
        self._world.applied.confirmed(subscription, message)
        acked = topic.confirmed.setdefault(subscription, set())
        acked.add((message.partition, message.generation, message.offset))

    def forgotten(self, topic: TopicLedger, subscription: str) -> None:
        """The subscription is, or may be, no more: one of its name begins anew."""
        topic.confirmed.pop(subscription, None)

    def received(self, topic: TopicLedger, subscription: str, message: Message, before: Acked = frozenset()) -> None:
        self.deliveries += 1
        if (message.partition, message.generation, message.offset) in before:
            raise Violation(
                "delivered after a confirmed acknowledgement",
                f"{message.value!r} at {message.partition}/{message.offset} of {topic.name} to {subscription}, "
                f"generation {message.generation}",
            )
        self._seen(topic, message.value, (message.partition, message.offset), f"delivered to {subscription}")
        delivered = topic.delivered.setdefault(subscription, set())
        if message.value in delivered:
            self.redeliveries += 1
        delivered.add(message.value)

    def _seen(self, topic: TopicLedger, value: bytes, place: Place, how: str) -> None:
        sent = topic.sent.get(value)
        if sent is None:
            raise Violation("alien message", f"{value!r} {how} at {place} of {topic.name}#{topic.generation}")
        if sent.outcome == "definite":
            raise Violation("definite error", f"{value!r} failed definitely and is {how} at {place} of {topic.name}")
        if sent.place is not None and sent.place != place:
            raise Violation("stored twice", f"{value!r} is at {sent.place} and {how} at {place} of {topic.name}")
        holds = topic.held.setdefault(place, value)
        if holds != value:
            raise Violation("offset changed", f"{place} of {topic.name} held {holds!r}, and {value!r} is {how} there")
        sent.place = place

    # --- the end ------------------------------------------------------------------------------------------------------

    def missing(self, topic: TopicLedger, subscription: str) -> list[bytes]:
        """Acknowledged, and not delivered to the subscription yet."""
        delivered = topic.delivered.get(subscription, set())
        return [s.value for s in topic.sent.values() if s.outcome == "acknowledged" and s.value not in delivered]

    def check_log(self, topic: TopicLedger, log: dict[Place, bytes], wanted: Collection[Place]) -> None:
        """``log`` is what a reader of everything was given at the end, ``wanted`` what was acknowledged before it began."""
        for place, value in log.items():
            self._seen(topic, value, place, "in the log")
        for sent in topic.sent.values():
            if sent.outcome == "acknowledged" and sent.place in wanted and log.get(sent.place) != sent.value:
                raise Violation(
                    "lost", f"{sent.value!r} was acknowledged at {sent.place} of {topic.name} and is not there"
                )
        for partition in range(topic.partitions):
            offsets = sorted(offset for p, offset in log if p == partition)
            if offsets != list(range(len(offsets))):
                raise Violation("gap", f"the offsets of {topic.name}-{partition} are {offsets[:20]}…")
            newest: dict[str, int] = {}
            for offset in offsets:
                sent = topic.sent[log[partition, offset]]
                if sent.number <= newest.get(sent.producer, 0):
                    raise Violation(
                        "order", f"{sent.value!r} at {offset} of {topic.name}-{partition} comes after a later one"
                    )
                newest[sent.producer] = sent.number
