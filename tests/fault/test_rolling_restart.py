"""A cluster of real processes is restarted one process after the other, and its clients do not notice."""

from __future__ import annotations

import asyncio
import signal
import sys

from tests.fault.loaded import new_topic
from tests.fault.rolling import restarted_under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(nameservers=3, datanodes=3, brokers=2)


def pids(cluster: ClusterUnderTest) -> dict[str, int]:
    return {p.name: p.pid for p in cluster.local.status()}


async def start_restart(cluster: ClusterUnderTest, *options: str) -> asyncio.subprocess.Process:
    line = [sys.executable, "-m", "stele.cli.main", "cluster", "restart", "--rolling", *options]
    return await asyncio.create_subprocess_exec(
        *line,
        "--dir",
        str(cluster.local.directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background is deaf to it
    )


async def test_under_load_every_process_is_restarted_and_no_send_fails(cluster: ClusterUnderTest) -> None:
    before = pids(cluster)
    async with cluster.connect() as client:
        leader = (await client.admin.cluster()).leader
    seen = await restarted_under_load(cluster)
    print("\n".join(seen.lines()))
    assert seen.failed == []
    assert seen.verdict.holds, seen.verdict.problems
    assert seen.verdict.acknowledged == seen.sent
    after = pids(cluster)
    assert {n for n in before if after[n] != before[n]} == before.keys() - {"zk1"}
    done = [line.partition(":")[0] for line in seen.said if ": restarted, whole after" in line]
    assert sorted(done) == sorted(before.keys() - {"zk1"})
    assert done[2] == leader, "of the nameservers the leading one comes last"
    assert done[3:] == ["dn1", "dn2", "dn3", "br1", "br2"]
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
        assert not any(b.drained for b in await client.admin.list_brokers())


async def test_who_is_not_safe_to_stop_is_left_alone_and_the_reason_is_said(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        await new_topic(client)
    before = pids(cluster)
    await cluster.kill("br1")
    await cluster.kill("dn3")
    restarting = await start_restart(cluster, "--wait", "1")
    said, _ = await restarting.communicate()
    assert restarting.returncode == 1, said.decode()
    assert "dn1 is not safe to stop" in said.decode()
    assert "dn3 " in said.decode()
    after = pids(cluster)
    assert {name: after[name] for name in ("dn1", "dn2", "br2")} == {n: before[n] for n in ("dn1", "dn2", "br2")}
    assert all(p.healthy for p in cluster.local.status() if p.name not in ("dn3", "br1"))


async def test_ctrl_c_leaves_nothing_stopped_and_nobody_drained(cluster: ClusterUnderTest) -> None:
    before = pids(cluster)
    restarting = await start_restart(cluster)

    async def one_is_on_its_way() -> bool:
        return not all(p.healthy for p in await asyncio.to_thread(cluster.local.status))

    await eventually(one_is_on_its_way, within_s=60, every_s=0.02)
    restarting.send_signal(signal.SIGINT)
    said, _ = await restarting.communicate()
    assert restarting.returncode == 130, said.decode()
    assert "everything runs" in said.decode()
    assert all(p.healthy for p in cluster.local.status())
    assert sum(pid != before[name] for name, pid in pids(cluster).items()) < len(before) - 1
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
        assert not any(b.drained for b in await client.admin.list_brokers())
