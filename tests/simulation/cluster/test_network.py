"""What the simulated network does to calls: the same as the real one does in tests/integration/rpc/test_channels.py, and what no test can
do to a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stele.services.rpc.channels import KEEPALIVE_TIME_MS, PING_TIMEOUT_MS
from tests.integration.rpc.scripted import Stage
from tests.simulation.cluster.rpc.alone import Alone
from tests.simulation.cluster.rpc.network import Node
from tests.simulation.cluster.rpc.transport import SimulatedTransport

NOTICED_S = (KEEPALIVE_TIME_MS + PING_TIMEOUT_MS) / 1000 + 0.5


class Pair:
    """A client on ``a`` and a server on ``b``."""

    def __init__(self, seed: int) -> None:
        self.world = Alone(seed)
        self.network = self.world.network
        self.a, self.b = self.world.node("a"), self.world.node("b")
        self.client = Stage(SimulatedTransport(self.a), "a")
        self.server = Stage(SimulatedTransport(self.b), "b")

    def run(self, scenario: Callable[[Pair], Awaitable[None]]) -> None:
        self.world.run(self.b, self.server.serve)
        self.client.endpoint = self.server.endpoint
        self.world.run(self.a, lambda: scenario(self))
        assert not self.world.unhandled

    @property
    def now(self) -> float:
        return self.world.scheduler.now

    async def waiting_call(self) -> object:
        call = self.client.talk()
        await call.write(b"echo:a")
        assert await call.read() == b"a"
        return call

    async def noticed(self, call: object, within_s: float) -> None:
        began = self.now
        await self.client.see("read", call.read())  # type: ignore[attr-defined]
        assert self.client.seen == [("read", "UNAVAILABLE", "CONNECTION_BROKEN", False, "")]
        assert self.now - began <= within_s


async def a_killed_peer_is_noticed_at_once(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.b.end()
    await pair.noticed(call, 0.1)
    await pair.client.see("connected", pair.client.channels.connected(pair.client.endpoint, 5))
    assert pair.client.seen[1] == ("UNREACHABLE", True) or pair.client.seen[1][1:] == ("UNREACHABLE", True)  # type: ignore[index]


async def a_machine_without_power_is_noticed_by_pings(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.network.dark.add("b")
    pair.b.end(silently=True)
    await pair.noticed(call, NOTICED_S)


async def a_frozen_peer_is_noticed_by_pings(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.b.freeze()
    await pair.noticed(call, NOTICED_S)


async def a_peer_whose_loop_alone_stands_still_is_waited_for(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.b.loop.pause()
    await call.write(b"echo:late")  # type: ignore[attr-defined]
    pair.world.scheduler.after(20.0, pair.b.loop.resume)
    began = pair.now
    assert await call.read() == b"late"  # type: ignore[attr-defined]
    assert pair.now - began > 19


async def one_direction_is_lost(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.network.cut_direction("a", "b")
    await pair.noticed(call, NOTICED_S)


async def the_other_direction_is_lost(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.network.cut_direction("b", "a")
    await pair.noticed(call, NOTICED_S)
    await pair.client.see("connected", pair.client.channels.connected(pair.client.endpoint, 5))
    assert pair.client.seen[1] == ("connected", "UNREACHABLE", True)


async def a_short_cut_delays_and_loses_nothing(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.network.cut_direction("a", "b")
    for number in range(5):
        await call.write(b"echo:%d" % number)  # type: ignore[attr-defined]
    pair.world.scheduler.after(1.0, pair.network.heal_direction, "a", "b")
    began = pair.now
    for number in range(5):
        assert await call.read() == b"%d" % number  # type: ignore[attr-defined]
    assert pair.now - began >= 1.0


async def the_server_learns_that_its_client_is_gone(pair: Pair) -> None:
    call = await pair.waiting_call()
    await call.write(b"wait")  # type: ignore[attr-defined]
    pair.network.cut_direction("a", "b")
    pair.network.cut_direction("b", "a")
    await asyncio.sleep(0)

    async def watch() -> None:
        await asyncio.sleep(11)

    await watch()
    assert pair.server.script.seen[-1] in ("cancelled", "EOF")


async def connections_break_and_are_dialled_again(pair: Pair) -> None:
    call = await pair.waiting_call()
    pair.network.break_connections("a", "b")
    await pair.noticed(call, 0.1)
    await pair.client.channels.connected(pair.client.endpoint, 5)
    assert await pair.client.once(b"hello", timeout=5) == b"hello"


async def whoever_dials_a_frozen_process_waits(pair: Pair) -> None:
    pair.b.freeze()
    began = pair.now
    await pair.client.see("connected", pair.client.channels.connected(pair.client.endpoint, 5))
    assert pair.client.seen == [("connected", "UNREACHABLE", True)] or pair.client.seen == [("UNREACHABLE", True)]
    assert 0.5 < pair.now - began <= 5


async def a_port_is_asked_for(pair: Pair) -> None:
    channels, endpoint = pair.client.channels, pair.client.endpoint
    await channels.knock(endpoint)
    with pytest.raises(ConnectionRefusedError):
        await channels.knock("b:1")
    pair.b.freeze()
    await channels.knock(endpoint)
    pair.b.end()
    with pytest.raises(ConnectionRefusedError):
        await channels.knock(endpoint)
    pair.network.dark.add("b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await channels.knock(endpoint)


@pytest.mark.parametrize(
    "scenario",
    [
        a_killed_peer_is_noticed_at_once,
        a_machine_without_power_is_noticed_by_pings,
        a_frozen_peer_is_noticed_by_pings,
        a_peer_whose_loop_alone_stands_still_is_waited_for,
        one_direction_is_lost,
        the_other_direction_is_lost,
        a_short_cut_delays_and_loses_nothing,
        the_server_learns_that_its_client_is_gone,
        connections_break_and_are_dialled_again,
        whoever_dials_a_frozen_process_waits,
        a_port_is_asked_for,
    ],
    ids=lambda s: s.__name__,
)
def test_faults(scenario: Callable[[Pair], Awaitable[None]]) -> None:
    for seed in range(5):
        Pair(seed).run(scenario)


def test_the_same_seed_gives_the_same_frames() -> None:
    def frames(seed: int) -> list[object]:
        pair = Pair(seed)
        seen: list[object] = []
        pair.network.carried = lambda end, frame, at: seen.append((pair.now, end.node.host, frame[:2], at))
        pair.run(connections_break_and_are_dialled_again)
        return seen

    assert frames(1) == frames(1)
    assert frames(1) != frames(2)


def test_a_node_of_a_world() -> None:
    """Ports are a process's own, and free again when it is gone."""
    world = Alone()
    node: Node = world.node("h")
    first, second = node.reserve(0), node.reserve(0)
    assert first != second
    node.end()
    assert not node.ports
