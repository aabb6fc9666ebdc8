"""A second consumer of the subscription that is tended: both have one type, exclusive, shared and failover in turn.

In some runs only: the others go as they would without it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final

from stele.client import Client
from stele.errors import SteleError
from tests.simulation.cluster.ledger import TopicLedger

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.workload import Workload
    from tests.simulation.cluster.world import World

SHARE: Final = 0.3  # of the runs in which nothing is asked for by name
TYPES: Final = ("exclusive", "shared", "failover")
ANOTHER_SHARE: Final = 0.3  # of the rounds: those that begin with another type, which meets consumers of the one before
LEAVES_SHARE: Final = 0.05
ACKED_SHARE: Final = 0.7  # of the messages; half of the others are handed back


class Sharing:
    def __init__(self, world: World) -> None:
        self._world = world
        self.wanted = world.mixed and world.stream("sharing").random() < SHARE
        self._rng = world.stream("second consumer")
        self._turns = itertools.cycle(TYPES)
        for _ in range(self._rng.randint(1, len(TYPES)) if self.wanted else 1):
            self._kind = next(self._turns)
        self._tended = ""  # none at the moment
        self.given: Counter[str] = Counter()  # to the second consumer, by type

    def tends(self, subscription: str) -> str:
        """Another round of ``subscription`` begins: of which type its consumers are."""
        self._tended = subscription
        if self.wanted and self._rng.random() < ANOTHER_SHARE:
            self._kind = next(self._turns)
        return self._kind

    def rests(self) -> None:
        """The subscription is to be deleted: the second consumer leaves, too."""
        self._tended = ""

    async def consume(self, guest: Guest, client: Client, workload: Workload, topic: TopicLedger) -> None:
        """The second consumer, for as long as there is a first one."""
        rng = self._rng
        while not workload.closing:
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            name, kind = self._tended, self._kind
            if not name:
                continue
            before = workload.ledger.confirmed(topic, name)
            try:
                consumer = client.consumer(topic.name, name, type=kind, credit=rng.choice((1, 5, 50)), name="second")
                async with workload.opened(guest, consumer):
                    while (self._tended, self._kind) == (name, kind) and not workload.closing:
                        if rng.random() < LEAVES_SHARE:
                            break
                        message = await workload.receive(guest, consumer, rng.uniform(0.1, 0.5))
                        if message is None:
                            continue
                        self.given[kind] += 1
                        workload.ledger.received(topic, name, message, before)
                        if rng.random() < ACKED_SHARE:
                            workload.ack_late(guest, consumer, topic, name, message)
                        elif rng.random() < 0.5:
                            consumer.nack(message, 0.1)
            except SteleError as error:
                self._world.say("second", guest.host, f"{name}, {kind}: {error!r}")
