"""What a call did itself is not held against it when its first answer was lost (fault P6)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
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


@pytest.fixture
async def admin(broker: Any) -> AsyncIterator[Admin]:
    async def look_up(topic: str) -> TopicRoutes:
        return TopicRoutes(topic, 1, (Route(0, "br1", broker.endpoint, 1),))

    channels = Channels()
    router = Router(look_up)
    yield Admin(None, BrokerCalls(router, channels, random.Random(1)), None, channels)  # type: ignore[arg-type]
    await channels.close()


async def test_p6_a_removal_whose_answer_was_lost_has_succeeded(admin: Admin, broker: ForgetfulBroker) -> None:
    broker.subscriptions.add("s")
    await admin.delete_subscription("a/b", "s")
    assert broker.subscriptions == set()
    with pytest.raises(SubscriptionNotFound):
        await admin.delete_subscription("a/b", "s")


async def test_p6_a_creation_whose_answer_was_lost_has_succeeded(admin: Admin, broker: ForgetfulBroker) -> None:
    assert await admin.create_subscription("a/b", "s")
    assert not await admin.create_subscription("a/b", "s")
