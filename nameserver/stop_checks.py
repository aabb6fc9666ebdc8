"""Asks the members of a cluster whether one of them can be stopped now.

Guarantee: who is registered and who stands for election is read from ZooKeeper itself, and what is said of stores, brokers and
nameservers is what each of them answers after the question came: nothing that was heard before it counts (stop_safety.py decides).  Nothing
is changed or reserved by asking.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc

from stele.nameserver.bundle_assignment import BrokerCandidate
from stele.nameserver.catalog import Catalog, Member
from stele.nameserver.recorded import read_now
from stele.nameserver.reports import Reports, merge
from stele.nameserver.stop_safety import broker_reasons, committed_by, nameserver_reasons, store_reasons
from stele.nameserver.strays import set_apart
from stele.services.coordination.schema import CANDIDATE, ELECTION
from stele.services.coordination.session import Session
from stele.services.errors import NameNotFound, SteleError
from stele.services.pb import datanode_pb2, datanode_pb2_grpc, nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.status import typed_errors
from stele.services.topics import check_name

ANSWER_WITHIN_S = 1.5
# A follower learns a moment later than its leader that an entry is committed.
CATCH_UP_S = 1.0
AGAIN_S = 0.05

A = TypeVar("A")


class StopChecks:
    """One per term of office.  ``candidates`` are the registered brokers of a catalog, as the leader knows them."""

    def __init__(
        self,
        session: Session,
        catalog: Callable[[], Catalog],
        channels: Channels,
        candidates: Callable[[Catalog], Mapping[str, BrokerCandidate]],
    ) -> None:
        self._session, self._catalog, self._channels, self._candidates = session, catalog, channels, candidates

    async def check(self, name: str) -> nameserver_pb2.SafeToStopResponse:
        """NameNotFound: no process has that name, or had it.  CoordinationUnknown."""
        check_name("process", name)
        now = await read_now(self._session, {"members": 2, "brokers": 1})
        if name in now.nameservers:
            return _answer("nameserver", await self._nameserver(name, now.nameservers))
        if name in now.brokers:
            return _answer("broker", await self._broker(name, now))
        if name in now.datanodes:
            whole = dataclasses.replace(self._catalog(), datanodes=now.datanodes)
            return _answer("datanode", await self._store(now.datanodes[name].store_id, whole))
        is_store = any(store.name == name for store in self._catalog().stores.values())
        if not is_store and await self._session.exists(f"names/{name}") is None:
            raise NameNotFound(f"no process is called {name}", name=name)
        return _answer("", [f"{name} itself is not registered"])

    async def _store(self, store_id: int, catalog: Catalog) -> list[str]:
        committed: dict[int, int] | None = None
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S
        while True:
            reports = await self._reports(catalog)
            reasons = store_reasons(store_id, catalog, reports, committed or {})
            if not reasons or (committed is not None and asyncio.get_running_loop().time() >= deadline):
                return reasons
            # What was committed once stays so: what leaders said in any round before is asked of their followers.
            committed = committed_by(reports) | (committed or {})
            await asyncio.sleep(AGAIN_S)

    async def _reports(self, catalog: Catalog) -> Reports:
        """What each registered store says of all that it holds."""
        said = await self._each(catalog.live_stores.values(), self._status)
        reports = {
            member.store_id: merge(None, said[member.name])
            for member in catalog.live_stores.values()
            if member.name in said and said[member.name].store_id == member.store_id
        }
        return set_apart(catalog, reports)

    async def _status(self, member: Member) -> datanode_pb2.StoreStatus:
        channel = await self._channels.connected(member.endpoint, ANSWER_WITHIN_S)
        stub: Any = datanode_pb2_grpc.DatanodeStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.WatchStore(datanode_pb2.WatchStoreRequest())
        try:
            with typed_errors():
                status: datanode_pb2.StoreStatus = await stream.read()
                return status
        finally:
            stream.cancel()

    async def _broker(self, name: str, now: Catalog) -> list[str]:
        said = await self._each(now.brokers.values(), self._health)
        serving = {n for n, answer in said.items() if answer.status == health_pb2.HealthCheckResponse.SERVING}
        return broker_reasons(name, self._candidates(now), serving)

    async def _health(self, member: Member) -> health_pb2.HealthCheckResponse:
        stub: Any = health_pb2_grpc.HealthStub(self._channels.get(member.endpoint))
        answer: health_pb2.HealthCheckResponse = await call(
            stub.Check, health_pb2.HealthCheckRequest(), ANSWER_WITHIN_S
        )
        return answer

    async def _nameserver(self, name: str, registered: Mapping[str, Member]) -> list[str]:
        said = await self._each(registered.values(), self._cluster)
        standing = set()
        for candidate in await self._session.children(ELECTION) or []:
            node = await self._session.get(f"{ELECTION}/{candidate}") if candidate.startswith(CANDIDATE) else None
            if node is not None:
                standing.add(node.value.decode(errors="replace"))
        return nameserver_reasons(name, registered.keys(), standing, said)

    async def _cluster(self, member: Member) -> nameserver_pb2.GetClusterResponse:
        stub: Any = nameserver_pb2_grpc.NameserverStub(self._channels.get(member.endpoint))  # type: ignore[no-untyped-call]
        answer: nameserver_pb2.GetClusterResponse = await call(
            stub.GetCluster, nameserver_pb2.GetClusterRequest(), ANSWER_WITHIN_S
        )
        return answer

    async def _each(self, members: Iterable[Member], ask: Callable[[Member], Awaitable[A]]) -> dict[str, A]:
        """The answers by name, of those that give one in time."""

        async def one(member: Member) -> tuple[str, A] | None:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    return member.name, await ask(member)
            except (SteleError, TimeoutError):
                return None

        answers = await asyncio.gather(*map(one, members))
        return dict(answer for answer in answers if answer is not None)


def _answer(role: str, reasons: list[str]) -> nameserver_pb2.SafeToStopResponse:
    return nameserver_pb2.SafeToStopResponse(role=role, safe=not reasons, reasons=reasons)
