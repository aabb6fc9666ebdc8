"""Nameservers as processes of their own: started, killed with -9, frozen, told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S


class Process:
    def __init__(self, name: str, hosts: str, cluster: str, folder: Path) -> None:
        self.name = name
        self._arguments = ["--name", name, "--zookeeper", hosts, "--cluster", cluster, "--admin-port", "-1"]
        self._run_file = folder / f"{name}.json"
        self._folder = folder
        self.endpoint = ""
        self.running: asyncio.subprocess.Process

    async def start(self) -> Process:
        """Started, not waited for."""
        self.running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stele.nameserver",
            *self._arguments,
            "--session-timeout-s",
            str(SESSION_TIMEOUT_S),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "STELE_RUN_FILE": str(self._run_file), "STELE_LOG_FORMAT": "json"},
        )
        return self

    async def ready(self) -> Process:
        def announced() -> str:
            return str(json.loads(self._run_file.read_text())["endpoint"]) if self._run_file.exists() else ""

        self.endpoint = await eventually(announced, within_s=40)
        return self

    async def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        await self.running.wait()
        self._run_file.unlink(missing_ok=True)

    async def end(self) -> None:
        if self.running.returncode is None:
            self.running.kill()
            await self.running.wait()


@asynccontextmanager
async def processes(hosts: str, cluster: str, folder: Path, *names: str) -> AsyncIterator[list[Process]]:
    started = [await Process(name, hosts, cluster, folder).start() for name in names]
    try:
        for process in started:
            await process.ready()
        yield started
    finally:
        for process in started:
            await process.end()


def client(channels: Channels, *among: Process) -> NameserverClient:
    return NameserverClient(channels, [p.endpoint for p in among])


async def leader_of(channels: Channels, *among: Process) -> Process:
    async def leading() -> Process | None:
        said = await client(channels, *among).call("GetCluster", pb.GetClusterRequest(), 5)
        return next((p for p in among if p.name == said.leader), None)

    return await eventually(leading, within_s=20)  # type: ignore[return-value]


async def test_a_killed_leader_is_succeeded_and_comes_back_under_its_name_at_once(
    zk_hosts: str, cluster_name: str, tmp_path: Path
) -> None:
    channels = Channels()
    async with processes(zk_hosts, cluster_name, tmp_path, "ns1", "ns2") as both:
        first = await leader_of(channels, *both)
        (second,) = [p for p in both if p is not first]
        await first.kill()
        await first.start()
        await first.ready()
        assert await leader_of(channels, second, first) in (first, second)
        request = pb.CreateNamespaceRequest(namespace="demo", if_absent=True)
        await client(channels, first, second).call("CreateNamespace", request, 20)
    await channels.close()


async def test_a_frozen_leader_is_succeeded_and_follows_when_it_wakes(
    zk_hosts: str, cluster_name: str, tmp_path: Path
) -> None:
    channels = Channels()
    async with processes(zk_hosts, cluster_name, tmp_path, "ns1", "ns2") as both:
        first = await leader_of(channels, *both)
        (second,) = [p for p in both if p is not first]
        first.running.send_signal(signal.SIGSTOP)
        assert await leader_of(channels, second) is second
        await client(channels, second).call("CreateNamespace", pb.CreateNamespaceRequest(namespace="demo"), 20)
        first.running.send_signal(signal.SIGCONT)

        async def follows() -> bool:
            said = await client(channels, first).call("GetCluster", pb.GetClusterRequest(), 5)
            listed = await client(channels, first).call("ListNamespaces", pb.ListNamespacesRequest(), 5)
            return said.leader == second.name and [n.namespace for n in listed.namespaces] == ["demo"]

        await eventually(follows, within_s=20)
        await client(channels, first).call("CreateNamespace", pb.CreateNamespaceRequest(namespace="more"), 20)
    await channels.close()


async def test_a_nameserver_ends_with_one_line_where_its_name_is_taken_and_with_0_when_told_to(
    zk_hosts: str, cluster_name: str, tmp_path: Path
) -> None:
    async with processes(zk_hosts, cluster_name, tmp_path, "ns1") as (first,):
        (tmp_path / "second").mkdir()
        second = await Process("ns1", zk_hosts, cluster_name, tmp_path / "second").start()
        _, said = await asyncio.wait_for(second.running.communicate(), 40)
        assert second.running.returncode == 1
        lines = [line for line in said.decode().splitlines() if line.startswith("stele-nameserver: ")]
        assert len(lines) == 1
        assert first.endpoint in lines[0]
        first.running.send_signal(signal.SIGTERM)
        await asyncio.wait_for(first.running.wait(), 30)
        assert first.running.returncode == 0
