"""Processor time for messages through a whole local cluster, one in each batch, the dearest way to use it.

Usage: ``python -m benchmarks.through [--messages 20000] [--rounds 3]``.  To compare two versions, run it by turns with the Python of either
one: processor time trembles less than messages a second do, where others use the machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import psutil

import stele
from stele.local.cluster import LocalCluster
from stele.local.state import ClusterSpec

AT_ONCE = 32


def processor_s(cluster: LocalCluster, prefix: str) -> float:
    pids = [p.pid for p in cluster.status() if p.name.startswith(prefix) and p.pid]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)


async def carry(cluster: LocalCluster, topic: str, messages: int) -> None:
    async with stele.connect(cluster.bootstrap) as client:
        await client.admin.create_topic(topic, partitions=1, replication=3)

        async def send(count: int) -> None:
            async with client.producer(topic, linger_ms=0.0, batch_bytes_max=128) as producer:
                for _ in range(count):
                    await producer.send(bytes(100))

        async def receive() -> None:
            async with client.consumer(topic, "s") as consumer:
                confirmed: list[asyncio.Task[None]] = []
                for _ in range(messages):
                    message = await consumer.receive()
                    assert message is not None
                    confirmed.append(asyncio.create_task(consumer.ack(message)))
                await asyncio.gather(*confirmed)

        await asyncio.gather(receive(), *(send(messages // AT_ONCE) for _ in range(AT_ONCE)))


async def measured(cluster: LocalCluster, messages: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a message, of each round."""
    await carry(cluster, "bench/warm", messages // 4 // AT_ONCE * AT_ONCE)
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        before, began_s = {p: processor_s(cluster, p) for p in ("br", "dn")}, time.monotonic()
        await carry(cluster, f"bench/r{number}", messages)
        found.setdefault("elapsed", []).append((time.monotonic() - began_s) / messages * 1e6)
        for prefix, was in before.items():
            found.setdefault(prefix, []).append((processor_s(cluster, prefix) - was) / messages * 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=19_200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        cluster = LocalCluster(Path(directory) / "cluster")
        cluster.up(ClusterSpec(nameservers=1, datanodes=3, brokers=1))
        try:
            found = asyncio.run(measured(cluster, given.messages // AT_ONCE * AT_ONCE, given.rounds))
        finally:
            cluster.down(now=True)
    for what, figures in found.items():
        name = {"br": "processor time of the broker", "dn": "of the three datanodes", "elapsed": "elapsed"}[what]
        print(f"{name:30} {statistics.median(figures):6.0f} µs a message ({', '.join(f'{f:.0f}' for f in figures)})")


if __name__ == "__main__":
    main()
