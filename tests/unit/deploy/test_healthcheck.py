"""The health check of a container, against the health service that every process has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stele.services.ports import free_port
from stele.services.rpc.healthcheck import main, serving
from stele.services.rpc.servers import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server("127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop(0)


async def test_a_serving_process_is_healthy(server: Server) -> None:
    server.set_serving(True)
    assert await asyncio.to_thread(serving, f"127.0.0.1:{server.port}") is None


async def test_a_draining_process_is_not(server: Server) -> None:
    server.set_serving(True)
    server.set_serving(False)
    assert await asyncio.to_thread(serving, f"127.0.0.1:{server.port}") == f"127.0.0.1:{server.port}: NOT_SERVING"


async def test_the_port_of_a_container_is_the_default(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.set_serving(True)
    assert await asyncio.to_thread(main, [], {"STELE_PORT": str(server.port)}) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_port_is_unhealthy_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main([f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err.startswith(f"127.0.0.1:{port}: UNAVAILABLE")


async def test_a_silent_peer_is_unhealthy_within_the_timeout() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    trouble = await asyncio.to_thread(serving, f"127.0.0.1:{port}", 0.5)
    silent.close()
    assert trouble is not None


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1", "127.0.0.1:http"])
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(SystemExit) as refused:
        main([endpoint] if endpoint else [], {})
    assert refused.value.code == 2
