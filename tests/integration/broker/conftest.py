from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.broker.cluster import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(partitions=2) as cluster:
        yield cluster
