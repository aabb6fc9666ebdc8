from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.support.zookeeper import Sessions, unique_cluster_name


@pytest.fixture
async def sessions(zk_hosts: str) -> AsyncIterator[Callable[[], Sessions]]:
    """Each call: a fresh cluster, so that a scenario can run twice."""
    async with AsyncExitStack() as stack:
        yield lambda: Sessions(zk_hosts, unique_cluster_name(), stack)
