"""Nameservers in this process, over a real ZooKeeper, with stand-ins for the other roles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from stele.nameserver.controller import Controller
from stele.nameserver.role import ControllerType, Nameserver
from stele.services.config import NameserverConfig
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import RECORD_FORMAT
from stele.services.coordination.session import Session
from stele.services.errors import SteleError
from stele.services.pb import nameserver_pb2 as pb
from stele.services.process import Runtime
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from tests.integration.nameserver.stand_ins import GroupsInMemory, InMemoryDatanode, StandingBroker
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S, Proxy


class Cluster:
    """Everything that is started here is stopped by ``stop``."""

    def __init__(self, hosts: str, name: str) -> None:
        self.hosts, self.name = hosts, name
        self.nameservers: dict[str, Nameserver] = {}
        self.zookeeper_of: dict[str, Proxy] = {}
        self.groups = GroupsInMemory()
        self.datanodes: dict[str, InMemoryDatanode] = {}
        self.brokers: dict[str, StandingBroker] = {}
        self.channels = Channels()
        self.failures: dict[str, SteleError] = {}
        self._retired: list[Nameserver] = []
        self._session: Session | None = None

    # --- members ----------------------------------------------------------------------------------------------------

    async def nameserver(
        self, name: str, controller: ControllerType = Controller, record_format: int = RECORD_FORMAT
    ) -> Nameserver:
        """Started, with a ZooKeeper connection of its own that a test can spoil.  ``record_format``: the highest that it knows."""
        proxy = self.zookeeper_of[name] = await Proxy(self.hosts).start()
        config = NameserverConfig(
            name=name,
            cluster=self.name,
            zookeeper=proxy.hosts,
            session_timeout_s=SESSION_TIMEOUT_S,
            admin_port=-1,
        )
        runtime = Runtime(config=config, log=structlog.get_logger(), record_format=record_format)
        role = Nameserver(config, runtime, controller)
        try:
            await role.start()
        except BaseException:
            await role.stop()
            raise
        self.nameservers[name] = role
        return role

    async def crash(self, name: str) -> None:
        """As kill -9 looks from outside."""
        role = self.retire(name)
        self.zookeeper_of[name].cut()
        await role._server.stop(0)
        if role.controller is not None:
            await role.controller.close()

    def retire(self, name: str) -> Nameserver:
        """Counts no more, and is stopped with the cluster."""
        role = self.nameservers.pop(name)
        self._retired.append(role)
        return role

    async def start(self, nameservers: int = 1, datanodes: int = 0, brokers: int = 0) -> Cluster:
        await asyncio.gather(*(self.nameserver(f"ns{i + 1}") for i in range(nameservers)))
        await self.leader()
        for i in range(datanodes):
            await self.datanode(f"dn{i + 1}")
        for i in range(brokers):
            await self.broker(f"br{i + 1}")
        if datanodes:
            await self.stores_ready(datanodes)
        return self

    async def stores_ready(self, count: int) -> None:
        """Every nameserver knows ``count`` stores that may be given replicas, and what each of them holds."""

        def ready() -> bool:
            return all(
                len(ns.view.current.catalog.placeable_stores) == count
                and sum(r.connected for r in ns.view.current.reports.values()) == count
                for ns in self.nameservers.values()
            )

        await eventually(ready, describe=self.describe)

    async def datanode(self, name: str, state: str = "ready", rack: str = "") -> InMemoryDatanode:
        datanode = self.datanodes[name] = InMemoryDatanode(self.hosts, self.name, name, self.groups)
        return await datanode.start(self.client(), state, rack)

    async def broker(self, name: str, state: str = "ready", rates: Mapping[str, float] | None = None) -> StandingBroker:
        broker = self.brokers[name] = StandingBroker(self.hosts, self.name, name)
        broker.rates = rates
        return await broker.start(state)

    async def leader(self, other_than: str = "") -> Nameserver:
        """The nameserver that leads, its controller open."""

        def leading() -> Nameserver | None:
            for name, role in self.nameservers.items():
                if name != other_than and role.controller is not None and role.controller.is_open:
                    return role
            return None

        return await eventually(leading, within_s=15, describe=self.describe)  # type: ignore[return-value]

    # --- asking -----------------------------------------------------------------------------------------------------

    def client(self, *names: str) -> NameserverClient:
        async def endpoints() -> list[str]:
            return [ns.endpoint for n, ns in self.nameservers.items() if not names or n in names]

        return NameserverClient(self.channels, endpoints)

    async def ask(self, method: str, request: Any, *, of: str = "", timeout_s: float = 20) -> Any:
        return await self.client(*([of] if of else [])).call(method, request, timeout_s)

    async def create(
        self, topic: str, partitions: int = 4, replication: int = 3, **more: Any
    ) -> pb.CreateTopicResponse:
        options = {k: more.pop(k) for k in ("of", "timeout_s") if k in more}
        request = pb.CreateTopicRequest(topic=topic, partitions=partitions, replication=replication, **more)
        return await self.ask("CreateTopic", request, **options)  # type: ignore[no-any-return]

    async def delete(self, topic: str, **options: Any) -> None:
        await self.ask("DeleteTopic", pb.DeleteTopicRequest(topic=topic), **options)

    async def lookup(self, topic: str, of: str = "") -> pb.LookupResponse:
        return await self.ask("Lookup", pb.LookupRequest(topic=topic), of=of)  # type: ignore[no-any-return]

    async def metadata(self) -> MetadataStore:
        """ZooKeeper itself, as somebody with zkCli sees it."""
        if self._session is None:
            self._session = Session(self.hosts, self.name, SESSION_TIMEOUT_S)
            await self._session.start(20)
        return MetadataStore(self._session)

    def describe(self) -> str:
        return "\n".join(
            f"{n}: leads={ns.controller is not None} synced={ns.view.synced} {ns.view.current.catalog}"
            for n, ns in self.nameservers.items()
        )

    async def stop(self) -> None:
        for proxy in self.zookeeper_of.values():
            proxy.restore()
        members = [*self.brokers.values(), *self.datanodes.values()]
        roles = [*self.nameservers.values(), *self._retired]
        await asyncio.gather(*(m.stop() for m in members))
        await asyncio.gather(*(role.stop() for role in roles))
        await self.channels.close()
        if self._session is not None:
            await self._session.close()
        for proxy in self.zookeeper_of.values():
            await proxy.stop()
