"""An exception that nobody foresaw ends none of the work that a leading nameserver does beside its rounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stele.nameserver.bundle_assignment import Pulse
from stele.nameserver.catalog import Member, MemberKind
from stele.nameserver.effects import DeleteReplica
from stele.nameserver.probes import BrokerProbes
from stele.nameserver.replicas import Order, ReplicaOrders
from stele.nameserver.storewatch import StoreWatch
from stele.services.errors import InternalError
from stele.services.pb import datanode_pb2
from stele.services.rpc.channels import Channels
from tests.support.eventually import eventually

STORE = Member(MemberKind.DATANODES, "dn1", "127.0.0.1:1", store_id=1, joined_zxid=7)
BROKER = Member(MemberKind.BROKERS, "br1", "127.0.0.1:1", joined_zxid=7)


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    opened = Channels()
    yield opened
    await opened.close()


@pytest.fixture
async def unhandled() -> list[str]:
    """What reaches the event loop's exception handler."""
    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(str(context.get("exception"))))
    return seen


async def test_p21_a_fault_while_a_store_is_watched_ends_no_watch(channels: Channels, unhandled: list[str]) -> None:
    connected: list[bool] = []

    class Stumbles(StoreWatch):
        times = 0

        async def _statuses(self, member: Member) -> Any:
            self.times += 1
            yield datanode_pb2.StoreStatus(store_id=member.store_id, complete=True)
            if self.times == 1:
                raise RuntimeError("of our own")
            await asyncio.Event().wait()

    watch = Stumbles(channels, lambda: connected.append(watch.reports[1].connected))
    watch.follow({1: STORE})
    try:
        await eventually(lambda: watch.times == 2 and watch.reports[1].connected)
    finally:
        await watch.stop()
    assert connected == [True, False, True]
    assert unhandled == ["of our own"]


async def test_p21_a_fault_while_a_broker_is_probed_ends_no_probe(channels: Channels, unhandled: list[str]) -> None:
    class Stumbles(BrokerProbes):
        times = 0

        async def _listen(self, member: Member) -> None:
            self.times += 1
            if self.times == 1:
                raise RuntimeError("of our own")
            self._publish(member, Pulse.ALIVE)
            await asyncio.Event().wait()

    probes = Stumbles(channels, lambda: None)
    probes.follow({"br1": BROKER})
    try:
        await eventually(lambda: probes.pulse(BROKER) is Pulse.ALIVE)
    finally:
        await probes.stop()
    assert unhandled == ["of our own"]


async def test_p21_an_order_that_fails_unforeseen_is_told_and_given_again(channels: Channels) -> None:
    done: list[bool] = []
    outcomes: Iterator[bool] = iter([False, True])

    class Stumbles(ReplicaOrders):
        async def give(self, member: Member, order: Order) -> None:
            if not next(outcomes):
                raise RuntimeError("of our own")

    orders = Stumbles(channels, "c", 1, lambda: done.append(orders.last_failure([1]) is None))
    try:
        orders.submit([DeleteReplica(1, 5, 9)], {1: STORE})
        await eventually(lambda: done == [False])
        failure = orders.last_failure([1])
        assert failure is not None
        assert isinstance(failure[1], InternalError)

        def again() -> bool:
            orders.submit([DeleteReplica(1, 5, 9)], {1: STORE})
            return done == [False, True]

        await eventually(again)
    finally:
        await orders.stop()
