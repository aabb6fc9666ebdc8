"""A process that cannot serve says why in one line and leaves everything as it was.

Each is started as its operator would, beside a running cluster whose acknowledged messages are read back afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import stele
from stele.local.zookeeper import ZooKeeperServer
from stele.services.errors import PortTaken
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)

MESSAGES = 40
PARTITIONS = 2
ENDED_S = 60.0
ROLES = ("nameserver", "datanode", "broker")


class Beside:
    """Starts processes beside the cluster; none of them may come to serve."""

    def __init__(self, cluster: ClusterUnderTest, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self._places = asyncio.Semaphore(3)
        self._number = 0

    async def fails(self, role: str, *, env: dict[str, str] | None = None, **settings: object) -> str:
        """Its one line on stderr.  Nothing on stdout, status 1, no run file, and no exception in its log."""
        self._number += 1
        run_file = self.directory / f"{self._number}.run"
        flags: dict[str, object] = {
            "name": f"{role[:2]}-extra-{self._number}",
            "cluster": self.cluster.local.files.load().cluster,
            "zookeeper": self.cluster.local.zookeeper_hosts,
        }
        if role == "datanode":
            flags["data-dir"] = self.directory / f"data-{self._number}"
        flags |= {key.replace("_", "-"): value for key, value in settings.items()}
        async with self._places:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"stele.{role}"),
                *(part for key, value in flags.items() if value is not None for part in (f"--{key}", str(value))),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "STELE_RUN_FILE": str(run_file), "STELE_LOG_FORMAT": "json", **(env or {})},
            )
            try:
                out, err = await asyncio.wait_for(process.communicate(), ENDED_S)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        lines = err.decode().splitlines()
        said = [line for line in lines if not line.startswith("{")]
        assert (process.returncode, out) == (1, b""), f"{role} {flags}: {process.returncode} {err.decode()}"
        assert len(said) == 1, f"{role} {flags}: {err.decode()}"
        assert said[0].startswith(f"stele-{role}: "), said[0]
        assert said[0].count("; ") >= 1, f"no way out: {said[0]}"
        assert not [line for line in lines if '"exception"' in line or "Traceback" in line], err.decode()
        assert not run_file.exists()
        return said[0]


@pytest.fixture
def beside(cluster: ClusterUnderTest, tmp_path: Path) -> Beside:
    return Beside(cluster, tmp_path)


@pytest.fixture
async def client(cluster: ClusterUnderTest) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as connected:
        yield connected


@pytest.fixture(autouse=True)
async def ledger(
    cluster: ClusterUnderTest, client: stele.Client, request: pytest.FixtureRequest
) -> AsyncIterator[Ledger]:
    """Acknowledged messages, read back after the test; the cluster's own processes and members are as before."""
    before = await members(cluster, client)
    topic = f"bad/{request.node.name.partition('[')[0][:60]}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
    written = Ledger(client, topic, PARTITIONS)
    await written.must_send(MESSAGES)
    yield written
    await written.must_send(MESSAGES)
    await written.check()

    async def as_before() -> bool:  # a member that left is gone from the listings at once, or with its session
        now = await members(cluster, client)
        assert now == before
        return True

    await eventually(as_before, within_s=15)


async def members(cluster: ClusterUnderTest, client: stele.Client) -> object:
    admin = client.admin
    return (
        {p.name: p.state for p in cluster.local.status()},
        sorted(b.name for b in await admin.list_brokers() if b.live),
        sorted(n.name for n in await admin.list_nameservers()),
        sorted((s.store_id, s.name, s.live) for s in await admin.list_stores()),
    )


async def test_settings_that_no_process_can_have(beside: Beside, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("port = \n")
    (tmp_path / "unknown.toml").write_text("prot = 7000\n")
    cases: list[tuple[str, dict[str, object], str]] = [
        ("broker", {"name": "BR_1"}, "name 'BR_1' is not accepted"),
        ("nameserver", {"name": ""}, "name"),
        ("nameserver", {"name": "../ns"}, "name '../ns' is not accepted"),
        ("broker", {"cluster": "a/b"}, "cluster 'a/b' is not accepted"),
        ("nameserver", {"port": 70_000}, "port 70000 is not accepted: 0 to 65535"),
        ("nameserver", {"port": "many"}, "'many' is not accepted: a whole number"),
        ("broker", {"host": "name.invalid"}, "host name.invalid cannot be resolved"),
        ("broker", {"host": "192.0.2.1"}, "host 192.0.2.1 is not an address of this machine"),
        ("nameserver", {"zookeeper": "nowhere"}, "nowhere"),
        ("broker", {"session_timeout_s": 9_999}, "session_timeout_s 9999"),
        ("broker", {"prot": 7000}, "--prot"),
        ("broker", {"config": tmp_path / "absent.toml"}, "absent.toml cannot be read"),
        ("broker", {"config": tmp_path / "bad.toml"}, "bad.toml is not TOML"),
        ("broker", {"config": tmp_path / "unknown.toml"}, "unknown setting prot"),
        ("datanode", {"data_dir": ""}, "data_dir '' is not accepted"),
        ("datanode", {"data_dir": None}, "data_dir"),
        ("datanode", {"port": 7_001, "raft_port": 7_001}, "port and raft_port are both 7001"),
        ("datanode", {"election_timeout_min_s": 3}, "must be below election_timeout_max_s"),
        ("datanode", {"entry_bytes_max": "16MiB"}, "entry_bytes_max 16MiB is not accepted: 1KiB to 4MiB"),
    ]
    said = await asyncio.gather(*(beside.fails(role, **settings) for role, settings, _ in cases))
    for line, (_, _, wrong) in zip(said, cases, strict=True):
        assert wrong in line, line
    said_env = await beside.fails("broker", env={"STELE_PORT": "x"})
    assert "STELE_PORT" in said_env


async def test_a_name_that_a_live_process_has(cluster: ClusterUnderTest, beside: Beside) -> None:
    endpoints = {p.name: p.endpoint for p in cluster.local.status()}
    names = {"nameserver": "ns1", "datanode": "dn1", "broker": "br1"}
    for role, line in zip(ROLES, await asyncio.gather(*(beside.fails(r, name=names[r]) for r in ROLES)), strict=True):
        assert names[role] in line, line
        assert endpoints[names[role]] in line, line
        assert "choose another --name" in line


async def test_two_processes_on_one_data_directory(
    cluster: ClusterUnderTest, client: stele.Client, beside: Beside, tmp_path: Path
) -> None:
    pids = {p.name: p.pid for p in cluster.local.status()}
    directory = cluster.local.files.data_path("dn2")
    same_name, other_name = await asyncio.gather(
        beside.fails("datanode", name="dn2", data_dir=directory), beside.fails("datanode", data_dir=directory)
    )
    for line in (same_name, other_name):
        assert f"{directory} is in use by process {pids['dn2']}" in line
        assert "another --data-dir" in line
    # A copy is another directory, and the same store: two of them would vote twice.
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(directory / "store.json", copied)
    store_id = json.loads((copied / "store.json").read_text())["store_id"]
    line = await beside.fails("datanode", data_dir=copied)
    assert f"store {store_id} is run by the live process dn2" in line
    assert "another --data-dir" in line
    # A directory that is none.
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/stele")):
        assert str(place) in await beside.fails("datanode", data_dir=place)


async def test_a_port_that_is_taken(cluster: ClusterUnderTest, beside: Beside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [(role, setting) for role in ROLES for setting in ("port", "admin_port")] + [("datanode", "raft_port")]
        said = await asyncio.gather(*(beside.fails(role, **{setting: port}) for role, setting in cases))
    for line in said:
        assert f"127.0.0.1:{port} is in use by another process; " in line
        assert "choose another port" in line
    broker = next(p.endpoint for p in cluster.local.status() if p.name == "br1")
    assert broker in await beside.fails("broker", port=broker.rpartition(":")[2])  # one of our own
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken):
        ZooKeeperServer(beside.directory / "zk", port=taken.getsockname()[1]).start()


async def test_another_cluster(cluster: ClusterUnderTest, client: stele.Client, beside: Beside) -> None:
    """The directory of one cluster, another one's ZooKeeper tree: the store stays what it is."""
    cluster_id = (await client.admin.cluster()).cluster_id
    directory = cluster.local.files.data_path("dn3")
    identity = (directory / "store.json").read_bytes()
    await cluster.kill("dn3")
    line = await beside.fails("datanode", data_dir=directory, cluster="another")
    assert f"{directory} belongs to cluster {cluster_id}" in line
    assert "--cluster" in line
    assert (directory / "store.json").read_bytes() == identity
    await cluster.start("dn3")
    assert (directory / "store.json").read_bytes() == identity


async def test_zookeeper_that_cannot_be_reached(beside: Beside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        cases = [("nameserver", nobody), ("datanode", silent), ("broker", "name.invalid:2181")]
        said = await asyncio.gather(*(beside.fails(role, zookeeper=hosts) for role, hosts in cases))
    for line, (_, hosts) in zip(said, cases, strict=True):
        assert f"no ZooKeeper server answered at {hosts} within 10 s; " in line
        assert "--zookeeper" in line
