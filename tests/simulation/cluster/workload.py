"""Clients made of the SDK: they produce, consume, and create and delete topics, for as long as a run lasts.

Guarantee: every call is watched (``calls.py``): it ends within its own deadline and a second, in an answer or in an error of the tree;
what came of it is in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from stele.client import Client
from stele.consumer import ACK_CONFIRM_TIMEOUT_S, CLOSE_TIMEOUT_S, OPEN_TIMEOUT_S, SEEK_TIMEOUT_S, Consumer
from stele.errors import SteleError
from stele.model import Message
from stele.operations import READ_TIMEOUT_S, WRITE_TIMEOUT_S
from stele.producer import Producer
from stele.services.coordination.records import PartitionRecord, decode
from stele.services.errors import StaleAck, TopicExists, TopicNotFound
from tests.simulation.checks import Violation
from tests.simulation.cluster.checks import ROOT
from tests.simulation.cluster.ledger import Ledger, Place, TopicLedger
from tests.simulation.cluster.outliving import Outliving
from tests.simulation.cluster.plan import FORGETS
from tests.simulation.cluster.pressure import CREDIT_MAX
from tests.simulation.cluster.process import Guest
from tests.simulation.cluster.sharing import TYPES, Sharing
from tests.simulation.cluster.visitors import Visitors

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

T = TypeVar("T")

MAIN, CHURNED = "shop/main", "shop/churned"
SUBSCRIPTIONS = {"all-shared": "shared", "all-failover": "failover", "all-exclusive": "exclusive"}
TEND_TIMEOUT_S = READ_TIMEOUT_S + WRITE_TIMEOUT_S  # to learn the partitions, then over all of them
CONNECT_S, SEND_TIMEOUT_S, RECEIVE_S = 60.0, 8.0, 2.0
RETRY_S = 0.3
FLUSHED_SHARE, AWAITED_SHARE, SOUGHT_SHARE = (
    0.02,
    0.05,
    0.3,
)  # of what a client does: calls that wait for what others leave to itself
READ_S, READ_MISSING_S = 0.5, 10.0  # without another message the log is read
PARTITIONS_MAX = 3
SEEKS, DELETIONS, MADE_ANEW = "seeks", "deletions while in use", "topics made anew"


class Workload:
    """``start`` once the servers have been started; ``closing`` ends what produces and churns, ``check`` looks at everything."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.ledger = world, Ledger(world)
        self._choices = world.stream("calls")
        self.closing = False
        self._recovering = False  # ZooKeeper has come back with an older copy
        self.done = Counter(dict.fromkeys((SEEKS, DELETIONS, MADE_ANEW), 0))
        self.main: TopicLedger | None = None
        self.recorded_at: int | None = None  # how many transactions ZooKeeper had once the main topic was there
        self.wanted: set[Place] = set()  # of the main topic: what a reader must find
        self.pause_s = 10 ** rng.uniform(-1.2, -0.4)
        self.partitions = rng.randint(1, PARTITIONS_MAX)
        self.clients: dict[str, Guest] = {}
        self.outliving, self.sharing, self.visitors = Outliving(world), Sharing(world), Visitors(world)
        self._tasks: list[asyncio.Task[Any]] = []
        self._ending: list[asyncio.Task[Any]] = []  # those that end once it is closing

    def start(self) -> None:
        for number, name in enumerate(self.world.hosts.clients):
            guest = self.clients[name] = Guest(self.world, name)
            self.begin(guest, self._live(guest, number))

    def begin(self, guest: Guest, work: Coroutine[Any, Any, Any], ends: bool = False) -> None:
        task = guest.begin(self._watched(guest, work))
        self._tasks.append(task)
        if ends:
            self._ending.append(task)

    async def _watched(self, guest: Guest, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.world.unhandled(guest, error)

    # --- one client ---------------------------------------------------------------------------------------------------

    async def _live(self, guest: Guest, number: int) -> None:
        bootstrap = ",".join(f"{name}:{self.world.port}" for name in self.world.hosts.nameservers)
        while True:
            client = Client(bootstrap, timeout_s=CONNECT_S, seed=guest.rng.getrandbits(32), transport=guest.transport)
            try:
                await self.call(guest, "connect", client.__aenter__(), CONNECT_S)
                break
            except SteleError:
                await asyncio.sleep(RETRY_S)
        guest.client = client  # type: ignore[attr-defined]
        if number == 0:
            await self._create_main(guest, client)
        while self.main is None:  # noqa: ASYNC110 - another client's loop sets it
            await asyncio.sleep(0.05)
        self.begin(guest, self._produce(guest, client, self.main, lambda: self.closing), ends=True)
        names = list(SUBSCRIPTIONS)
        for subscription in names[number % len(names) :: len(self.world.hosts.clients)]:
            self.begin(guest, self._consume(guest, client, self.main, subscription))
        self.begin(guest, self._consume(guest, client, self.main, names[0]))
        if number == len(self.world.hosts.clients) - 1 and guest.rng.random() < 0.5:
            self.begin(guest, self._churn(guest, client), ends=True)
            self.begin(guest, self.outliving.produce(guest, client, self, CHURNED))
            self.begin(guest, self.outliving.consume(guest, client, self, CHURNED))
        if number == 0 and (guest.rng.random() < 0.5 or self.sharing.wanted):
            self.begin(guest, self._tend(guest, client, self.main), ends=True)
        if number == 1:
            self.begin(guest, self._look_around(guest, client), ends=True)
            if self.sharing.wanted:
                self.begin(guest, self.sharing.consume(guest, client, self, self.main), ends=True)
        if number == 2 and self.visitors.wanted:
            self.begin(guest, self.visitors.come_and_go(guest, self, self.main, bootstrap), ends=True)

    async def _create_main(self, guest: Guest, client: Client) -> None:
        await self._until_created(guest, client, MAIN, self.partitions)
        self.main = self.ledger.created(MAIN, self.partitions)
        self.recorded_at = len(self.world.zookeeper.log)
        self.world.say("topic", guest.host, f"{MAIN} is there")

    async def _until_created(self, guest: Guest, client: Client, topic: str, partitions: int) -> None:
        while True:
            try:
                created = client.admin.create_topic(topic, partitions=partitions, if_absent=True)
                await self.call(guest, "create_topic", created, WRITE_TIMEOUT_S)
                return
            except SteleError as error:
                self.world.say("refused", guest.host, f"create {topic}: {error}")
                await asyncio.sleep(RETRY_S)
                if topic != MAIN and (self._recovering or isinstance(error, TopicExists)):
                    # Of an older copy: some of its stores may have deleted it since, and too few are left for it to come to be.
                    # Or it was deleted while ZooKeeper had nothing, and is back with what ZooKeeper was put back to.
                    await self._until(guest, "delete_topic", lambda: client.admin.delete_topic(topic), WRITE_TIMEOUT_S)

    async def _produce(self, guest: Guest, client: Client, topic: TopicLedger, over: Callable[[], bool]) -> None:
        settings: dict[str, Any] = self.world.pressure.producer_settings()
        producer = client.producer(topic.name, send_timeout_s=SEND_TIMEOUT_S, linger_ms=2.0, **settings)
        under_way: set[asyncio.Task[None]] = set()
        while not over():
            for _ in range(guest.rng.randint(1, 3)):
                task = asyncio.ensure_future(self.send(guest, producer, topic))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(guest.rng.uniform(0.2, 1.8) * self.pause_s)
            if self._choices.random() < FLUSHED_SHARE:
                await self.call(guest, "producer.flush", producer.flush(), SEND_TIMEOUT_S)
            if len(under_way) > 200:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        await self.call(guest, "producer.close", producer.close(), SEND_TIMEOUT_S)
        if under_way:
            await asyncio.wait(under_way)

    async def send(self, guest: Guest, producer: Producer, topic: TopicLedger, name: str = "") -> None:
        """``name``: of a producer that is not the guest's only one of the topic."""
        sent = self.ledger.sending(topic, name or f"{guest.host}.{guest.pid}", self.world.pressure.padding())
        key = None if guest.rng.random() < 0.5 else b"%d" % guest.rng.randrange(5)
        try:
            stored = await self.call(guest, "send", producer.send(sent.value, key=key), SEND_TIMEOUT_S)
            self.ledger.acked(topic, sent, stored.partition, stored.offset)
        except SteleError as error:
            self.world.say("send failed", guest.host, f"{sent.value.decode()}: {error!r}")
            self.ledger.failed(topic, sent, error.definite)
            self._check_denied(topic, error)
        except Violation as error:
            self.world.unhandled(guest, error)

    async def _consume(self, guest: Guest, client: Client, topic: TopicLedger, subscription: str) -> None:
        kind = SUBSCRIPTIONS[subscription]
        while True:
            try:
                consumer = client.consumer(topic.name, subscription, type=kind, credit=CREDIT_MAX, name=guest.host)
                before = self.ledger.confirmed(topic, subscription)
                async with self.opened(guest, consumer):
                    while guest.rng.random() > 0.01:  # now and then it closes, and opens again
                        message = None
                        while message is None:
                            message = await self.receive(guest, consumer, RECEIVE_S)
                        self.ledger.received(topic, subscription, message, before)
                        if guest.rng.random() < 0.05:
                            consumer.nack(message, 0.1)
                        else:
                            self._ack(guest, consumer, topic, subscription, message)
                        if self._choices.random() < FLUSHED_SHARE:
                            await self.call(guest, "consumer.flush", consumer.flush(), ACK_CONFIRM_TIMEOUT_S)
            except SteleError as error:
                self.world.say("consumer ended", guest.host, f"{subscription}: {error!r}")
                self._check_denied(topic, error)
                await asyncio.sleep(RETRY_S)

    def _check_denied(self, topic: TopicLedger, error: SteleError) -> None:
        """The main topic is never deleted, unless ZooKeeper forgets."""
        if topic is self.main and isinstance(error, TopicNotFound) and not set(FORGETS) & set(self.world.kinds):
            self.world.violated("living topic denied", repr(error))

    @contextlib.asynccontextmanager
    async def opened(self, guest: Guest, consumer: Consumer) -> AsyncIterator[None]:
        """As ``async with consumer``, each of its two calls watched."""
        try:
            await self.call(guest, "consumer.open", consumer.open(), OPEN_TIMEOUT_S)
            yield
        finally:
            await self.call(guest, "consumer.close", consumer.close(), CLOSE_TIMEOUT_S)

    async def receive(self, guest: Guest, consumer: Consumer, timeout_s: float) -> Message | None:
        return await self.call(guest, "receive", consumer.receive(timeout_s), timeout_s)

    def _ack(self, guest: Guest, consumer: Consumer, topic: TopicLedger, subscription: str, message: Message) -> None:
        def answered(promise: asyncio.Future[None]) -> None:
            if promise.cancelled():
                return
            if (error := promise.exception()) is None:
                self.ledger.confirm(topic, subscription, message)
            elif isinstance(error, SteleError):
                self.world.applied.refused(subscription, message, error)

        if self._choices.random() < AWAITED_SHARE:
            self.begin(guest, self.acked(guest, consumer, topic, subscription, message))
        else:
            consumer.ack_nowait(message).add_done_callback(answered)

    async def acked(
        self, guest: Guest, consumer: Consumer, topic: TopicLedger, subscription: str, message: Message
    ) -> None:
        try:
            await self.call(guest, "ack", consumer.ack(message), ACK_CONFIRM_TIMEOUT_S)
            self.ledger.confirm(topic, subscription, message)
        except SteleError as error:
            self.world.say("not acknowledged", guest.host, f"{subscription}: {error!r}")
            self.world.applied.refused(subscription, message, error)

    def ack_late(
        self, guest: Guest, consumer: Consumer, topic: TopicLedger, subscription: str, message: Message
    ) -> None:
        """It may be of another generation by now."""
        with contextlib.suppress(StaleAck):
            self._ack(guest, consumer, topic, subscription, message)

    async def _tend(self, guest: Guest, client: Client, topic: TopicLedger) -> None:
        """A subscription that is made, read, sought and deleted while it is in use."""
        rng, admin, number = guest.rng, client.admin, 0
        holding = random.Random(f"holding {guest.host} {self.world.options.seed}")
        while not self.closing:
            number += rng.random() < 0.5  # often one of the same name
            name = f"side-{number}"
            start = rng.choice(("earliest", "latest", rng.randrange(50)))
            try:
                made = admin.create_subscription(topic.name, name, start)
                await self.call(guest, "create_subscription", made, TEND_TIMEOUT_S)
                before, kind = self.ledger.confirmed(topic, name), self.sharing.tends(name)
                consumer = client.consumer(topic.name, name, type=kind, credit=rng.choice((1, 5, 50)), name="side")
                held: list[Message] = []  # acknowledged late, if at all
                async with self.opened(guest, consumer):
                    for _ in range(rng.randrange(30)):
                        message = await self.receive(guest, consumer, rng.uniform(0.1, 0.5))
                        if message is not None:
                            self.ledger.received(topic, name, message, before)
                            if rng.random() < 0.7:
                                self._ack(guest, consumer, topic, name, message)
                            else:
                                held.append(message)
                        if held and holding.random() < 0.1:
                            late = held.pop(holding.randrange(len(held)))
                            self.ack_late(guest, consumer, topic, name, late)
                        if rng.random() < 0.05:
                            to = rng.choice(("earliest", "latest", rng.randrange(50)))
                            seeking = asyncio.ensure_future(self._seek(guest, client, consumer, to))
                            while held and not seeking.done():  # meanwhile it goes on acknowledging
                                self.ack_late(guest, consumer, topic, name, held.pop())
                                await asyncio.sleep(holding.uniform(0.0, 0.002))
                            await seeking
                        if rng.random() < 0.02:
                            self.done[DELETIONS] += 1  # as asked for: while it has consumers it is refused
                            if self.sharing.wanted:  # it goes on consuming, or the second would be alone from here on
                                self.begin(guest, self._forget_if_it_goes(guest, client, topic, name))
                            else:
                                await self._forget(guest, client, topic, name)
            except SteleError as error:
                self.world.say("side", guest.host, f"{name}: {error!r}")
            if rng.random() < 0.7:
                self.sharing.rests()
                await self._forget_if_it_goes(guest, client, topic, name)
            await asyncio.sleep(rng.uniform(0.0, 0.3))

    async def _seek(self, guest: Guest, client: Client, consumer: Consumer, to: int | str) -> None:
        """By the consumer itself, or behind its back."""
        if self._choices.random() < SOUGHT_SHARE:
            await self.call(guest, "consumer.seek", consumer.seek(to), SEEK_TIMEOUT_S + OPEN_TIMEOUT_S)
        else:
            sought = client.admin.seek_subscription(consumer.topic, consumer.subscription, to)
            await self.call(guest, "seek_subscription", sought, TEND_TIMEOUT_S)
        self.done[SEEKS] += 1

    async def _look_around(self, guest: Guest, client: Client) -> None:
        """What an operator asks, and changes that change nothing that matters here."""
        admin = client.admin
        asked: tuple[tuple[str, Callable[[], Awaitable[Any]], float], ...] = (
            ("cluster", admin.cluster, READ_TIMEOUT_S),
            ("list_nameservers", admin.list_nameservers, READ_TIMEOUT_S),
            ("list_brokers", admin.list_brokers, READ_TIMEOUT_S),
            ("list_stores", admin.list_stores, READ_TIMEOUT_S),
            ("list_orphans", admin.list_orphans, READ_TIMEOUT_S),
            ("list_namespaces", admin.list_namespaces, READ_TIMEOUT_S),
            ("list_topics", admin.list_topics, READ_TIMEOUT_S),
            ("list_partitions", admin.list_partitions, READ_TIMEOUT_S),
            ("describe_topic", lambda: admin.describe_topic(MAIN), READ_TIMEOUT_S),
            ("lookup", lambda: admin.lookup(MAIN), READ_TIMEOUT_S),
            ("list_subscriptions", lambda: admin.list_subscriptions(MAIN), 2 * READ_TIMEOUT_S),
            ("alter_topic", lambda: admin.alter_topic(MAIN, retention_bytes=0), WRITE_TIMEOUT_S),
            ("create_namespace", lambda: admin.create_namespace("other"), WRITE_TIMEOUT_S),
        )
        while not self.closing:
            what, ask, within_s = self._choices.choice(asked)
            try:
                await self.call(guest, what, ask(), within_s)
            except SteleError as error:
                self.world.say("not answered", guest.host, f"{what}: {error!r}")
            await asyncio.sleep(self._choices.uniform(0.1, 0.6))

    async def _forget_if_it_goes(self, guest: Guest, client: Client, topic: TopicLedger, name: str) -> None:
        try:
            await self._forget(guest, client, topic, name)
        except SteleError as error:
            self.world.say("side", guest.host, f"{name} is not deleted: {error!r}")

    async def _forget(self, guest: Guest, client: Client, topic: TopicLedger, name: str) -> None:
        self.ledger.forgotten(topic, name)
        try:
            deleted = client.admin.delete_subscription(topic.name, name)
            await self.call(guest, "delete_subscription", deleted, TEND_TIMEOUT_S)
        finally:
            self.ledger.forgotten(topic, name)  # what was confirmed meanwhile, too

    async def _churn(self, guest: Guest, client: Client) -> None:
        """Topics of one name, one after the other."""
        while not self.closing:
            await self._until_created(guest, client, CHURNED, guest.rng.randint(1, 2))
            info = await self._until(
                guest, "describe_topic", lambda: client.admin.describe_topic(CHURNED), READ_TIMEOUT_S
            )
            topic = self.ledger.created(CHURNED, info.partitions)
            self.done[MADE_ANEW] += topic.generation > 1
            self.world.say("topic", guest.host, f"{CHURNED} is there, the {topic.generation}th")
            until = self.world.now + guest.rng.uniform(0.2, 2.0)
            await self._produce(guest, client, topic, lambda until=until: self.world.now > until)  # type: ignore[misc]
            await self._until(guest, "delete_topic", lambda: client.admin.delete_topic(CHURNED), WRITE_TIMEOUT_S)
            self.world.say("topic", guest.host, f"{CHURNED} is gone, the {topic.generation}th")

    async def _until(self, guest: Guest, what: str, attempt: Callable[[], Awaitable[T]], within_s: float) -> T | Any:
        """Tried until it succeeds, or until what it asks for has come about."""
        while True:
            try:
                return await self.call(guest, what, attempt(), within_s)
            except SteleError as error:
                if error.reason == "TOPIC_NOT_FOUND":
                    return None
                await asyncio.sleep(RETRY_S)

    def call(self, guest: Guest, what: str, call: Awaitable[T], within_s: float) -> Coroutine[Any, Any, T]:
        """What it comes to, by its deadline and a second more."""
        return self.world.calls.within(guest, what, call, within_s)

    # --- the end ------------------------------------------------------------------------------------------------------

    def groups(self) -> set[int]:
        """Those of the main topic's partitions, as ZooKeeper has them."""
        nodes, folder = self.world.zookeeper.tree.nodes, f"{ROOT}partitions"
        recorded = {
            int(name): decode(nodes[f"{folder}/{name}"].value, PartitionRecord) for name in nodes[folder].children
        }
        return {group for group, record in recorded.items() if record.topic == MAIN}

    def counted(self) -> dict[str, int]:
        """What was done beside producing and consuming, for the totals."""
        second, visitors = self.sharing.given, self.visitors
        return {
            **self.done,
            **{f"to a second consumer, {kind}": second[kind] for kind in TYPES},
            "clients closed in use": visitors.closed,
            "sends under way then": visitors.sends,
            "other calls under way then": visitors.others,
        }

    def idle(self) -> bool:
        """What produced, churned, tended and looked around has ended; consumers wait."""
        return all(task.done() for task in self._ending)

    def drained(self) -> bool:
        """Every subscription has been given everything that was acknowledged."""
        assert self.main is not None
        return not any(self.ledger.missing(self.main, subscription) for subscription in SUBSCRIPTIONS)

    def begin_recovery(self) -> None:
        """What an operator does after ZooKeeper came back with an older copy of the records."""
        self._recovering = True
        guest = self.clients[self.world.hosts.clients[0]]
        self.begin(guest, self._recover(guest))

    async def _recover(self, guest: Guest) -> None:
        while not hasattr(guest, "client"):  # noqa: ASYNC110 - another task sets it
            await asyncio.sleep(RETRY_S)
        client: Client = guest.client
        await self._until(guest, "recover_metadata", client.admin.recover_metadata, WRITE_TIMEOUT_S)

    def begin_reading(self) -> asyncio.Task[dict[Place, bytes]]:
        """All of the main topic, from its beginning to its end now."""
        guest = self.clients[self.world.hosts.clients[0]]
        assert self.main is not None
        # What is acknowledged from here on may come too late for who reads.
        self.wanted = {s.place for s in self.main.sent.values() if s.outcome == "acknowledged" and s.place is not None}
        return guest.begin(self._read(guest))

    async def _read(self, guest: Guest) -> dict[Place, bytes]:
        client: Client = guest.client  # type: ignore[attr-defined]
        log: dict[Place, bytes] = {}
        consumer = client.consumer(MAIN, "reader", type="exclusive", credit=CREDIT_MAX, name="reader")
        async with self.opened(guest, consumer):
            while message := await self.receive(
                guest, consumer, READ_S if self.wanted <= log.keys() else READ_MISSING_S
            ):
                log[message.partition, message.offset] = message.value
                consumer.ack_nowait(message)
        return log
