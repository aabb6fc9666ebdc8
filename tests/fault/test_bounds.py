"""Every call and every command has its bound: without a broker, with a line that never ends, on a topic that is another one by now."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

import stele
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=1, datanodes=1, brokers=1)
LINE_BYTES = 30 << 20
MEMORY_KIB_MAX = 100 << 10


# In between, so that what the test itself has in memory is not counted: a process begins with the peak of the one that it came from.
MEASURED = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "stele.cli.main", *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


async def command(cluster: ClusterUnderTest, *line: str, stdin: bytes = b"") -> tuple[int | None, list[str], int]:
    """Exit status, lines of stderr, and the most memory that it had, in KiB.  It has to end by itself."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("STELE_")}
    env["STELE_DIR"] = str(cluster.local.directory)
    pipe = asyncio.subprocess.PIPE
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEASURED, *line), stdin=pipe, stdout=pipe, stderr=pipe, env=env
    )
    out, err = await asyncio.wait_for(ran.communicate(stdin), 60)
    return ran.returncode, err.decode().splitlines(), int(out)


async def test_p34_a_line_without_an_end_is_refused_at_the_limit(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        await client.admin.create_topic("bounds/lines", replication=1)
        status, said, memory_kib = await command(
            cluster, "produce", "bounds/lines", stdin=b"first\n" + b"x" * LINE_BYTES
        )
        assert status == 1, said
        assert said[-1].startswith("error: line 2 has more than 1047498 bytes"), said
        assert memory_kib < MEMORY_KIB_MAX
        async with client.consumer("bounds/lines", "s") as consumer:
            first = await consumer.receive(10)
            assert first is not None
            assert first.value == b"first"  # what came before it is stored
            assert await consumer.receive(0.5) is None


async def test_p40_a_seek_to_a_partition_that_is_no_more_says_so(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        await client.admin.create_topic("bounds/anew", partitions=3, replication=1)
        async with client.consumer("bounds/anew", "s") as consumer:
            await consumer.seek("earliest", partition=2)
            await client.admin.delete_topic("bounds/anew")
            await client.admin.create_topic("bounds/anew", partitions=1, replication=1)
            async with asyncio.timeout(30):
                for _ in range(3):  # whatever it has heard of by then
                    with pytest.raises(
                        (stele.InvalidArgument, stele.PartitionNotFound, stele.TopicReplaced, stele.TopicNotFound)
                    ):
                        await consumer.seek("earliest", partition=2)
        async with client.consumer("bounds/anew", "s") as consumer:
            await consumer.seek("earliest", partition=0)
            with pytest.raises(stele.InvalidArgument, match="has partitions 0 to 0, not 2"):
                await consumer.seek("earliest", partition=2)


async def test_p33_without_a_broker_everything_ends_in_its_time_and_says_why(cluster: ClusterUnderTest) -> None:
    async with cluster.connect() as client:
        await client.admin.create_topic("bounds/x", replication=1)
        await cluster.kill("br1")
        consumer = client.consumer("bounds/x", "s")
        async with asyncio.timeout(60):
            with pytest.raises((stele.Unreachable, stele.Timeout), match="bounds/x-0 was not opened within 1 s"):
                await consumer.open(1.0)
            assert await consumer.receive(0.2) is None
            with pytest.raises(stele.SteleError):
                await client.producer("bounds/x", send_timeout_s=1.0).send(b"x")

        async def says_no_broker() -> bool:
            status, said, _ = await command(cluster, "consume", "bounds/x", "-S", "s", "--timeout", "3")
            assert status == 1, said
            assert len(said) == 1, said
            return "bounds/x-0 has no broker at the moment" in said[0]

        while not await says_no_broker():  # at first its registration is still there
            pass
        await cluster.start("br1")
        async with asyncio.timeout(60):
            await consumer.open()
            await consumer.close()
