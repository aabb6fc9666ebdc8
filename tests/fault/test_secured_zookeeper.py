"""A cluster whose ZooKeeper asks for credentials and certificates, on real processes; and one process that lacks them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.explained import COMMAND
from tests.integration.coordination.test_access import open_to_others, with_files
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster
from tests.support.secure_zookeeper import secure_server

SECRET = "s3cret"
CREDENTIALS = f"stele:{SECRET}"


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ClusterUnderTest, dict[str, str], str, dict[str, str]]]:
    """The cluster, what its processes find in their environment, where ZooKeeper is open, and the certificate of somebody else."""
    with secure_server() as (server, certificates):
        settings = with_files(certificates)
        file = tmp_path_factory.mktemp("secrets") / "zookeeper"
        file.write_text(CREDENTIALS + "\n")
        env = {
            "STELE_ZOOKEEPER": server.secure_hosts,
            "STELE_ZOOKEEPER_CREDENTIALS_FILE": str(file),
            "STELE_ZOOKEEPER_TLS_CA": settings.zookeeper_tls_ca,
            "STELE_ZOOKEEPER_TLS_CERT": settings.zookeeper_tls_cert,
            "STELE_ZOOKEEPER_TLS_KEY": settings.zookeeper_tls_key,
            "STELE_LOG_LEVEL": "debug",
        }
        cluster = start_cluster(nameservers=1, datanodes=1, brokers=1, env=env)
        try:
            other = with_files(certificates, "other")
            yield (
                cluster,
                env,
                server.hosts,
                {
                    "STELE_ZOOKEEPER_TLS_CERT": other.zookeeper_tls_cert,
                    "STELE_ZOOKEEPER_TLS_KEY": other.zookeeper_tls_key,
                },
            )
        finally:
            remove_cluster(cluster)


async def run(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    whole = {k: v for k, v in os.environ.items() if not k.startswith("STELE_")} | env
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, env=whole)
    return ran.returncode, " ".join((ran.stdout + ran.stderr).split())


async def test_a_cluster_lives_by_a_secured_zookeeper_and_its_secret_is_in_no_log(
    secured: tuple[ClusterUnderTest, dict[str, str], str, dict[str, str]], tmp_path: Path
) -> None:
    cluster, env, hosts, other = secured
    name = cluster.local.files.load().cluster
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("demo/t", partitions=2, replication=1)
        async with client.producer("demo/t") as producer:
            await producer.send(b"x", partition=0)
        await cluster.kill("ns1")
        await cluster.start("ns1")
        assert (await client.admin.describe_topic("demo/t")).partitions == 2
    assert await asyncio.to_thread(open_to_others, hosts, f"/stele/{name}") == []
    copy = [
        COMMAND,
        "metadata",
        "export",
        str(tmp_path / "copy.json"),
        "--zookeeper",
        env["STELE_ZOOKEEPER"],
        "--cluster",
        name,
    ]
    status, said = await run(copy, env)
    assert status == 0, said
    status, said = await run(
        copy, env | other | {"STELE_ZOOKEEPER_CREDENTIALS_FILE": "", "STELE_ZOOKEEPER_CREDENTIALS": "stele:guessed"}
    )
    assert status == 1
    assert "ZooKeeper's ACL there does not allow it to these credentials" in said
    for log in cluster.local.names():
        path = cluster.local.log_path(log)
        assert not path.exists() or SECRET not in path.read_text(errors="replace")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"STELE_ZOOKEEPER_CREDENTIALS_FILE": "", "STELE_ZOOKEEPER_CREDENTIALS": "stele:guessed"},
            "ACL there does not allow it",
        ),
        ({"STELE_ZOOKEEPER_CREDENTIALS_FILE": ""}, "ACL there does not allow it"),
        ({"STELE_ZOOKEEPER_TLS_CERT": "", "STELE_ZOOKEEPER_TLS_KEY": ""}, "do not trust one another"),
    ],
)
async def test_a_process_that_is_not_let_in_says_so_in_one_line_and_ends(
    secured: tuple[ClusterUnderTest, dict[str, str], str, dict[str, str]], changed: dict[str, str], says: str
) -> None:
    cluster, env, _, other = secured
    name = cluster.local.files.load().cluster
    began = time.monotonic()
    command = [sys.executable, "-m", "stele.broker", "--name", "br9", "--cluster", name, "--log-format", "json"]
    status, said = await run(command, env | other | changed)
    assert status == 1
    assert time.monotonic() - began < 30
    lines = [part for part in said.split("stele-broker: ")[1:]]
    assert len(lines) == 1
    assert says in lines[0]
    assert "give it what ZooKeeper asks for: the --zookeeper-credentials-file" in lines[0]
    assert "guessed" not in said
