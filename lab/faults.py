"""What is done to a cluster of local processes, and to whom: the process that matters is found when the fault is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stele.client import Client
from stele.local.cluster import LocalCluster


@dataclass(frozen=True, slots=True)
class Fault:
    """``hit`` does it and returns the process's name; ``mend`` undoes it ``after_s`` later."""

    title: str
    hit: Callable[[], Awaitable[str]]
    mend: Callable[[str], Awaitable[str]]
    after_s: float


class Faults:
    """The faults of the demonstration, against the cluster that carries ``topic``."""

    def __init__(self, cluster: LocalCluster, client: Client, topic: str) -> None:
        self._cluster = cluster
        self._client = client
        self._topic = topic

    def all(self) -> list[Fault]:
        return [
            Fault("kill -9 the datanode that leads a partition", self._kill_leading_datanode, self._start, 5.0),
            Fault("kill -9 the broker that owns a partition", self._kill_owning_broker, self._start, 8.0),
            Fault("kill -9 the leading nameserver", self._kill_leading_nameserver, self._start, 6.0),
            Fault("pause a datanode for 5 s", self._pause_leading_datanode, self._resume, 5.0),
            Fault("kill -9 ZooKeeper", self._kill_zookeeper, self._start, 2.0),
        ]

    async def _kill_leading_datanode(self) -> str:
        return await self._kill(await self._leading_datanode())

    async def _pause_leading_datanode(self) -> str:
        name = await self._leading_datanode()
        await asyncio.to_thread(self._cluster.pause, name)
        return name

    async def _kill_owning_broker(self) -> str:
        partitions = await self._client.admin.list_partitions(self._topic)
        owners = [p.broker for p in partitions if p.broker]
        return await self._kill(max(set(owners), key=owners.count))

    async def _kill_leading_nameserver(self) -> str:
        for _ in range(100):
            leader = (await self._client.admin.cluster()).leader
            if leader:
                return await self._kill(leader)
            await asyncio.sleep(0.05)
        raise RuntimeError("no nameserver led for 5 s")

    async def _kill_zookeeper(self) -> str:
        return await self._kill("zk1")

    async def _leading_datanode(self) -> str:
        partitions = await self._client.admin.list_partitions(self._topic)
        stores = {s.store_id: s.name for s in await self._client.admin.list_stores()}
        led = [p.leader_store_id for p in partitions if p.leader_store_id]
        return stores[max(set(led), key=led.count)]

    async def _kill(self, name: str) -> str:
        await asyncio.to_thread(self._cluster.kill, name)
        return name

    async def _start(self, name: str) -> str:
        await asyncio.to_thread(self._cluster.start, name)
        return "started again, ready"

    async def _resume(self, name: str) -> str:
        await asyncio.to_thread(self._cluster.resume, name)
        return "resumed"
