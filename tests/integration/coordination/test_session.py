"""The session: states, fencing by its own clock, and requests that always end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from stele.local.zookeeper import ZooKeeperServer
from stele.services.coordination.kazoo_client import LeaseConnection
from stele.services.coordination.schema import PARENTS
from stele.services.coordination.session import INFLIGHT_MAX, Session, SessionEvent, SessionState
from stele.services.errors import CoordinationUnknown, CoordinationUnreachable
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions, connecting_by, end_session, frozen, open_session


async def test_the_tree_is_there_and_the_cluster_has_one_id(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    started = await asyncio.gather(*(cluster.open() for _ in range(8)))
    assert len({session.cluster_id for session in started}) == 1
    assert started[0].cluster_id
    for path in ("epoch", *PARENTS):
        assert await started[0].exists(path) is not None, path


async def test_unreachable_at_start_is_one_clear_error(cluster_name: str) -> None:
    session = Session("127.0.0.1:1", cluster_name, 2.0)
    with pytest.raises(CoordinationUnreachable) as unreachable:
        await session.start(timeout_s=0.5)
    assert unreachable.value.facts == {"zookeeper": "127.0.0.1:1"}
    assert "127.0.0.1:1" in str(unreachable.value)


async def test_a_server_that_answers_nothing_at_start(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    with frozen(own_zookeeper), pytest.raises(CoordinationUnreachable):
        await Session(own_zookeeper.hosts, cluster_name, 2.0).start(timeout_s=0.5)


async def test_expiry_by_the_server(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open()
    events: list[SessionEvent] = []
    session.subscribe(events.append)
    first = session.session_id
    await end_session(session)
    await eventually(lambda: session.session_id != first and session.state is SessionState.CONNECTED)
    assert [e.state for e in events] == [SessionState.SUSPENDED, SessionState.LOST, SessionState.CONNECTED]
    assert events[1].fenced
    assert events[2].new_session
    assert not session.fenced


async def test_fenced_before_the_server_can_expire_it(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    """The server stands still and says nothing: kazoo would report no loss until it is back."""
    async with open_session(own_zookeeper.hosts, cluster_name, 2.0) as session:
        events: list[SessionEvent] = []
        session.subscribe(events.append)
        await session.exists("cluster")
        before = time.monotonic()
        with frozen(own_zookeeper):
            await eventually(lambda: session.fenced, within_s=10)
            assert time.monotonic() - before < session.negotiated_timeout_s
            with pytest.raises(CoordinationUnknown):
                await session.exists("cluster", timeout_s=0.2)
            await eventually(lambda: any(e.fenced for e in events), within_s=10)
        await eventually(lambda: session.state is SessionState.CONNECTED and not session.fenced, within_s=20)


async def test_a_restart_of_zookeeper_keeps_the_session(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    async with open_session(own_zookeeper.hosts, cluster_name, 5.0) as session:
        await session.create("stores/ephemeral", b"", ephemeral=True)
        first = session.session_id
        await own_zookeeper.async_restart()
        stat = await session.exists("stores/ephemeral", timeout_s=15)
        assert session.session_id == first
        assert stat is not None
        assert stat.ephemeral_owner == first


async def test_requests_end_and_stay_bounded_while_the_server_is_frozen(
    own_zookeeper: ZooKeeperServer, cluster_name: str
) -> None:
    async with open_session(own_zookeeper.hosts, cluster_name, 3.0) as session:
        with frozen(own_zookeeper):
            asked = [session.exists("cluster", timeout_s=0.3) for _ in range(4 * INFLIGHT_MAX)]
            outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), timeout=10)
            assert all(isinstance(outcome, CoordinationUnknown) for outcome in outcomes)
            assert len(session._client._queue) + len(session._client._pending) <= INFLIGHT_MAX
        await eventually(lambda: session.exists("cluster"), within_s=20)


async def test_the_server_clamps_the_timeout_and_the_session_knows(
    own_zookeeper: ZooKeeperServer, cluster_name: str
) -> None:
    async with open_session(own_zookeeper.hosts, cluster_name, 0.2) as session:
        assert session.negotiated_timeout_s == 1.0


async def test_closing_ends_the_events_and_the_ephemeral_nodes(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session, observer = await cluster.open(), await cluster.open()
    await session.create("stores/ephemeral", b"", ephemeral=True)
    seen = asyncio.create_task(collect(session))
    await asyncio.sleep(0)
    await session.close()
    assert [event.state for event in await asyncio.wait_for(seen, timeout=5)] == [SessionState.CLOSED]
    assert await observer.exists("stores/ephemeral") is None
    with pytest.raises(CoordinationUnknown):
        await session.exists("cluster")
    assert session.fenced


async def collect(session: Session) -> list[SessionEvent]:
    return [event async for event in session.events()]


async def test_servers_that_take_a_connection_and_stand_still_do_not_cost_the_session(
    sessions: Callable[[], Sessions],
) -> None:
    """The one that it is connected to is gone, and the next two that are dialled are silent; a third of the session's time is left at
    least, since silence is noticed after two thirds."""

    async def scenario(kind: type[LeaseConnection]) -> None:
        cluster = sessions()
        proxy = await cluster.proxy()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            hosts = [proxy.hosts, *(f"127.0.0.1:{silent.getsockname()[1]}" for silent in (one, other))]
            session = Session(",".join(hosts), cluster.cluster, 6.0, connect=connecting_by(kind))
            session._client.randomize_hosts = False
            await session.start(20)
            try:
                first = session.session_id
                proxy.cut()
                await eventually(lambda: session.state is SessionState.SUSPENDED)
                proxy.restore()
                with promise("servers that stand still leave a session the time to find another"):
                    await eventually(lambda: session.state is SessionState.CONNECTED, within_s=2.0)
                    assert session.session_id == first
            finally:
                await session.close()

    await holds_and_mutant_fails(scenario, LeaseConnection, "zookeepers.WaitsForTheSilent")
