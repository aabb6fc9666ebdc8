"""Versions side by side, on real processes: a cluster that was made by an older one, its upgrade, and the older one that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import ClusterRecord
from stele.services.coordination.schema import CLUSTER
from stele.services.coordination.session import Session
from tests.fault.explained import COMMAND
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=2, datanodes=1, brokers=1)
TOPIC = "demo/t"


async def command(cluster: ClusterUnderTest, *words: str, status: int = 0) -> str:
    """What the command prints, as one line."""
    line = [COMMAND, *words, "--dir", str(cluster.local.directory)]
    ran = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=120)
    assert ran.returncode == status, f"{line}: {ran.returncode} {ran.stdout} {ran.stderr}"
    return " ".join((ran.stdout + ran.stderr).split())


@contextlib.asynccontextmanager
async def tree(cluster: ClusterUnderTest) -> AsyncIterator[MetadataStore]:
    session = Session(cluster.local.zookeeper_hosts, cluster.local.files.load().cluster, 4.0)
    await session.start(20)
    try:
        yield MetadataStore(session)
    finally:
        await session.close()


class OlderProcess:
    def __init__(self, cluster: ClusterUnderTest, role: str, name: str) -> None:
        self.name = name
        self._command = [
            sys.executable,
            "-m",
            "tests.support.older_process",
            role,
            "--name",
            name,
            "--session-timeout-s",
            "2",
        ]
        self._command += ["--zookeeper", cluster.local.zookeeper_hosts, "--cluster", cluster.local.files.load().cluster]
        self.running: asyncio.subprocess.Process

    async def start(self) -> OlderProcess:
        self.running = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        return self

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.running.kill()
        await self.running.wait()

    async def refused(self) -> list[str]:
        """What it says as it ends."""
        await self.start()
        _, said = await asyncio.wait_for(self.running.communicate(), 30)
        assert self.running.returncode == 1
        return [line for line in said.decode().splitlines() if not line.startswith("{")]


async def test_an_upgrade_with_older_processes_that_stay_go_and_come_back(cluster: ClusterUnderTest) -> None:
    async with tree(cluster) as metadata, cluster.connect(timeout_s=30) as client:
        known = await metadata.get(CLUSTER, ClusterRecord)
        assert known is not None
        assert known.record.format == 2, "a new cluster begins at the newest"
        # As a version left it that knew no other.
        await metadata.set(CLUSTER, replace(known.record, format=1), known.version)
        older = [
            await OlderProcess(cluster, "nameserver", "ns9").start(),
            await OlderProcess(cluster, "broker", "br9").start(),
        ]
        try:

            async def joined() -> bool:
                return {"ns9"} <= {n.name for n in await client.admin.list_nameservers()} and {"br9"} <= {
                    b.name for b in await client.admin.list_brokers() if b.live
                }

            await eventually(joined, within_s=30, describe=cluster.describe)
            # They are used as all others are.
            await client.admin.create_topic(TOPIC, partitions=4, replication=1)
            async with client.producer(TOPIC) as producer:
                for n in range(16):
                    await producer.send(b"%d" % n, partition=n % 4)
            said = await command(cluster, "topic", "alter", TOPIC, "--partitions", "8", status=1)
            assert "growing_to in topics/demo/t takes record format 2, and the cluster is at 1" in said
            assert "`stele cluster finalize-upgrade`" in said
            assert "record format 1; its processes know 2" in await command(cluster, "cluster", "status")
            said = await command(cluster, "cluster", "finalize-upgrade", "--dry-run", status=1)
            assert "the cluster stays at record format 1 because of br9, ns9" in said
            said = await command(cluster, "cluster", "finalize-upgrade", "--yes", status=1)
            assert "br9 knows 1 and not 2: start it from the version that the others run; ns9 knows 1 and not 2" in said
            for process in older:
                await process.kill()
            said = await command(cluster, "cluster", "finalize-upgrade", "--yes", status=1)
            assert "br9" in said, "while its session lasts, and after"

            async def gone() -> bool:
                return not await metadata.session.exists("names/ns9/live") and not await metadata.session.exists(
                    "names/br9/live"
                )

            await eventually(gone, within_s=30)
            said = await command(cluster, "cluster", "finalize-upgrade", "--yes", status=1)
            assert "br9 is not registered: start it, or `stele metadata names rm` its name" in said
            await command(cluster, "metadata", "names", "rm", "ns9", "--yes")
            await command(cluster, "metadata", "names", "rm", "br9", "--yes")
            said = await command(cluster, "cluster", "finalize-upgrade", "--yes")
            assert "the cluster is at record format 2 now, after 1" in said
            await command(cluster, "topic", "alter", TOPIC, "--partitions", "8", "--wait")
            assert (await client.admin.describe_topic(TOPIC)).partitions == 8
            for process in older:
                assert await process.refused() == [
                    f"stele-{'nameserver' if process.name == 'ns9' else 'broker'}: the cluster is at record format 2, and this version "
                    "knows 1; start it from the version that the other processes run, or a later one"
                ]
            async with client.consumer(TOPIC, "s", type="exclusive") as consumer:
                got = [await consumer.receive(10) for _ in range(16)]
            assert {m.value for m in got if m is not None} == {b"%d" % n for n in range(16)}
        finally:
            for process in older:
                await process.kill()
