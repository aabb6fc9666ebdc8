"""Whatever a caller says, it gets one typed error, the processes go on, and what was acknowledged stays: what such tests share.

Each begins with acknowledged messages and ends by reading all of them back.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable

import pytest

import stele
from stele.services.errors import (
    SteleError,
)
from stele.services.rpc.channels import Channels
from tests.support.cluster import ClusterUnderTest
from tests.support.ledger import Ledger

MESSAGES = 40
PARTITIONS = 2
_number = itertools.count(1)


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as connected:
        yield connected


@pytest.fixture
async def ledger(cluster: ClusterUnderTest, client: stele.Client) -> AsyncIterator[Ledger]:
    """Acknowledged messages, all of them read back after the test; no process has ended meanwhile, none met a fault of its own."""
    before = {p.name: p.pid for p in cluster.local.status()}
    topic = f"bad/t{next(_number)}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
    written = Ledger(client, topic, PARTITIONS)
    await written.must_send(MESSAGES)
    yield written
    await written.must_send(MESSAGES)
    await written.check()
    assert {p.name: p.pid for p in cluster.local.status()} == before, cluster.describe()
    assert faults(cluster) == []


def faults(cluster: ClusterUnderTest) -> list[str]:
    """What processes logged as faults of their own: every exception that nobody expected."""
    roles = [name for name in cluster.local.names() if name != "zk1"]
    lines = [line for name in roles for line in cluster.local.log_path(name).read_text(errors="replace").splitlines()]
    return [line[:2000] for line in lines if '"exception"' in line or "Traceback" in line]


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    opened = Channels()
    yield opened
    await opened.close()


async def refused(work: Awaitable[object], kind: type[SteleError], **facts: object) -> SteleError:
    """``work`` ends with exactly this error and these facts."""
    try:
        answer = await work
    except SteleError as error:
        check_error(error, kind, facts)
        return error
    raise AssertionError(f"{answer!r} instead of {kind.__name__}")


def check_error(error: SteleError | None, kind: type[SteleError], facts: dict[str, object]) -> None:
    assert type(error) is kind, f"{error!r} instead of {kind.__name__}"
    assert error.message
    assert "\n" not in error.message
    assert {k: error.facts.get(k) for k in facts} == {k: str(v) for k, v in facts.items()}
