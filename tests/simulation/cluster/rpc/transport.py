"""The product's ``Transport`` on a simulated node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stele.services.errors import PortTaken
from tests.simulation.cluster.rpc.client import SimulatedChannel
from tests.simulation.cluster.rpc.network import Node
from tests.simulation.cluster.rpc.server import SimulatedServer


class _Reserved:
    def __init__(self, node: Node, port: int) -> None:
        self._node = node
        self.number = port

    def close(self) -> None:
        if self._node.ports.get(self.number, self) is None:  # a server may have it by now
            self._node.release(self.number)


class SimulatedTransport:
    """What a process on ``node`` has of the network."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def channel(self, endpoint: str, credentials: Any, options: Sequence[tuple[str, Any]]) -> SimulatedChannel:
        return SimulatedChannel(self._node, endpoint, options)

    def server(self, interceptors: Sequence[Any], options: Sequence[tuple[str, Any]]) -> SimulatedServer:
        return SimulatedServer(self._node, interceptors, options)

    def reserve(self, host: str, port: int, *, setting: str = "port") -> _Reserved:
        try:
            return _Reserved(self._node, self._node.reserve(port))
        except OSError:
            raise PortTaken(f"{host}:{port} is taken", endpoint=f"{host}:{port}") from None

    async def knock(self, endpoint: str) -> None:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def heard(listens: bool) -> None:
            if not answer.done():
                answer.set_result(not listens)

        self._node.network.knock(self._node, endpoint, heard)
        if await answer:
            raise ConnectionRefusedError(endpoint)
