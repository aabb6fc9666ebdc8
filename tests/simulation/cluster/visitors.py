"""Clients that are closed while they are in use.

* ``client.close()`` ends by the deadline of its consumers' ``close`` and a second, whatever is under way.
* Sends that are under way end with it, in an error that says whether the message may be stored; whatever else is ends by its own
  deadline, in an answer or an error of the tree.
* No connection is left.

In some runs only: the others go as they would without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from stele.client import Client
from stele.consumer import CLOSE_TIMEOUT_S, OPEN_TIMEOUT_S, SEEK_TIMEOUT_S, Consumer
from stele.errors import SteleError
from stele.operations import READ_TIMEOUT_S, WRITE_TIMEOUT_S
from tests.simulation.cluster.ledger import TopicLedger

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.workload import Workload
    from tests.simulation.cluster.world import World

SHARE: Final = 0.4  # of the runs in which nothing is asked for by name
SUBSCRIPTION: Final = "visited"
CONNECT_S, SEND_TIMEOUT_S, RECEIVE_S = 10.0, 8.0, 2.0
SENDS_MAX, ASKED_MAX = 20, 3
SOUGHT_SHARE: Final = 0.1
LEFT_S: Final = 2.0  # after the last call has ended: whatever runs on would have dialled by then


class Visitors:
    def __init__(self, world: World) -> None:
        self._world = world
        self.wanted = world.mixed and world.stream("visitors").random() < SHARE
        self._rng = world.stream("visits")
        self.closed = self.sends = self.others = 0  # clients, and what they had under way

    async def come_and_go(self, guest: Guest, workload: Workload, topic: TopicLedger, bootstrap: str) -> None:
        rng = self._rng
        while not workload.closing:
            await asyncio.sleep(rng.uniform(0.0, 0.6))
            client = Client(bootstrap, timeout_s=CONNECT_S, seed=rng.getrandbits(32), transport=guest.transport)
            try:
                await workload.call(guest, "connect", client.__aenter__(), CONNECT_S)
            except SteleError as error:
                self._world.say("visitor", guest.host, f"not connected: {error!r}")
                continue
            await self._visit(guest, client, workload, topic)

    async def _visit(self, guest: Guest, client: Client, workload: Workload, topic: TopicLedger) -> None:
        rng, number = self._rng, self.closed
        settings: dict[str, Any] = self._world.pressure.producer_settings()
        producer = client.producer(topic.name, send_timeout_s=SEND_TIMEOUT_S, linger_ms=2.0, **settings)
        name = f"{guest.host}.{guest.pid}.{number}"
        sends = [workload.send(guest, producer, topic, name) for _ in range(rng.randrange(SENDS_MAX))]
        consumer = client.consumer(topic.name, SUBSCRIPTION, credit=rng.choice((1, 50)), name="visitor")
        used: list[Coroutine[Any, Any, object]] = [self._consume(guest, consumer, workload, topic)]
        if rng.random() < 0.3:
            used.append(workload.call(guest, "producer.flush", producer.flush(), SEND_TIMEOUT_S))
        if rng.random() < 0.2:
            used.append(workload.call(guest, "producer.close", producer.close(), SEND_TIMEOUT_S))
        if rng.random() < 0.2:
            used.append(workload.call(guest, "consumer.close", consumer.close(), CLOSE_TIMEOUT_S))
        for what, ask, within_s in rng.sample(self._asked(client, topic), rng.randrange(ASKED_MAX + 1)):
            used.append(workload.call(guest, what, ask(), within_s))
        sending = [asyncio.ensure_future(send) for send in sends]
        others = [asyncio.ensure_future(self._unless_refused(guest, use)) for use in used]
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.6))))
        self.closed += 1
        self.sends += sum(not task.done() for task in sending)
        self.others += sum(not task.done() for task in others)
        self._world.say("visitor", guest.host, "closes its client")
        await workload.call(guest, "client.close", client.close(), CLOSE_TIMEOUT_S)
        if sending:
            await workload.call(guest, "send of a closed client", asyncio.wait(sending), 0.0)
        await asyncio.wait(others)
        if any(task.cancelled() for task in (*sending, *others)):
            self._world.violated("cancelled", f"a call of a closed client at {guest.host} was cancelled by nobody")
        self._world.scheduler.after(LEFT_S, self._look, guest, client)

    def _look(self, guest: Guest, client: Client) -> None:
        if client._channels._open:
            self._world.violated("connection left", f"{guest.host} keeps {sorted(client._channels._open)}")

    async def _unless_refused(self, guest: Guest, use: Awaitable[object]) -> None:
        try:
            await use
        except SteleError as error:
            self._world.say("visitor", guest.host, f"{error!r}")
        except Exception as error:
            self._world.unhandled(guest, error)

    async def _consume(self, guest: Guest, consumer: Consumer, workload: Workload, topic: TopicLedger) -> None:
        before = workload.ledger.confirmed(topic, SUBSCRIPTION)
        async with workload.opened(guest, consumer):
            while True:
                if self._rng.random() < SOUGHT_SHARE:
                    sought = consumer.seek("earliest")
                    await workload.call(guest, "consumer.seek", sought, SEEK_TIMEOUT_S + OPEN_TIMEOUT_S)
                message = await workload.receive(guest, consumer, RECEIVE_S)
                if message is not None:
                    workload.ledger.received(topic, SUBSCRIPTION, message, before)
                    if self._rng.random() < 0.5:
                        workload.ack_late(guest, consumer, topic, SUBSCRIPTION, message)
                    else:
                        await workload.acked(guest, consumer, topic, SUBSCRIPTION, message)

    def _asked(self, client: Client, topic: TopicLedger) -> list[tuple[str, Callable[[], Awaitable[Any]], float]]:
        """Administration, each with its time: one call, or a look-up and then what it is for."""
        admin, name, both_s = client.admin, topic.name, READ_TIMEOUT_S + WRITE_TIMEOUT_S
        return [
            ("list_topics", admin.list_topics, READ_TIMEOUT_S),
            ("describe_topic", lambda: admin.describe_topic(name), READ_TIMEOUT_S),
            ("list_subscriptions", lambda: admin.list_subscriptions(name), 2 * READ_TIMEOUT_S),
            ("create_subscription", lambda: admin.create_subscription(name, SUBSCRIPTION), both_s),
            ("seek_subscription", lambda: admin.seek_subscription(name, SUBSCRIPTION, "earliest"), both_s),
            ("alter_topic", lambda: admin.alter_topic(name, retention_bytes=0), WRITE_TIMEOUT_S),
        ]
