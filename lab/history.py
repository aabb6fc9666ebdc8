"""The client's own record of a run: what was sent, what was acknowledged, what was delivered, what was read back.

Nothing here comes from a server's counters.  Times are monotonic seconds of the client's process.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """Identity of one message: the ``number``-th of producer ``producer``."""

    producer: int
    number: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message is stored."""

    partition: int
    offset: int


@dataclass(slots=True)
class History:
    """Grows during a run; judged by lab/checker.py."""

    sent: set[Sent] = field(default_factory=set)
    acked: dict[Sent, Place] = field(default_factory=dict)
    acked_at: dict[Sent, float] = field(default_factory=dict)
    failed: dict[Sent, str] = field(default_factory=dict)
    definite: set[Sent] = field(default_factory=set)  # failed, and the error said: not stored
    delivered: dict[Sent, list[Place]] = field(default_factory=lambda: defaultdict(list))
    # partition → (offset, message)
    stored: dict[int, list[tuple[int, Sent]]] = field(default_factory=lambda: defaultdict(list))
    ack_times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # partition → seconds
    delivery_times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def acknowledged(self, message: Sent, place: Place, at_s: float) -> None:
        self.acked[message] = place
        self.acked_at[message] = at_s
        self.ack_times[place.partition].append(at_s)

    def received(self, message: Sent, place: Place, at_s: float) -> None:
        self.delivered[message].append(place)
        self.delivery_times[place.partition].append(at_s)

    def read_back(self, message: Sent, place: Place) -> None:
        self.stored[place.partition].append((place.offset, message))


def encode(message: Sent, size: int) -> bytes:
    """A message's bytes: its identity, padded to ``size``."""
    return f"{message.producer}:{message.number}".encode().ljust(size, b".")


def decode(value: bytes) -> Sent:
    producer, _, number = value.rstrip(b".").partition(b":")
    return Sent(int(producer), int(number))
