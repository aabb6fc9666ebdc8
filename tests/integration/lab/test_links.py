"""Links between processes are cut and healed with the system's own packet filter."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from stele.lab import links

DIALLER = """
import socket, sys
for line in sys.stdin:
    try:
        with socket.create_connection(("127.0.0.1", int(line)), timeout=1) as s:
            print(s.recv(2).decode(), flush=True)
    except OSError:
        print("cut", flush=True)
"""

pytestmark = pytest.mark.skipif(bool(links.obstacle()), reason=links.obstacle() or "-")


class Dialler:
    """A process that dials a port when told to, and says what it got."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def dial(self, port: int) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{port}\n".encode())
        return (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode().strip()


@pytest.fixture
async def ports() -> AsyncIterator[list[int]]:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok")
        writer.close()

    servers = [await asyncio.start_server(greet, "127.0.0.1", 0) for _ in range(2)]
    yield [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()


async def test_a_cut_is_between_one_process_and_one_port(ports: list[int]) -> None:
    async def start() -> Dialler:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        return Dialler(await asyncio.create_subprocess_exec(sys.executable, "-c", DIALLER, **pipes))

    diallers = {"a": await start(), "b": await start()}
    cutter = links.ProcessLinks(f"test-{diallers['a'].process.pid}")
    try:
        for name, dialler in diallers.items():
            cutter.follow(name, dialler.process.pid)
        assert [await d.dial(p) for d in diallers.values() for p in ports] == ["ok"] * 4
        cutter.cut("a", ports[:1])
        assert [await d.dial(p) for d in diallers.values() for p in ports] == ["cut", "ok", "ok", "ok"]
        cutter.heal()
        assert await diallers["a"].dial(ports[0]) == "ok"
        cutter.cut("b", ports[1:], both_ways=False)
        assert [await d.dial(p) for d in diallers.values() for p in ports] == ["ok", "ok", "ok", "cut"]
    finally:
        cutter.close()
        for dialler in diallers.values():
            dialler.process.kill()
            await dialler.process.wait()
