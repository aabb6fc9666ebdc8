"""Servers and channels that are closed after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from tests.integration.rpc.shapes import SERVICE, Shapes, add_shapes

Serve = Callable[[Shapes], Awaitable[str]]


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    opened = Channels()
    yield opened
    await opened.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def start(shapes: Shapes) -> str:
        server = Server("127.0.0.1", 0)
        server.add(add_shapes, shapes, SERVICE)
        servers.append(server)
        return f"127.0.0.1:{await server.start()}"

    yield start
    for server in servers:
        await server.stop()
