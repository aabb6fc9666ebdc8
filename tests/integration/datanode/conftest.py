"""A cluster of datanodes for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.datanode.cluster import Cluster, cluster


@pytest.fixture
async def datanodes(tmp_path: Path, zk_hosts: str, cluster_name: str) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, zk_hosts, cluster_name) as made:
        yield made
