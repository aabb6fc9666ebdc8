"""What is under way while a client or a consumer is closed: it is told so, and nothing of it goes on."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from stele import broker_calls
from stele import consumer as consumer_module
from stele.broker_calls import BrokerCalls
from stele.consumer import Consumer
from stele.errors import ClientClosed
from stele.model import Message
from stele.partition_consumer import PartitionConsumer
from stele.routing import Route, Router, TopicRoutes
from stele.services.errors import (
    ConnectionBroken,
    ConsumerBusy,
    MessagesLost,
    NotReady,
    SteleError,
    SubscriptionNotFound,
    Timeout,
)
from stele.services.pb import broker_pb2
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc import nameservers
from stele.services.rpc.nameservers import NameserverClient

ROUTES = TopicRoutes("ns/t", 1, (Route(0, "br1", "br1:1", 1),))


class Closing:
    """Of a client that is closed during its first attempt; attempts end with ``error``."""

    def __init__(self, error: SteleError) -> None:
        self.error, self.closed, self.attempts = error, False, 0
        self.channels: Any = SimpleNamespace(get=lambda _: SimpleNamespace(unary_unary=self._method))

    def _method(self, *_: Any, **__: Any) -> Any:
        return lambda *_, **__: None

    async def call(self, *_: Any) -> Any:
        self.attempts += 1
        self.closed = True
        raise self.error

    def check_open(self) -> None:
        if self.closed:
            raise ClientClosed("the client is closed")


async def test_who_waits_for_a_lookup_is_told_that_its_client_closes() -> None:
    async def look_up(topic: str) -> TopicRoutes:
        await asyncio.Event().wait()
        return ROUTES

    router = Router(look_up)
    under_way = asyncio.create_task(router.routes("ns/t"))
    await asyncio.sleep(0)
    not_begun = asyncio.create_task(router.routes("ns/u"))
    given_up = asyncio.create_task(router.routes("ns/t"))
    await asyncio.sleep(0)
    given_up.cancel()
    await router.close()
    with pytest.raises(ClientClosed):
        await under_way
    with pytest.raises(ClientClosed):
        await not_begun
    with pytest.raises(asyncio.CancelledError):
        await given_up


@pytest.mark.parametrize(
    ("method", "request_", "error", "told"),
    [
        ("GetCluster", pb.GetClusterRequest(), ConnectionBroken("closed"), ClientClosed),
        ("AlterTopic", pb.AlterTopicRequest(), ConnectionBroken("closed"), ConnectionBroken),
        ("AlterTopic", pb.AlterTopicRequest(), NotReady("not yet"), ClientClosed),
    ],
)
async def test_a_call_to_the_nameservers_ends_as_its_client_closes(
    monkeypatch: pytest.MonkeyPatch, method: str, request_: Any, error: SteleError, told: type[SteleError]
) -> None:
    closing = Closing(error)
    monkeypatch.setattr(nameservers, "call", closing.call)
    monkeypatch.setattr(nameservers.nameserver_pb2_grpc, "NameserverStub", lambda _: SimpleNamespace(**{method: 0}))
    client = NameserverClient(closing.channels, ["ns1:1", "ns2:1"], check_open=closing.check_open)
    with pytest.raises(told):
        await client.call(method, request_, 30.0)
    assert closing.attempts == 1, "nobody is dialled any more"


@pytest.mark.parametrize(
    ("error", "told"), [(Timeout("no answer"), Timeout), (NotReady("not yet"), ClientClosed)], ids=["sent", "refused"]
)
async def test_a_call_to_a_broker_ends_as_its_client_closes(
    monkeypatch: pytest.MonkeyPatch, error: SteleError, told: type[SteleError]
) -> None:
    closing = Closing(error)

    async def look_up(topic: str) -> TopicRoutes:
        return ROUTES

    monkeypatch.setattr(broker_calls, "call", closing.call)
    monkeypatch.setattr(
        broker_calls.broker_pb2_grpc, "BrokerStub", lambda _: SimpleNamespace(DeleteSubscription=lambda: None)
    )
    calls = BrokerCalls(Router(look_up), closing.channels, random.Random(1), closing.check_open)
    with pytest.raises(told):
        await calls.settle("ns/t", 0, "DeleteSubscription", broker_pb2.DeleteSubscriptionRequest(), 30.0)
    assert closing.attempts == 1, "nobody is dialled any more"


def _consumer(find: Any, seek: Any) -> Consumer:
    router: Any = SimpleNamespace(watch=lambda *_: lambda: None)

    async def has_begun(*_: object) -> bool:
        return False

    return Consumer("ns/t", "s", router, Any, find, has_begun, seek)  # type: ignore[arg-type]


async def test_a_consumer_that_is_closed_while_it_opens_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[PartitionConsumer] = []
    monkeypatch.setattr(PartitionConsumer, "start", begun.append)
    found = asyncio.Event()

    async def find(topic: str, timeout_s: float) -> TopicRoutes:
        await found.wait()
        return ROUTES

    consumer = _consumer(find, None)
    opening = asyncio.create_task(consumer.open())
    await asyncio.sleep(0)
    await consumer.close()
    found.set()
    with pytest.raises(ClientClosed):
        await opening
    assert not begun


async def test_a_consumer_that_is_closed_while_it_seeks_begins_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[PartitionConsumer] = []

    def start(self: PartitionConsumer) -> None:
        begun.append(self)
        self.opened.set()

    monkeypatch.setattr(PartitionConsumer, "start", start)
    sought = asyncio.Event()

    async def find(topic: str, timeout_s: float) -> TopicRoutes:
        return ROUTES

    async def seek(*_: Any) -> int:
        await sought.wait()
        return 0

    consumer = _consumer(find, seek)
    await consumer.open()
    seeking = asyncio.create_task(consumer.seek("earliest"))
    await asyncio.sleep(0.01)
    await consumer.close()
    sought.set()
    with pytest.raises(Timeout, match=r"partitions .0. of ns/t are changed, and then: the consumer of ns/t is closed"):
        await seeking  # not ClientClosed, which says that nothing was changed
    assert len(begun) == 1


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (None, Timeout),
        (MessagesLost("nobody has them"), ConnectionBroken),
        (ConsumerBusy("another has it"), ConnectionBroken),
        (SubscriptionNotFound("nothing is left of it"), SubscriptionNotFound),
    ],
    ids=["closed", "lost", "busy", "gone"],
)
async def test_an_acknowledgement_under_way_may_count_although_its_consumer_ends(
    monkeypatch: pytest.MonkeyPatch, ends: SteleError | None, told: type[SteleError]
) -> None:
    def start(self: PartitionConsumer) -> None:
        self.buffer.opened(1)
        self.opened.set()

    async def find(topic: str, timeout_s: float) -> TopicRoutes:
        return ROUTES

    monkeypatch.setattr(PartitionConsumer, "start", start)
    monkeypatch.setattr(consumer_module, "CLOSE_TIMEOUT_S", 0.01)
    consumer = _consumer(find, None)
    await consumer.open()
    promise = consumer.ack_nowait(Message("ns/t", 0, 0, None, b"", {}, 0, topic_id=1, generation=1))
    if ends is not None:
        consumer._partitions[0]._end(ends)
    await consumer.close()
    assert isinstance(promise.exception(), told)
