"""What a call did itself is not held against it when its first answer was lost (fault P6)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stele.admin import Admin
from stele.broker_calls import BrokerCalls
from stele.routing import Route, Router, TopicRoutes
from stele.services.errors import NotOwner, SteleError, SubscriptionNotFound, Timeout
from stele.services.pb import broker_pb2 as pb
from stele.services.pb import broker_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from tests.support.both_ways import holds_and_mutant_fails, promise


class ForgetfulBroker(broker_pb2_grpc.BrokerServicer):
    """Does what it is told, and loses the first answer of each kind."""

    def __init__(self) -> None:
        self.subscriptions: set[str] = set()
        self.sought: set[int] = set()
        self.loses = True
        self.serves = {0, 1}  # partitions; of the others it is not the owner, whatever it did before

    async def DeleteSubscription(self, request: Any, _context: Any) -> pb.DeleteSubscriptionResponse:
        self._check(request.partition)
        existed = request.subscription in self.subscriptions
        self.subscriptions.discard(request.subscription)
        self._lose()
        return pb.DeleteSubscriptionResponse(existed=existed)

    async def CreateSubscription(self, request: Any, _context: Any) -> pb.CreateSubscriptionResponse:
        self._check(request.partition)
        created = request.subscription not in self.subscriptions
        self.subscriptions.add(request.subscription)
        self._lose()
        return pb.CreateSubscriptionResponse(created=created)

    async def SeekSubscription(self, request: Any, _context: Any) -> pb.SeekSubscriptionResponse:
        self._check(request.partition)
        self.sought.add(request.partition)
        self._lose()
        return pb.SeekSubscriptionResponse(position=0)

    async def ListSubscriptions(self, request: Any, _context: Any) -> pb.ListSubscriptionsResponse:
        listed = [
            pb.SubscriptionInfo(topic=request.topic, partition=p, subscription=s)
            for p in request.partitions
            for s in sorted(self.subscriptions)
        ]
        return pb.ListSubscriptionsResponse(subscriptions=listed)

    def _check(self, partition: int) -> None:
        if partition not in self.serves:
            raise NotOwner("another broker owns it")

    def _lose(self) -> None:
        if self.loses:
            self.loses = False
            raise Timeout("no answer in time", timeout_s=1)


@pytest.fixture
async def broker() -> AsyncIterator[ForgetfulBroker]:
    made = ForgetfulBroker()
    server = Server("127.0.0.1", 0)
    server.add(broker_pb2_grpc.add_BrokerServicer_to_server, made, "stele.v1.Broker")
    made.endpoint = f"127.0.0.1:{await server.start()}"  # type: ignore[attr-defined]
    yield made
    await server.stop(0)


@asynccontextmanager
async def admin_of(broker: Any, calls: type[BrokerCalls] = BrokerCalls, partitions: int = 1) -> AsyncIterator[Admin]:
    async def look_up(topic: str) -> TopicRoutes:
        return TopicRoutes(topic, 1, tuple(Route(p, "br1", broker.endpoint, 1) for p in range(partitions)))

    channels = Channels()
    router = Router(look_up)
    yield Admin(None, calls(router, channels, random.Random(1)), None, channels)  # type: ignore[arg-type]
    await channels.close()


@pytest.fixture
async def admin(broker: ForgetfulBroker) -> AsyncIterator[Admin]:
    async with admin_of(broker) as made:
        yield made


async def test_p6_a_removal_whose_answer_was_lost_has_succeeded(broker: ForgetfulBroker) -> None:
    async def scenario(calls: type[BrokerCalls]) -> None:
        broker.subscriptions.add("s")
        broker.loses = True
        async with admin_of(broker, calls) as admin:
            with promise("what a call did itself it does not call undone"):
                await admin.delete_subscription("a/b", "s")
            assert broker.subscriptions == set()
            with pytest.raises(SubscriptionNotFound):
                await admin.delete_subscription("a/b", "s")

    await holds_and_mutant_fails(scenario, BrokerCalls, "calls.ForgetsItsAttempts")


async def test_p6_a_creation_whose_answer_was_lost_has_succeeded(admin: Admin, broker: ForgetfulBroker) -> None:
    assert await admin.create_subscription("a/b", "s")
    assert not await admin.create_subscription("a/b", "s")


CHANGES = {
    "create": lambda admin: admin.create_subscription("a/b", "s"),
    "delete": lambda admin: admin.delete_subscription("a/b", "s"),
    "seek": lambda admin: admin.seek_subscription("a/b", "s", "earliest"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_refusal_does_not_say_that_an_attempt_without_an_answer_did_nothing(
    broker: ForgetfulBroker, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stele.admin.WRITE_TIMEOUT_S", 0.5)
    broker.subscriptions = {"s"} - ({"s"} if change == "create" else set())
    before = broker.subscriptions.copy()

    def lose() -> None:
        broker.serves = set()
        raise Timeout("no answer in time", timeout_s=1)

    monkeypatch.setattr(broker, "_lose", lose)
    async with admin_of(broker) as admin:
        with pytest.raises(SteleError) as ended:
            await CHANGES[change](admin)
    assert broker.subscriptions != before or broker.sought == {0}, "it was done"
    assert not ended.value.definite, ended.value
    assert "no answer in time" in str(ended.value)
    assert "another broker owns it" in str(ended.value)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_some_partitions_is_not_called_none(
    broker: ForgetfulBroker, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stele.admin.WRITE_TIMEOUT_S", 0.5)
    broker.loses = False
    broker.subscriptions = {"s"} - ({"s"} if change == "create" else set())
    first = 1 if change == "create" else 0
    broker.serves = {first}
    async with admin_of(broker, partitions=2) as admin:
        with pytest.raises(SteleError) as ended:
            await CHANGES[change](admin)
        assert not ended.value.definite, ended.value
        assert f"partitions [{first}] of a/b are changed" in str(ended.value)
        broker.serves = set()
        with pytest.raises(SteleError) as ended:
            await CHANGES[change](admin)
        assert ended.value.definite, "this one changed nothing, and says so"
