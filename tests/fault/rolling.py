"""A cluster of real processes that is restarted one process after the other, under load: what clients notice of it.

Every 10 ms a message goes to each partition, and one consumer reads them; the client's own record is judged as everywhere (lab/checker.py).
A pause is the longest time in which a partition acknowledged nothing, or delivered nothing, or the longest that one send took.

Usage: ``make rolling-restart RESTARTS=3``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

import stele
from stele.lab.checker import Verdict, judge, longest_gap_s
from stele.lab.history import History, Place, Sent, encode
from stele.lab.load import Load
from stele.model import SendResult
from tests.fault.loaded import new_topic
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster

PARTITIONS = 4  # of new_topic
EVERY_S = 0.01
SIZE_BYTES = 100
SEND_TIMEOUT_S = 30.0
BEFORE_S = 1.0
RESTART_WITHIN_S = 300.0


@dataclass
class Noticed:
    """By a client."""

    verdict: Verdict
    failed: list[str]
    sent: int
    lasted_s: float
    acknowledged_gap_s: float
    delivered_gap_s: float
    send_max_s: float
    said: list[str]  # by the command

    def lines(self) -> list[str]:
        """For people."""
        restarted = sum(": restarted, whole after" in line for line in self.said)
        pauses = f"acknowledged {_ms(self.acknowledged_gap_s)}, delivered {_ms(self.delivered_gap_s)}, "
        return [
            f"{restarted} processes in {self.lasted_s:.1f} s",
            f"{self.sent} sent, {len(self.failed)} failed, {len(self.verdict.lost)} lost, {len(self.verdict.duplicated)} duplicated",
            f"longest pause: {pauses}of one send {_ms(self.send_max_s)}",
            *(f"{count} failed with {error}" for error, count in Counter(self.failed).most_common(3)),
        ]


class SteadySender:
    """Sends until it is stopped; what becomes of each message goes into ``history``."""

    def __init__(
        self, client: stele.Client, topic: str, history: History, every_s: float = EVERY_S, size_bytes: int = SIZE_BYTES
    ) -> None:
        self._client, self._topic, self._history, self._every_s = client, topic, history, every_s
        self._size_bytes = size_bytes
        self._stopping = asyncio.Event()
        self.took: list[
            tuple[float, float]
        ] = []  # when a message was sent, and in how many seconds it was acknowledged

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        number = 0
        async with self._client.producer(self._topic, linger_ms=5, send_timeout_s=SEND_TIMEOUT_S) as producer:
            while not self._stopping.is_set():
                for partition in range(PARTITIONS):
                    message, began_s = Sent(0, number), time.monotonic()
                    number += 1
                    self._history.sent.add(message)
                    answer = await producer.enqueue(encode(message, self._size_bytes), partition=partition)
                    answer.add_done_callback(functools.partial(self._answered, message, began_s))
                await asyncio.sleep(self._every_s)

    def _answered(self, message: Sent, began_s: float, answer: asyncio.Future[SendResult]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._history.failed[message] = "cancelled" if answer.cancelled() else repr(answer.exception())
            return
        result, now_s = answer.result(), time.monotonic()
        self._history.acknowledged(message, Place(result.partition, result.offset), now_s)
        self.took.append((began_s, now_s - began_s))


async def restarted_under_load(cluster: ClusterUnderTest) -> Noticed:
    """Restarts the whole cluster by the command while messages flow."""
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client)
        history = History()
        load, sender = (
            Load(client, topic, history, 0, SIZE_BYTES, 1.0, PARTITIONS),
            SteadySender(client, topic, history),
        )
        consuming, sending = asyncio.create_task(load.consume("s", "c1")), asyncio.create_task(sender.run())
        try:
            await asyncio.sleep(BEFORE_S)
            began_s = time.monotonic()
            said = await rolling_restart(cluster)
            ended_s = time.monotonic()
            await asyncio.sleep(BEFORE_S)
            sender.stop()
            await sending
            assert await load.all_delivered(lambda n: None), "what was acknowledged is not delivered"
            await load.read_back(lambda n: None)
        finally:
            for task in (consuming, sending):
                task.cancel()
            await asyncio.gather(consuming, sending, return_exceptions=True)
    return Noticed(
        verdict=judge(history),
        failed=list(history.failed.values()),
        sent=len(history.sent),
        lasted_s=ended_s - began_s,
        acknowledged_gap_s=longest_gap_s(history.ack_times, began_s, ended_s),
        delivered_gap_s=longest_gap_s(history.delivery_times, began_s, ended_s),
        send_max_s=max(took_s for _, took_s in sender.took),
        said=said,
    )


async def rolling_restart(cluster: ClusterUnderTest) -> list[str]:
    """The lines of the command; AssertionError unless it ends well."""
    line = [
        sys.executable,
        "-m",
        "stele.cli.main",
        "cluster",
        "restart",
        "--rolling",
        "--dir",
        str(cluster.local.directory),
    ]
    process = await asyncio.create_subprocess_exec(
        *line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(RESTART_WITHIN_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, f"{said.decode()}\n{cluster.describe()}"
    return said.decode().splitlines()


async def run(restarts: int, verbose: bool) -> int:
    cluster = await asyncio.to_thread(start_cluster, 3, 3, 2)
    well = True
    try:
        for number in range(1, restarts + 1):
            seen = await restarted_under_load(cluster)
            print(f"restart {number}:", *(seen.said if verbose else ()), *seen.lines(), sep="\n  ", flush=True)
            well = well and seen.verdict.holds and not seen.failed
        return 0 if well else 1
    finally:
        await asyncio.to_thread(remove_cluster, cluster)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rolling-restart", description="Restart a cluster process by process under load."
    )
    parser.add_argument("--restarts", type=int, default=3, help="of the whole cluster (default %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="what the command says")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(run(options.restarts, options.verbose))


if __name__ == "__main__":
    raise SystemExit(main())
