"""docker-compose.yml, whole: reaches healthy, loses nothing when containers are killed under load, is healed by `up`."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator

import docker
import docker.errors
import pytest

import stele
from tests.e2e.compose import BROKERS, DATANODES, NAMESERVERS, PUBLISHED, ROOT, SERVICES, Compose, ensure_base_images
from tests.e2e.load import Load, Record, duplicated, lost, out_of_order, stored
from tests.support.eventually import eventually

HEALTHY_WITHIN_S = 180
PROGRESS_MESSAGES = 500  # acknowledged and delivered after a kill, before the next one
TOPIC = "e2e/orders"
DEFAULT_BOOTSTRAP = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def compose(engine: docker.DockerClient) -> Iterator[Compose]:
    ensure_base_images(engine)
    cluster = Compose(engine)
    try:
        cluster.up(build=True)
        asyncio.run(eventually(cluster.all_healthy, HEALTHY_WITHIN_S, every_s=1, describe=cluster.describe))
        yield cluster
    finally:
        cluster.down()


def test_all_become_healthy(compose: Compose) -> None:
    assert compose.states() == dict.fromkeys(SERVICES, "healthy")


def test_containers_are_bounded_and_closed(compose: Compose) -> None:
    """No container runs as root, restarts by itself or is without a memory limit; only loopback is published, and only where
    clients go."""
    for service, container in compose.containers().items():
        host = container.attrs["HostConfig"]
        assert container.attrs["Config"]["User"] not in ("", "0", "root"), service
        assert host["RestartPolicy"]["Name"] in ("no", ""), service
        assert host["Memory"] > 0, service
        bindings = [binding for port in (host["PortBindings"] or {}).values() for binding in port]
        assert [b["HostIp"] for b in bindings] == (["127.0.0.1"] if service in PUBLISHED else []), service


async def test_the_host_is_told_addresses_that_it_can_dial(compose: Compose) -> None:
    async with stele.connect(compose.bootstrap) as client:
        told = {n.name: n.member.advertised for n in await client.admin.list_nameservers()}
        told |= {b.name: b.member.advertised for b in await client.admin.list_brokers() if b.member is not None}
    assert told == {name: f"127.0.0.1:{port}" for name, port in compose.ports.items()}


def test_the_example_in_the_readme_runs(compose: Compose) -> None:
    code, printed = re.findall(r"```python\n(.*?)```\s+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert DEFAULT_BOOTSTRAP in code
    code = code.replace(DEFAULT_BOOTSTRAP, compose.bootstrap)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr


async def victims(client: stele.Client) -> tuple[str, str, str]:
    """The datanode that leads partition 0, the broker that owns it, the leading nameserver."""

    async def found() -> tuple[str, str, str]:
        partition = next(p for p in await client.admin.list_partitions(TOPIC) if p.partition == 0)
        stores = {s.store_id: s.name for s in await client.admin.list_stores()}
        leader = (await client.admin.cluster()).leader
        names = (stores.get(partition.leader_store_id, ""), partition.broker, leader)
        assert all(names), names
        return names

    names = await eventually(found, within_s=30, every_s=0.2)
    assert [names[0] in DATANODES, names[1] in BROKERS, names[2] in NAMESERVERS] == [True] * 3
    return names


async def test_kills_under_load_lose_nothing_and_up_heals(compose: Compose) -> None:
    async with stele.connect(compose.bootstrap) as client:
        await client.admin.create_topic(TOPIC, partitions=4, replication=3)
        load = Load(client, TOPIC)
        async with load.running() as record:
            await progress(compose, record, "nothing is dead")
            for victim in await victims(client):
                await asyncio.to_thread(compose.kill, victim)
                assert compose.states()[victim] == "exited(137)"
                await progress(compose, record, f"{victim} is dead")

            await asyncio.to_thread(compose.up)
            await eventually(compose.all_healthy, HEALTHY_WITHIN_S, every_s=1, describe=compose.describe)
            await progress(compose, record, "all are back")

            await load.finish()
            await eventually(lambda: not record.undelivered, within_s=60, describe=lambda: describe(compose, record))
        messages = await stored(client, TOPIC, "checker")

    assert record.failed == {}
    assert lost(record, messages) == []
    assert duplicated(messages) == []
    assert out_of_order(messages) == []
    assert {int(m.value) for m in messages} == record.acknowledged.keys()


async def test_a_stopped_container_drains_and_exits_cleanly(compose: Compose) -> None:
    for service in ("br2", "dn3", "ns2"):
        await asyncio.to_thread(compose.stop, service)
        assert compose.states()[service] == "exited(0)"
    await asyncio.to_thread(compose.up)
    await eventually(compose.all_healthy, HEALTHY_WITHIN_S, every_s=1, describe=compose.describe)


async def test_three_zookeepers_outlive_one(engine: docker.DockerClient, compose: Compose) -> None:
    names = ("zk1", "zk2", "zk3")
    ensemble = Compose(engine, "deploy/zookeeper/ensemble.env", compose.images[1])

    def all_serve() -> bool:
        return ensemble.states() == dict.fromkeys(names, "healthy")

    try:
        await asyncio.to_thread(ensemble.up, *names)
        await eventually(all_serve, HEALTHY_WITHIN_S, every_s=1, describe=ensemble.describe)
        await asyncio.to_thread(ensemble.kill, "zk2")

        def others_serve() -> bool:
            found = ensemble.containers()
            return not any(found[name].exec_run("zookeeper-healthcheck").exit_code for name in ("zk1", "zk3"))

        await eventually(others_serve, within_s=30, every_s=0.5, describe=ensemble.describe)
        await asyncio.to_thread(ensemble.up, *names)
        await eventually(all_serve, HEALTHY_WITHIN_S, every_s=1, describe=ensemble.describe)
    finally:
        await asyncio.to_thread(ensemble.down)


@pytest.mark.parametrize(
    ("name", "servers", "says"),
    [
        ("zk2", "zk1:2181", "does not name it"),
        ("zk4", "zk1:2181,zk2:2181,zk3:2181", "it is none of STELE_ZOOKEEPERS"),
    ],
)
def test_a_zookeeper_that_is_told_of_others_alone_does_not_start(
    engine: docker.DockerClient, compose: Compose, name: str, servers: str, says: str
) -> None:
    told = {"STELE_NAME": name, "STELE_ZOOKEEPERS": servers}
    with pytest.raises(docker.errors.ContainerError, match=says):
        engine.containers.run(compose.images[1], environment=told, remove=True)


async def progress(compose: Compose, record: Record, when: str) -> None:
    """Messages are acknowledged and delivered while ``when``."""
    acknowledged, delivered = len(record.acknowledged), len(record.delivered)
    await eventually(
        lambda: (
            len(record.acknowledged) >= acknowledged + PROGRESS_MESSAGES
            and len(record.delivered) >= delivered + PROGRESS_MESSAGES
        ),
        within_s=60,
        every_s=0.1,
        describe=lambda: f"while {when}: {describe(compose, record)}",
    )


def describe(compose: Compose, record: Record) -> str:
    return (
        f"sent {record.sent}, acknowledged {len(record.acknowledged)}, failed {len(record.failed)}, "
        f"delivered {len(record.delivered)}\n{compose.describe()}"
    )
