"""The order in which the consumers of a subscription are given its messages, whichever of them is given one.

Guarantee checked: of an exclusive or a failover subscription nothing is left out.  What its consumers are given for the first time under
a generation of the cursor comes after everything before it, from the first message that any of them was given; what comes again may
come at any time.  A shared one promises no order: what its consumers were given counts only as given, for those that come after them
as another type.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stele.model import Message

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


@dataclass(slots=True)
class _Given:
    offsets: set[int] = field(default_factory=set)
    is_shared: bool = False  # or was: the first that was given need not be the first that there is


class Ordered:
    def __init__(self, world: World) -> None:
        self._world = world
        self._given: defaultdict[tuple[int, int, str, int], _Given] = defaultdict(_Given)
        self.looked_at = 0

    def taken(self, kind: str, subscription: str, message: Message) -> None:
        """A user is given ``message`` by a consumer of the type ``kind``."""
        under = (message.topic_id, message.partition, subscription, message.generation)
        given, offset = self._given[under], message.offset
        given.is_shared = given.is_shared or kind == "shared"
        if kind != "shared" and given.offsets and offset not in given.offsets:
            self.looked_at += 1
            first = min(given.offsets)
            left_out = set(range(first, offset)) - given.offsets
            if left_out or (offset < first and not given.is_shared):
                before = f"{sorted(left_out)[:10]} before it" if left_out else f"it before {first}"
                self._world.violated(
                    "left out", f"{offset} comes to the {kind} {subscription} of {under}, which was not given {before}"
                )
        given.offsets.add(offset)
