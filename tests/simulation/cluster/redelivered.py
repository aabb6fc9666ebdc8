"""What a client is told of its own acknowledgements, held against what it is delivered after that.

Guarantee: once a partition's consumer knows that an acknowledgement counts, none of its messages comes to it again under that generation
of the cursor, on the same stream or on any later one, from whichever broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stele.model import Message

if TYPE_CHECKING:
    from stele.delivery_buffer import AckRequest, DeliveryBuffer
    from tests.simulation.cluster.world import World


class Redelivered:
    def __init__(self, world: World) -> None:
        self._world = world
        # By the buffer of a partition's consumer: itself, and (generation, offset) of what it knows to be acknowledged.
        self._known: dict[int, tuple[Any, set[tuple[int, int]]]] = {}
        self.looked_at = 0

    def confirmed(self, buffer: DeliveryBuffer[Any], request: AckRequest[Any] | None) -> None:
        if request is not None and not request.cumulative:
            _, known = self._known.setdefault(id(buffer), (buffer, set()))
            generation = buffer.generation or 0
            known.update((generation, offset) for first, last in request.ranges for offset in range(first, last + 1))

    def delivered(self, buffer: DeliveryBuffer[Any], messages: Iterable[Message]) -> None:
        _, known = self._known.get(id(buffer), (buffer, set()))
        for message in messages:
            self.looked_at += 1
            if (message.generation, message.offset) in known:
                self._world.violated(
                    "delivered after a confirmed acknowledgement",
                    f"{message.offset} of {message.topic}-{message.partition} under generation {message.generation}",
                )
