"""The ready gate and what the admin port shows of it."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from prometheus_client import Counter

from stele.services.errors import InvalidConfig, PortTaken
from stele.services.metrics import AdminServer, new_registry
from stele.services.ready import ReadyGate


async def test_the_gate_is_open_exactly_while_every_condition_holds() -> None:
    gate = ReadyGate()
    gate.add("registered")
    gate.add("loaded", detail="0/2")
    waiting = asyncio.create_task(gate.wait())
    registered = asyncio.create_task(gate.wait("registered"))
    gate.set("registered", True)
    await asyncio.wait_for(registered, 1)
    assert not gate.is_open
    assert not waiting.done()
    gate.set("loaded", True, detail="2/2")
    assert gate.is_open
    await asyncio.wait_for(waiting, 1)
    gate.set("registered", False)
    assert not gate.is_open
    assert gate.verbose() == [("registered", False, ""), ("loaded", True, "2/2")]


async def test_a_gate_that_closed_again_before_the_waiter_ran_keeps_it_waiting() -> None:
    gate = ReadyGate()
    gate.add("session")
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    gate.set("session", True)
    gate.set("session", False)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    gate.set("session", True)
    await asyncio.wait_for(waiting, 1)


def test_draining_closes_for_good() -> None:
    gate = ReadyGate()
    seen: list[bool] = []
    gate.subscribe(lambda g: seen.append(g.is_open))
    gate.set("a", True)
    gate.drain()
    gate.set("a", True)
    assert seen == [True, False, False]
    assert ("not-draining", False, "shutting down") in gate.verbose()


async def test_admin_port() -> None:
    gate, registry, started = ReadyGate(), new_registry(), [False]
    Counter("stele_things", "Things", registry=registry).inc(3)
    gate.add("loaded", detail="loaded 12/40")
    gate.add("registered")
    admin = AdminServer("127.0.0.1", 0, registry, gate, lambda: started[0])
    port = await admin.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

            async def get(path: str) -> tuple[int, str]:
                async with http.get(path) as answer:
                    return answer.status, await answer.text()

            assert await get("/livez") == (200, "ok\n")
            assert await get("/readyz") == (503, "not ready: started, loaded, registered\n")
            gate.set("registered", True)
            status, text = await get("/readyz?verbose")
            assert status == 503
            assert text.splitlines() == [
                "[-]started not yet",
                "[-]loaded loaded 12/40",
                "[+]registered ok",
                "readyz check failed",
            ]
            gate.set("loaded", True, detail="loaded 40/40")
            started[0] = True
            assert await get("/readyz") == (200, "ok\n")
            assert (await get("/readyz?verbose"))[1].splitlines()[-1] == "readyz check passed"
            status, text = await get("/metrics")
            assert status == 200
            assert "stele_things_total 3.0" in text
            assert "process_open_fds" in text
            assert (await get("/elsewhere"))[0] == 404
    finally:
        await admin.stop()


async def test_a_taken_admin_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} is in use"):
            await AdminServer("127.0.0.1", port, new_registry(), ReadyGate()).start()


async def test_an_address_that_is_not_ours_is_not_called_taken() -> None:
    with pytest.raises(InvalidConfig, match="not an address of this machine"):
        await AdminServer("192.0.2.1", 0, new_registry(), ReadyGate()).start()
