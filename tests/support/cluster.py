"""A local cluster in a test: ``await cluster.kill("dn2")``.

Usage, once per file::

    cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=2)

    async def test_something(cluster: ClusterUnderTest) -> None:
        async with cluster.connect() as client: ...

The cluster is shared by the tests of a file; each begins with every process running.  When a test fails, the state and the end of every
log are printed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import stele
from stele.health import judge
from stele.local.cluster import LocalCluster
from stele.local.processes import ProcessState
from stele.local.state import ClusterSpec
from tests.support.eventually import eventually

LOG_LINES = 40
HEALTHY_S = 60.0


class ClusterUnderTest:
    """The asynchronous face of a LocalCluster."""

    def __init__(self, local: LocalCluster) -> None:
        self.local = local

    @property
    def bootstrap(self) -> str:
        return self.local.bootstrap

    def connect(self, **settings: Any) -> stele.Client:
        return stele.connect(self.bootstrap, **settings)

    async def up(self) -> None:
        """Whatever was killed or paused runs again."""
        await asyncio.to_thread(self.local.up)

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        await asyncio.to_thread(self.local.kill, name, number)

    async def start(self, name: str, wait: bool = True) -> None:
        await asyncio.to_thread(self.local.start, name, wait)

    async def pause(self, name: str) -> None:
        await asyncio.to_thread(self.local.pause, name)

    async def resume(self, name: str) -> None:
        await asyncio.to_thread(self.local.resume, name)

    def describe(self) -> str:
        """State and the end of every log."""
        parts = [f"{p.name}: {p.state} ready={p.ready} {p.detail}" for p in self.local.status()]
        for name in self.local.names():
            path = self.local.log_path(name)
            lines = path.read_text(errors="replace").splitlines() if path.exists() else ["(no log)"]
            troubles = [line for line in lines[:-LOG_LINES] if '"error"' in line or '"warning"' in line]
            parts.append(f"--- {name} ---\n" + "\n".join((*troubles[-LOG_LINES:], *lines[-LOG_LINES:])))
        return "\n".join(parts)

    def is_whole(self) -> bool:
        return all(p.state == ProcessState.RUNNING for p in self.local.status())


def start_cluster(
    nameservers: int = 1,
    datanodes: int = 3,
    brokers: int = 2,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    env: Mapping[str, str] | None = None,
    zookeepers: int = 1,
) -> ClusterUnderTest:
    """A ready cluster in a directory of its own, under a short path; ``env``: what its processes find there besides."""
    directory = Path(tempfile.mkdtemp(prefix="cluster-under-test-", dir=os.environ.get("STELE_TEST_DIR") or None))
    whole = {k: v for k, v in os.environ.items() if k != "STELE_ZOOKEEPER"} | dict(env or {})
    cluster = ClusterUnderTest(LocalCluster(directory, whole))
    try:
        cluster.local.up(ClusterSpec(nameservers, datanodes, brokers, settings or {}, zookeepers))
    except BaseException:
        print(cluster.describe(), file=sys.stderr)
        remove_cluster(cluster)
        raise
    return cluster


def remove_cluster(cluster: ClusterUnderTest) -> None:
    if cluster.local.exists:
        cluster.local.destroy()
    shutil.rmtree(cluster.local.directory, ignore_errors=True)


def cluster_fixture(
    nameservers: int = 1,
    datanodes: int = 3,
    brokers: int = 2,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    zookeepers: int = 1,
) -> Callable[..., Any]:
    """A fixture that gives every test of a file the same cluster, whole at its begin."""

    @pytest.fixture(scope="module", name="running_cluster")
    def running() -> Iterator[ClusterUnderTest]:
        cluster = start_cluster(nameservers, datanodes, brokers, settings, zookeepers=zookeepers)
        try:
            yield cluster
        finally:
            remove_cluster(cluster)

    return running


@pytest.fixture
async def cluster(running_cluster: ClusterUnderTest, request: pytest.FixtureRequest) -> AsyncIterator[ClusterUnderTest]:
    """The file's cluster, with every process running and nothing left of the last test's faults."""
    if not running_cluster.is_whole():
        await running_cluster.up()
    async with running_cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=HEALTHY_S, every_s=0.1, describe=running_cluster.describe)
    failed_before = request.session.testsfailed
    yield running_cluster
    if request.session.testsfailed > failed_before:
        print(running_cluster.describe(), file=sys.stderr)


async def is_healthy(client: stele.Client) -> bool:
    admin = client.admin
    checks = judge(
        await admin.cluster(), await admin.list_stores(), await admin.list_brokers(), await admin.list_partitions()
    )
    problems = [f"{c.name}: {c.detail}" for c in checks if not c.ok]
    assert not problems, problems
    return True
