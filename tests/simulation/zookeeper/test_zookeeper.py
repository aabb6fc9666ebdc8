"""What the simulated ZooKeeper does to its clients when it fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stele.services.coordination.mirror import Mirror
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.errors import CoordinationUnknown
from tests.simulation.loop import Latency, SimulatedLoop
from tests.simulation.scheduler import Scheduler
from tests.simulation.zookeeper.client import LoopClock, clients_of
from tests.simulation.zookeeper.ensemble import Ensemble
from tests.support.both_ways import holds_and_mutant_fails, promise

TIMEOUT_S = 4.0
SIMULATED_S = 600.0


class Client:
    """A process with one session, on a host of its own."""

    def __init__(self, ensemble: Ensemble, host: str) -> None:
        self.host, self._ensemble = host, ensemble
        self.failures: list[BaseException | str] = []
        rng = random.Random(host)
        self.loop = SimulatedLoop(
            ensemble.scheduler, rng, Latency(rng), lambda: None, self.failures.append, lambda: None, lambda: None
        )
        self._connect = clients_of(ensemble, self, rng)
        self.events: list[SessionEvent] = []

    async def beside(self, host: str) -> Session:
        """Another host's session, of the same process."""
        other = type("Process", (), {"host": host, "loop": self.loop})()
        session = Session(
            "zk",
            "simulated",
            TIMEOUT_S,
            LoopClock(self.loop),
            connect=clients_of(self._ensemble, other, random.Random(host)),
        )
        await session.start(timeout_s=TIMEOUT_S)
        return session

    async def open(self) -> Session:
        session = Session("zk", "simulated", TIMEOUT_S, LoopClock(self.loop), connect=self._connect)
        session.subscribe(self.events.append)
        await session.start(timeout_s=TIMEOUT_S)
        return session


def play(scenario: Callable[[Ensemble, Client], Coroutine[Any, Any, None]], servers: int = 1, seed: int = 1) -> None:
    scheduler = Scheduler()
    ensemble = Ensemble(scheduler, random.Random(seed), servers=servers)
    client = Client(ensemble, "client")
    playing = client.loop.create_task(scenario(ensemble, client))
    scheduler.run_until(SIMULATED_S, playing.done)
    assert not client.failures
    playing.result()


async def until(holds: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def states(client: Client) -> list[SessionState]:
    return [event.state for event in client.events]


def test_an_expired_session_is_lost_and_a_new_one_opened() -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        await session.create("stores/mine", b"", ephemeral=True)
        first = session.session_id
        ensemble.expire(first)
        await until(lambda: session.session_id != first and session.state is SessionState.CONNECTED)
        assert states(client) == [
            SessionState.CONNECTED,
            SessionState.SUSPENDED,
            SessionState.LOST,
            SessionState.CONNECTED,
        ]
        assert await session.exists("stores/mine") is None

    play(scenario)


@pytest.mark.parametrize(("stall_s", "lost"), [(0.9 * TIMEOUT_S, False), (3 * TIMEOUT_S, True)])
@pytest.mark.parametrize("seed", range(5))
def test_p22_a_session_lives_no_longer_than_the_loop_turns(stall_s: float, lost: bool, seed: int) -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session, loop = await client.open(), client.loop
        await session.create("stores/mine", b"", ephemeral=True)
        first, left = session.session_id, []

        def stall() -> None:
            loop.stalled = True  # type: ignore[attr-defined]
            loop.pause()

        def resume() -> None:
            left.append(first in ensemble.sessions)
            loop.stalled = False  # type: ignore[attr-defined]
            loop.resume()

        ensemble.scheduler.after(1.0 + seed / 3, stall)
        ensemble.scheduler.after(1.0 + seed / 3 + stall_s, resume)
        await until(lambda: left)
        assert left == [not lost]
        await until(lambda: session.state is SessionState.CONNECTED and not session.fenced)
        await asyncio.sleep(TIMEOUT_S)
        assert (session.session_id != first) is lost
        assert (SessionState.LOST in states(client)) is lost

    play(scenario, seed=seed)


@pytest.mark.parametrize(("when", "effect"), [("before", False), ("after", True)])
def test_a_connection_is_lost_before_or_after_the_effect(when: str, effect: bool) -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        ensemble.lose_connection("client", when)
        with pytest.raises(CoordinationUnknown):
            await session.create("stores/mine", b"")
        assert (await session.exists("stores/mine") is not None) is effect

    play(scenario)


@pytest.mark.parametrize("servers", [1, 3])
def test_a_session_outlives_a_restart_of_the_servers(servers: int) -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        await session.create("stores/mine", b"", ephemeral=True)
        first = session.session_id
        for server in ensemble.servers:
            ensemble.stop(server)
        await asyncio.sleep(2 * TIMEOUT_S)
        assert session.fenced
        for server in ensemble.servers:
            ensemble.start(server)
        assert await session.exists("stores/mine") is not None
        assert session.session_id == first

    play(scenario, servers)


def test_a_client_that_is_cut_off_is_fenced_before_its_session_expires() -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        await session.create("stores/mine", b"", ephemeral=True)
        known = session.session_id
        for silent in (ensemble.cut, ensemble.silenced):
            silent["client"] = None
            await until(lambda: session.fenced or not ensemble.sessions)
            assert known in ensemble.sessions, "fenced first"
            silent.clear()
            await until(lambda: session.state is SessionState.CONNECTED and not session.fenced)
            known = session.session_id

    play(scenario)


def test_a_client_that_has_seen_more_is_turned_away_until_the_servers_have_caught_up() -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        before = len(ensemble.log)
        for number in range(20):
            await session.create(f"stores/{number}", b"")
        ensemble.roll_back(before)
        with pytest.raises(CoordinationUnknown):
            await session.exists("stores/1", timeout_s=20.0)
        other = await client.beside("other")
        for number in range(30):
            await other.create(f"stores/{number}", b"new")
        assert (await session.get("stores/1", timeout_s=20.0)) is not None
        await other.close()

    play(scenario)


def test_a_slow_follower_shows_the_past_until_it_is_asked_to_catch_up() -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        writer, behind = await client.open(), 0
        readers = [await client.beside(f"reader {number}") for number in range(6)]
        ensemble.lag_s = 0.1
        for number in range(20):
            await writer.create(f"stores/{number}", b"")
            for reader in readers:
                behind += await reader.exists(f"stores/{number}") is None
                await reader.sync()
                assert await reader.exists(f"stores/{number}") is not None
        assert behind

    play(scenario, servers=3)


def test_p21_a_fault_while_a_copy_is_read_ends_no_copy() -> None:
    class Stumbles(Mirror):
        stumbles = False

        async def _read(self, roots: set[str], whole: bool) -> Any:
            if self.stumbles:
                self.stumbles = False
                raise RuntimeError("of our own")
            return await super()._read(roots, whole)

    async def scenario(ensemble: Ensemble, client: Client) -> None:
        session = await client.open()
        mirror = Stumbles(session, "topics", 2)
        await mirror.start()
        mirror.stumbles = True
        await session.create("topics/shop", b"")
        await until(lambda: client.failures)
        assert not mirror.synced  # until it is whole again
        await until(lambda: mirror.synced and mirror.snapshot.get("topics/shop"))
        assert [str(failure) for failure in client.failures] == ["of our own"]
        client.failures.clear()
        await mirror.stop()

    play(scenario)


async def a_node_comes_back_while_the_copy_is_read(mirror_type: type[Mirror]) -> None:
    async def scenario(ensemble: Ensemble, client: Client) -> None:
        writer, reader = await client.open(), await client.beside("reader")
        await writer.create("topics/shop", b"")
        mirror = mirror_type(reader, "topics", 2)
        await mirror.start()
        for number in range(100):
            value = b"%d" % number
            await writer.create("topics/shop/orders", value)
            with promise("a path that vanishes and comes back is followed again"):
                await until(lambda v=value: (n := mirror.snapshot.get("topics/shop/orders")) and n.value == v)  # type: ignore[misc]
            await writer.delete("topics/shop/orders")
        await mirror.stop()

    play(scenario)


async def test_a_node_that_comes_back_while_the_copy_is_read_is_followed() -> None:
    await holds_and_mutant_fails(a_node_comes_back_while_the_copy_is_read, Mirror, "mirror.OverlooksReturns")
