"""What a cluster's size costs its nameserver: a real process over a real ZooKeeper, with members that are simulated (members.py).

For each size the nameserver is started on the whole of the records, stores are heard, and then: nothing happens for a while; partitions
change one by one, each waited for in the routing that a broker watches, while look-ups are asked all the time; ZooKeeper is restarted.
Processor time is the nameserver's own, from /proc; of a change it is what is spent beyond the idle share.  Where something does not come
about in time the figure is missing and ``problems`` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.loads import Figures
from benchmarks.members import Population, owner_of, topic_of
from benchmarks.raft import Say
from benchmarks.report import Row, row
from benchmarks.samples import cpu_s, percentiles, resident_bytes
from stele.local.zookeeper import ZooKeeperServer
from stele.services.errors import SteleError
from stele.services.pb import nameserver_pb2 as pb
from stele.services.ports import free_port
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient

START_TIMEOUT_S = 240.0
HEAR_TIMEOUT_S = 240.0
CHANGE_TIMEOUT_S = 30.0
SETTLE_S = 3.0
CHANGES = 10
LOOKUP_PAUSE_S = 0.01
SILENCE_MAX_S = 60.0
WATCHER = "br1"  # the broker whose part is played; what changes is its own
TARGETS = {
    "start_s": ("started on the records that there are", "s", 20.0),
    "bytes_per_partition": ("memory of a partition, three replicas reported", "KiB", 2.0),
    "idle_share": ("idle, processor", "% of a core", 5.0),
    "change_cpu_ms": ("a change of one partition, processor", "ms", 5.0),
    "change_bytes": ("a change of one partition, to one broker", "KiB", 1.0),
    "change_seen_ms": ("a change of one partition, until a broker knows it", "ms", None),
    "lookup_p99_ms": ("look-ups while partitions change, p99", "ms", 5.0),
    "reconnect_s": ("ZooKeeper restarted, until a change is known again", "s", None),
    "reconnect_cpu_s": ("ZooKeeper restarted, processor", "s", None),
}
SCALES = {"bytes_per_partition": 1 / 1024, "idle_share": 100.0, "change_bytes": 1 / 1024}


class Routes:
    """What one broker is told: the replicas of each partition, and how many bytes that took."""

    def __init__(self, client: NameserverClient) -> None:
        self._client = client
        self.bytes = 0
        self.replicas: dict[tuple[str, int], tuple[int, ...]] = {}
        self.moved = asyncio.Event()

    async def follow(self) -> None:
        async for routing in self._client.watch_routing(WATCHER):
            self.bytes += routing.ByteSize()
            for topic in routing.topics:
                for p in topic.partitions:
                    self.replicas[topic.topic.topic, p.partition] = tuple(r.store_id for r in p.replicas)
            self.moved.set()

    async def until(self, partition: tuple[str, int], replicas: tuple[int, ...]) -> None:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            while self.replicas.get(partition) != replicas:
                self.moved.clear()
                await self.moved.wait()


async def measure(directory: Path, sizes: Sequence[int], seconds: float, say: Say) -> tuple[list[Figures], list[str]]:
    found: list[Figures] = []
    problems: list[str] = []
    for size in sizes:
        home = directory / f"zookeeper-{size}"
        zookeeper = ZooKeeperServer(home, sync=False)
        await zookeeper.async_start()
        try:
            figures: Figures = {"partitions": size}
            found.append(figures)
            try:
                await _measure(zookeeper, directory, size, seconds, say, figures)
            except (SteleError, TimeoutError, RuntimeError) as e:
                problems.append(f"{size:,} partitions: {type(e).__name__}: {e}; what comes after it was not measured")
        finally:
            await zookeeper.async_stop()
    return found, problems


async def _measure(
    zookeeper: ZooKeeperServer, directory: Path, size: int, seconds: float, say: Say, figures: Figures
) -> None:
    population = Population(zookeeper.hosts, "bench", size)
    errors = directory / f"nameserver-{size}.log"
    channels = Channels()
    await population.begin()
    try:
        async with _nameserver(zookeeper.hosts, "empty", errors) as (pid, _, _):
            empty = resident_bytes(pid)
        say(f"control: {size:,} partitions recorded")
        await population.join_brokers()
        await population.record()
        say(f"control: {size:,} partitions, nameserver starts")
        async with _nameserver(zookeeper.hosts, "bench", errors) as (pid, endpoint, started_s):
            figures["start_s"] = started_s
            figures["bytes_per_partition_of_records"] = (resident_bytes(pid) - empty) / size
            client = NameserverClient(channels, [endpoint], silence_max_s=SILENCE_MAX_S)
            await population.join_stores()
            await _heard(client, size)
            await asyncio.sleep(SETTLE_S)
            figures["bytes_per_partition"] = (resident_bytes(pid) - empty) / size
            say(f"control: {size:,} partitions, idle")
            figures["idle_share"] = await _share(pid, seconds)
            await _changes(population, client, pid, size, say, figures)
            say(f"control: {size:,} partitions, ZooKeeper restarted")
            await _reconnected(zookeeper, population, client, pid, size, figures)
    finally:
        await channels.close()
        await population.stop()


@asynccontextmanager
async def _nameserver(hosts: str, cluster: str, errors: Path) -> AsyncIterator[tuple[int, str, float]]:
    """Its process id, its endpoint, and how many seconds it took until it answered."""
    port = free_port()
    begin = time.perf_counter()
    with errors.open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stele.nameserver", "--name", "ns1", "--cluster", cluster, "--zookeeper", hosts),
            *("--port", str(port), "--admin-port", "-1", "--log-format", "json", "--session-timeout-s", "10"),
            stdout=said,
            stderr=said,
        )
    channels = Channels()
    try:
        endpoint = f"127.0.0.1:{port}"
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the nameserver ended: {errors.read_text().strip().splitlines()[-1][:300]}")
            with contextlib.suppress(SteleError):
                await channels.connected(endpoint, 0.5)
                await NameserverClient(channels, [endpoint]).call("GetCluster", pb.GetClusterRequest(), 2.0)
                break
            if time.perf_counter() - begin > START_TIMEOUT_S:
                raise TimeoutError(f"the nameserver did not answer within {START_TIMEOUT_S:g} s")
            await asyncio.sleep(0.05)
        yield process.pid, endpoint, time.perf_counter() - begin
    finally:
        await channels.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _heard(client: NameserverClient, size: int) -> None:
    """Every replica of the last topic is reported, and somebody leads."""
    topic = topic_of(size)[0]
    async with asyncio.timeout(HEAR_TIMEOUT_S):
        while True:
            with contextlib.suppress(SteleError):
                found = await client.call("Lookup", pb.LookupRequest(topic=topic), 5)
                if all(p.leader_store_id and all(r.state for r in p.replicas) for p in found.partitions):
                    return
            await asyncio.sleep(0.2)


async def _share(pid: int, seconds: float) -> float:
    spent, begin = cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - spent) / (time.monotonic() - begin)


async def _changes(
    population: Population, client: NameserverClient, pid: int, size: int, say: Say, figures: Figures
) -> None:
    rng = random.Random(size)
    own = [group for group in range(1, size + 1) if owner_of(group) == WATCHER]
    groups = [rng.choice(own) for _ in range(CHANGES)]
    routes = Routes(client)
    following = asyncio.create_task(routes.follow())
    try:
        say(f"control: {size:,} partitions, routing")
        await routes.until(topic_of(groups[0]), (await population.turn(groups[0])))
        await asyncio.sleep(SETTLE_S)
        figures["routing_bytes"] = routes.bytes
        watched = await _share(pid, SETTLE_S)
        say(f"control: {size:,} partitions, changes")
        latencies: list[float] = []
        asking = asyncio.create_task(_ask(client, size, latencies, rng))
        lookups_alone = await _share(pid, SETTLE_S)
        latencies.clear()
        seen: list[float] = []
        told, spent, begin = routes.bytes, cpu_s(pid), time.monotonic()
        for group in groups:
            written = time.perf_counter()
            await routes.until(topic_of(group), await population.turn(group))
            seen.append((time.perf_counter() - written) * 1e3)
            await asyncio.sleep(0.3)
        passed = time.monotonic() - begin
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        beyond = cpu_s(pid) - spent - passed * max(watched, lookups_alone)
        figures["change_cpu_ms"] = max(0.0, beyond) / CHANGES * 1e3
        figures["change_bytes"] = (routes.bytes - told) / CHANGES
        figures["change_seen_ms"] = percentiles(seen, 0.5)[0]
        figures["lookup_p99_ms"] = percentiles(latencies, 0.99)[0]
        figures["lookups"] = len(latencies)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _ask(client: NameserverClient, size: int, latencies: list[float], rng: random.Random) -> None:
    while True:
        request = pb.LookupRequest(topic=topic_of(rng.randint(1, size))[0])
        begin = time.perf_counter()
        with contextlib.suppress(SteleError):
            await client.call("Lookup", request, 30)
            latencies.append((time.perf_counter() - begin) * 1e3)
        await asyncio.sleep(LOOKUP_PAUSE_S)


async def _reconnected(
    zookeeper: ZooKeeperServer, population: Population, client: NameserverClient, pid: int, size: int, figures: Figures
) -> None:
    spent = cpu_s(pid)
    await zookeeper.async_restart()
    begin = time.perf_counter()
    replicas = await population.turn(size)
    topic, index = topic_of(size)
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            with contextlib.suppress(SteleError):
                found = await client.call("Lookup", pb.LookupRequest(topic=topic), 5)
                told = next(p for p in found.partitions if p.partition == index)
                if tuple(r.store_id for r in told.replicas) == replicas and not found.age_ms:
                    break
            await asyncio.sleep(0.1)
    figures["reconnect_s"] = time.perf_counter() - begin
    figures["reconnect_cpu_s"] = cpu_s(pid) - spent


def rows(found: Sequence[Figures]) -> list[Row]:
    made = []
    for name, (what, unit, at_most) in TARGETS.items():
        for figures in found:
            value: Any = figures.get(name)
            scaled = value * SCALES.get(name, 1.0) if value is not None else None
            made.append(row("control", f"{figures['partitions']:,} partitions: {what}", scaled, unit, at_most=at_most))
    return made
