"""The event loop stands still: kazoo's own threads must not keep what rests on the session for a process that does nothing any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient

from stele.services.clock import Clock
from stele.services.coordination.kazoo_client import LeaseClient, LeaseConnection
from stele.services.coordination.session import SessionState
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions

GONE_WITHIN_S = 12.0


@pytest.fixture
def observer(zk_hosts: str) -> Iterator[KazooClient]:
    """Another process, as it were: it has nothing to do with this one's event loop."""
    client = KazooClient(zk_hosts, timeout=60.0)
    client.start()
    yield client
    client.stop()
    client.close()


def stand_still(until: Callable[[], bool], within_s: float = GONE_WITHIN_S) -> bool:
    """Blocks the event loop; whether ``until`` became true meanwhile."""
    deadline = time.monotonic() + within_s
    while not until():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def test_p22_a_loop_that_stands_still_for_longer_than_the_timeout_loses_the_session(
    sessions: Callable[[], Sessions], observer: KazooClient
) -> None:
    async def scenario(connection: type[LeaseConnection]) -> None:
        def connect(hosts: str, timeout_s: float, clock: Clock) -> LeaseClient:
            return LeaseClient(hosts, timeout_s, clock, connection=connection)

        session = await sessions().open(connect=connect)
        await session.create("stores/mine", b"", ephemeral=True)
        path, former = session.full("stores/mine"), session.session_id
        assert observer.exists(path) is not None
        with promise("a process whose event loop stands still loses its session"):
            assert stand_still(lambda: observer.exists(path) is None)
        assert session.fenced  # at once, before anything else can happen on the loop
        await eventually(lambda: session.state is SessionState.CONNECTED and session.session_id != former)
        assert not session.fenced
        assert session.longest_stall_s > session.negotiated_timeout_s / 2

    await holds_and_mutant_fails(scenario, LeaseConnection, "members.PingsWhateverTheLoopDoes")


async def test_p22_a_shorter_stall_keeps_the_session(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open(timeout_s=6.0)
    await session.create("stores/mine", b"", ephemeral=True)
    for _ in range(2):
        stand_still(lambda: False, within_s=4.5)
        stat = await session.exists("stores/mine")
        assert stat is not None
        assert stat.ephemeral_owner == session.session_id
