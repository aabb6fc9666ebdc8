"""Asks every registered broker what went through its bundles (bundle_loads.py).

Guarantee: a broker that does not answer changes nothing of what is known, and holds up no other.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping

from stele.nameserver.bundle_loads import BundleLoads, Counted
from stele.nameserver.catalog import Catalog, Member
from stele.services.errors import SteleError, Unimplemented
from stele.services.pb import broker_pb2, broker_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.tasks import Tasks

ASK_EVERY_S = 2.0
ASK_AGAIN_S = 1.0  # after the first time: it takes two to know
ANSWER_TIMEOUT_S = 1.0


class TrafficWatch:
    """``follow(catalog)`` after each change; only the leader asks."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._loads = BundleLoads()
        self._tasks = Tasks()
        self._asking: dict[tuple[str, int], asyncio.Task[None]] = {}

    @property
    def costs(self) -> Mapping[str, float]:
        return self._loads.costs

    def knows(self, member: Member) -> bool:
        return self._loads.knows(_incarnation(member))

    def follow(self, catalog: Catalog) -> None:
        wanted = {_incarnation(m): m for m in catalog.brokers.values()}
        for key in self._asking.keys() - wanted.keys():
            self._asking.pop(key).cancel()
        for key in wanted.keys() - self._asking.keys():
            ask = functools.partial(self._ask, wanted[key])
            self._asking[key] = self._tasks.keep(ask, f"traffic-{wanted[key].name}")
        self._loads.keep(set(wanted), catalog.wanted_bundles)

    async def stop(self) -> None:
        self._asking.clear()
        await self._tasks.cancel()

    async def _ask(self, member: Member) -> None:
        while True:
            key = _incarnation(member)
            try:
                channel = await self._channels.connected(member.endpoint, ANSWER_TIMEOUT_S)
                stub = broker_pb2_grpc.BrokerStub(channel)  # type: ignore[no-untyped-call]
                answer = await call(stub.GetTraffic, broker_pb2.GetTrafficRequest(), ANSWER_TIMEOUT_S)
            except Unimplemented:
                self._loads.has_none(key)
            except SteleError:
                pass
            else:
                counted = {b.bundle: Counted(b.epoch, b.messages, b.bytes) for b in answer.bundles}
                self._loads.heard(key, counted, asyncio.get_running_loop().time())
            await asyncio.sleep(ASK_EVERY_S if self._loads.knows(key) else ASK_AGAIN_S)


def _incarnation(member: Member) -> tuple[str, int]:
    return member.name, member.joined_zxid
