"""What clients notice while replicas move: a datanode is decommissioned, and in another cluster one is killed for good, both under load.

Four datanodes, four partitions of three replicas, each filled before.  Then 1 KiB goes to each partition every ``EVERY_S``, which keeps two
cores busy; one consumer reads.  The time of each send is compared with those of the ten seconds before.

Usage: ``make moving MIB=32``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

import stele
from benchmarks.samples import percentiles
from stele.lab.checker import Verdict, judge, longest_gap_s
from stele.lab.history import History, Place, Sent, encode
from stele.lab.load import Load
from stele.model import SendResult
from tests.fault.explained import command
from tests.fault.loaded import PARTITIONS, new_topic
from tests.fault.rolling import SteadySender
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster

EVERY_S = 0.004
SIZE_BYTES = 1024
FILL_BYTES = 16 << 10  # of one message that fills a partition
WARM_UP_S = 3.0  # leaders, owners and connections are new
BEFORE_S = 10.0
WITHIN_S = 180.0
DOWN_AFTER_S = 3
MIB = 1 << 20

Moving = Callable[[ClusterUnderTest, stele.Client, str, "Noticed"], Awaitable[None]]


@dataclass
class Noticed:
    """By a client.  Times in seconds."""

    verdict: Verdict | None = None
    failed: list[str] = field(default_factory=list)
    sent: int = 0
    lasted_s: float = 0.0
    replicas: int = 0  # that were moved
    moved_bytes: int = 0
    before: tuple[float, ...] = ()  # of sends: median, 99th percentile, longest
    meanwhile: tuple[float, ...] = ()
    gap_s: float = 0.0

    def lines(self) -> list[str]:
        """For people."""
        assert self.verdict is not None
        rate = self.moved_bytes / MIB / self.lasted_s
        return [
            f"{self.replicas} replicas, {self.moved_bytes / MIB:.0f} MiB, in {self.lasted_s:.1f} s: {rate:.1f} MiB/s",
            f"{self.sent} sent, {len(self.failed)} failed, {len(self.verdict.lost)} lost, {len(self.verdict.duplicated)} duplicated",
            f"a send before:    {_told(self.before)}",
            f"a send meanwhile: {_told(self.meanwhile)}, p99 {self.meanwhile[1] / self.before[1]:.2f} times",
            f"longest time in which a partition acknowledged nothing: {self.gap_s * 1000:.0f} ms",
        ]


def _told(times: tuple[float, ...]) -> str:
    median, high, longest = (t * 1000 for t in times)
    return f"p50 {median:.1f} ms, p99 {high:.1f} ms, longest {longest:.0f} ms"


async def noticed(cluster: ClusterUnderTest, fill_mib: int, moving: Moving) -> Noticed:
    """What a client notices while ``moving`` runs."""
    seen, history = Noticed(), History()
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client)
        await fill(client, topic, history, fill_mib * MIB)
        load = Load(client, topic, history, 0, SIZE_BYTES, 1.0, PARTITIONS)
        sender = SteadySender(client, topic, history, EVERY_S, SIZE_BYTES)
        consuming = asyncio.create_task(load.consume("s", "c1"))
        assert await load.all_delivered(lambda n: None)
        sending = asyncio.create_task(sender.run())
        try:
            await asyncio.sleep(WARM_UP_S)
            steady_s = time.monotonic()
            await asyncio.sleep(BEFORE_S)
            began_s = time.monotonic()
            await moving(cluster, client, topic, seen)
            ended_s = time.monotonic()
            sender.stop()
            await sending
            assert await load.all_delivered(lambda n: None), "what was acknowledged is not delivered"
            await load.read_back(lambda n: None)
        finally:
            for task in (consuming, sending):
                task.cancel()
            await asyncio.gather(consuming, sending, return_exceptions=True)
    seen.verdict, seen.failed, seen.sent = judge(history), list(history.failed.values()), len(history.sent)
    seen.lasted_s, seen.gap_s = ended_s - began_s, longest_gap_s(history.ack_times, began_s, ended_s)
    seen.before = _summary(took_s for at_s, took_s in sender.took if steady_s <= at_s < began_s)
    seen.meanwhile = _summary(took_s for at_s, took_s in sender.took if began_s <= at_s < ended_s)
    return seen


def _summary(took_s: Iterable[float]) -> tuple[float, ...]:
    return tuple(ms / 1000 for ms in percentiles((t * 1000 for t in took_s), 0.5, 0.99, 1.0))


async def fill(client: stele.Client, topic: str, history: History, partition_bytes: int) -> None:
    """Each partition, with so much."""
    async with client.producer(topic, linger_ms=5, send_timeout_s=60) as producer:
        for number in range(PARTITIONS * partition_bytes // FILL_BYTES):
            message = Sent(1, number)
            history.sent.add(message)
            answer = await producer.enqueue(encode(message, FILL_BYTES), partition=number % PARTITIONS)
            answer.add_done_callback(functools.partial(_filled, history, message))
        await producer.flush()


def _filled(history: History, message: Sent, answer: asyncio.Future[SendResult]) -> None:
    result = answer.result()
    history.acknowledged(message, Place(result.partition, result.offset), time.monotonic())


async def _watch(client: stele.Client, topic: str, seen: Noticed, done: Callable[[], Awaitable[bool]]) -> None:
    """Until ``done``: how many replicas move, and how many bytes they have moved."""
    moved: dict[tuple[int, tuple[int, ...]], int] = {}
    deadline_s = time.monotonic() + WITHIN_S
    while not await done():
        assert time.monotonic() < deadline_s, f"not done within {WITHIN_S} s"
        for operation in await client.admin.list_operations():
            if operation.kind == "move" and operation.topic == topic:
                key = operation.group, operation.joining
                moved[key] = max(operation.bytes_moved, moved.get(key, 0))
        await asyncio.sleep(0.05)
    seen.replicas, seen.moved_bytes = len(moved), sum(moved.values())


async def _most_replicas(client: stele.Client) -> str:
    return max(await client.admin.list_stores(), key=lambda s: s.replicas).name


async def decommission(cluster: ClusterUnderTest, client: stele.Client, topic: str, seen: Noticed) -> None:
    """The store with the most replicas goes, by the command."""
    name = await _most_replicas(client)
    asked = asyncio.create_task(command(cluster, "store", "decommission", name, "--wait"))

    async def gone() -> bool:
        return asked.done()

    await _watch(client, topic, seen, gone)
    await asked


async def lose(cluster: ClusterUnderTest, client: stele.Client, topic: str, seen: Noticed) -> None:
    """The store with the most replicas is killed with -9, and nobody does anything."""
    name = await _most_replicas(client)
    store_id = next(s.store_id for s in await client.admin.list_stores() if s.name == name)
    await cluster.kill(name)

    async def whole() -> bool:
        sets = [
            {r.store_id for r in p.replicas if r.state in ("leader", "follower")}
            for p in await client.admin.list_partitions(topic)
        ]
        return all(len(s) == 3 and store_id not in s for s in sets)

    await _watch(client, topic, seen, whole)


async def run(fill_mib: int) -> int:
    well = True
    for title, moving in (("a datanode is decommissioned", decommission), ("a datanode is killed for good", lose)):
        settings = {"nameserver": {"store_down_after_s": str(DOWN_AFTER_S)}}
        cluster = await asyncio.to_thread(start_cluster, 3, 4, 2, settings)
        try:
            seen = await noticed(cluster, fill_mib, moving)
        finally:
            await asyncio.to_thread(remove_cluster, cluster)
        print(f"{title}:", *seen.lines(), sep="\n  ", flush=True)
        well = well and seen.verdict is not None and seen.verdict.holds and not seen.failed
    print(f"of the time that the second takes, {DOWN_AFTER_S} s are waited for it to come back (store_down_after_s)")
    return 0 if well else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="moving", description="Move replicas of real datanodes under load.")
    parser.add_argument("--mib", type=int, default=32, help="in each of four partitions before (default %(default)s)")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(run(options.mib))


if __name__ == "__main__":
    sys.exit(main())
