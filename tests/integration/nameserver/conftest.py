"""A cluster per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.nameserver.cluster import Cluster


@pytest.fixture
async def cluster(zk_hosts: str, cluster_name: str) -> AsyncIterator[Cluster]:
    made = Cluster(zk_hosts, cluster_name)
    try:
        yield made
    finally:
        await made.stop()
