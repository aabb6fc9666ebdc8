"""ZooKeeper loses its data under processes that run: they say so, and none of them joins what is founded in its place (fault P3)."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable

import structlog

from stele.local.zookeeper import ZooKeeperServer, four_letters
from stele.services.coordination.kazoo_client import LeaseConnection
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.errors import ClusterMismatch, SteleError
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S, connecting_by, open_session, proxy_to


async def wipe(zookeeper: ZooKeeperServer) -> None:
    await zookeeper.async_stop()
    shutil.rmtree(zookeeper.directory / "data")
    await zookeeper.async_start()


def zxid(zookeeper: ZooKeeperServer) -> int:
    found = re.search(r"Zxid: 0x([0-9a-f]+)", four_letters(zookeeper.hosts, "srvr"))
    return int(found[1], 16) if found is not None else -1


async def pass_by(zookeeper: ZooKeeperServer, seen: int) -> None:
    """Transactions of others, until the server has more than ``seen``."""
    async with open_session(zookeeper.hosts, "others") as noise:
        await noise.ensure("noise")
        while await asyncio.to_thread(zxid, zookeeper) <= seen + 10:
            await asyncio.gather(*(noise.set("noise", b"x") for _ in range(50)))


async def scenario_of(zookeeper: ZooKeeperServer, cluster: str, founded: bool, kind: type[Session]) -> None:
    failures: list[SteleError] = []
    states: list[SessionState] = []

    def note(event: SessionEvent) -> None:
        states.append(event.state)

    session = kind(zookeeper.hosts, cluster, SESSION_TIMEOUT_S, on_mismatch=failures.append)
    await session.start(20)
    try:
        first = session.cluster_id
        for number in range(20):
            await session.ensure(f"names/n{number}")
        seen = await asyncio.to_thread(zxid, zookeeper)
        session.subscribe(note)
        with structlog.testing.capture_logs() as logged:
            await wipe(zookeeper)
            await eventually(lambda: "has forgotten" in session.problem, within_s=20)
            assert [e["event"] for e in logged].count("coordination_forgotten") == 1
        other = ""
        if founded:
            async with open_session(zookeeper.hosts, cluster) as founder:
                other = founder.cluster_id
        await pass_by(zookeeper, seen)
        await eventually(lambda: session.session_id and (failures or SessionState.CONNECTED in states), within_s=30)
        with promise("nothing is done in the tree of another cluster"):
            assert SessionState.CONNECTED not in states
            [failure] = failures
            assert isinstance(failure, ClusterMismatch)
            assert failure.facts == {"expected": first, "got": other}
    finally:
        await session.close()


async def test_p3_a_tree_that_is_gone_ends_the_process(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    async def scenario(kind: type[Session]) -> None:
        await scenario_of(own_zookeeper, cluster_name, False, kind)

    await holds_and_mutant_fails(scenario, Session, "members.BelievesAnyTree")


async def test_p3_another_cluster_in_the_same_place_ends_the_process(
    own_zookeeper: ZooKeeperServer, cluster_name: str
) -> None:
    await scenario_of(own_zookeeper, cluster_name, True, Session)


async def test_of_several_servers_all_have_to_say_that_it_is_forgotten(
    own_zookeeper: ZooKeeperServer, cluster_name: str
) -> None:
    """One that is behind the others for a moment, as one is that was started anew, says nothing about them."""

    async def scenario(kind: type[LeaseConnection]) -> None:
        async with proxy_to(own_zookeeper.hosts) as other:
            hosts = f"{own_zookeeper.hosts},{other.hosts}"
            session = Session(hosts, cluster_name, SESSION_TIMEOUT_S, connect=connecting_by(kind))
            await session.start(20)
            try:
                for number in range(20):
                    await session.ensure(f"names/n{number}")
                other.cut()
                with structlog.testing.capture_logs() as logged:
                    asked = count_asked(session)
                    await wipe(own_zookeeper)
                    await eventually(lambda: asked() >= 2, within_s=20)
                    with promise("a server that is behind the others says nothing about them"):
                        assert session.problem == ""
                        assert "coordination_forgotten" not in [e["event"] for e in logged]
                    other.restore()
                    await eventually(lambda: "has forgotten" in session.problem, within_s=20)
            finally:
                await session.close()

    await holds_and_mutant_fails(scenario, LeaseConnection, "zookeepers.TakesOneForAll")


def count_asked(session: Session) -> Callable[[], int]:
    """How often a server that closed the connection was asked how much it knows, and answered."""
    connection = session._client._connection
    ask, answers = connection.zxid_of_server, []

    def counted() -> int:
        held = ask()
        answers.extend([held] if held >= 0 else [])
        return held

    connection.zxid_of_server = counted
    return lambda: len(answers)
