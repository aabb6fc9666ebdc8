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
from stele.services.errors import SubscriptionNotFound, Timeout
from stele.services.pb import broker_pb2 as pb
from stele.services.pb import broker_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from tests.support.both_ways import holds_and_mutant_fails, promise


class ForgetfulBroker(broker_pb2_grpc.BrokerServicer):
    """Does what it is told, and loses the first answer of each kind."""

    def __init__(self) -> None:
        self.subscriptions: set[str] = set()
        self.loses = True

    async def DeleteSubscription(self, request: Any, _context: Any) -> pb.DeleteSubscriptionResponse:
        existed = request.subscription in self.subscriptions
        self.subscriptions.discard(request.subscription)
        self._lose()
        return pb.DeleteSubscriptionResponse(existed=existed)

    async def CreateSubscription(self, request: Any, _context: Any) -> pb.CreateSubscriptionResponse:
        created = request.subscription not in self.subscriptions
        self.subscriptions.add(request.subscription)
        self._lose()
        return pb.CreateSubscriptionResponse(created=created)

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
async def admin_of(broker: Any, calls: type[BrokerCalls] = BrokerCalls) -> AsyncIterator[Admin]:
    async def look_up(topic: str) -> TopicRoutes:
        return TopicRoutes(topic, 1, (Route(0, "br1", broker.endpoint, 1),))

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
