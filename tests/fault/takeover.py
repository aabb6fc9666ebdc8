"""Owners of bundles that die, or stand still and wake up: real processes, counted.

A killed owner: how long until its bundles are another one's, and until a partition of them is written again.  It counts whether that
was before ZooKeeper gave up the dead one's session.  A paused owner loses a bundle to another broker, which writes; meanwhile more is
sent to the paused one, which finds it when it wakes up, and has to refuse all of it (R5.10).

Usage: ``make takeover KILLS=30 PAUSES=200``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import structlog

import stele
from stele.services.pb import broker_pb2_grpc
from tests.integration.broker.cluster import Producer, batch
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster
from tests.support.eventually import eventually

PARTITIONS = 16
STALE_WRITES = 5  # in each pause
POLL_S = 0.005
SETTLED_WITHIN_S = 60.0
RESTARTS_MAX = 20
SESSION_TIMEOUT_S = "20"  # of brokers: a loaded machine must not end a session before anybody has looked
SETTINGS = {"broker": {"session_timeout_s": SESSION_TIMEOUT_S}}


@dataclass
class Takeovers:
    """What was seen."""

    moved_s: list[float] = field(default_factory=list)  # from the kill until no partition is the dead broker's
    written_s: list[float] = field(default_factory=list)  # until a write to one of them is acknowledged
    before_session_ended: int = 0  # kills after which the bundles had moved while the dead one was still registered
    pauses: int = 0
    stale: Counter[str] = field(default_factory=Counter)  # by what a write to the former owner was answered with
    values: list[bytes] = field(default_factory=list)  # that the written partition has to hold, in order


class Trials:
    """On a topic of its own."""

    def __init__(self, cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
        self._cluster, self._client, self._topic = cluster, client, topic
        self.seen = Takeovers()

    async def begin(self) -> None:
        await self._client.admin.create_topic(self._topic, partitions=PARTITIONS, replication=3)
        await self._shared()

    async def _owners(self) -> dict[int, str]:
        return {p.partition: p.broker for p in await self._client.admin.list_partitions(self._topic)}

    async def _shared(self) -> None:
        """Every broker has bundles of the topic."""

        async def shared() -> bool:
            owners = set((await self._owners()).values())
            return "" not in owners and len(owners) == len(await self._client.admin.list_brokers())

        await eventually(shared, SETTLED_WITHIN_S, 0.05, self._cluster.describe)

    async def kill_one(self) -> None:
        """The owner of the first partition is killed with -9, and started again once its bundles have moved."""
        victim = (await self._owners())[0]
        async with self._client.producer(self._topic, linger_ms=0, send_timeout_s=SETTLED_WITHIN_S) as producer:
            self.seen.values.append(await self._write(producer))
            await self._cluster.kill(victim)
            begun_s = time.monotonic()
            writing = asyncio.create_task(self._write(producer))
            deadline_s = begun_s + SETTLED_WITHIN_S
            while victim in (await self._owners()).values():
                assert time.monotonic() < deadline_s, self._cluster.describe()
                await asyncio.sleep(POLL_S)
            self.seen.moved_s.append(time.monotonic() - begun_s)
            listed = {b.name: b.live for b in await self._client.admin.list_brokers()}
            self.seen.before_session_ended += listed.get(victim, False)
            self.seen.values.append(await writing)
            self.seen.written_s.append(time.monotonic() - begun_s)
        await self._cluster.start(victim)
        await self._shared()

    async def _write(self, producer: stele.Producer) -> bytes:
        value = b"%d" % len(self.seen.written_s) + b" after" * (len(self.seen.values) % 2)
        await producer.send(value, partition=0)
        return value

    async def pause_one(self) -> None:
        """The owner of the first partition stands still while an operator gives its bundle to another broker, which writes; then it wakes
        up, and finds what was sent to it meanwhile."""
        number = self.seen.pauses
        partition = next(p for p in await self._client.admin.list_partitions(self._topic) if p.partition == 0)
        brokers = {b.name: b.member.endpoint for b in await self._client.admin.list_brokers() if b.member}
        owner, other = partition.broker, next(name for name in brokers if name != partition.broker)
        # A channel without keepalive: what is written to the paused broker lies in its socket until it wakes up.
        async with grpc.aio.insecure_channel(brokers[owner]) as channel:
            producer = Producer(broker_pb2_grpc.BrokerStub(channel).Produce())  # type: ignore[no-untyped-call]
            await producer.begin()

            async def send(value: str, sequence: int) -> int:
                data = batch(value, producer_id=1_000 + number, sequence=sequence)
                self.seen.values += [value.encode()] if not sequence else []
                return await producer.send_batch(data, 0, self._topic)

            before = await producer.offset(await send(f"{number} before", 0), SETTLED_WITHIN_S)
            # So that the owner does not hear what has become of its bundle before it has sent on what it finds: the partition decides.
            told, leader = await self._told_by(owner), (await self._client.admin.cluster()).leader
            paused = [told] if told not in (leader, await self._told_by(other)) else []
            for name in (*paused, owner):
                await self._cluster.pause(name)
            try:
                await self._client.admin.move_bundle(partition.bundle, other)
                late = [await send(f"{number} late {i}", 1 + i) for i in range(STALE_WRITES)]
                async with self._client.producer(self._topic, send_timeout_s=SETTLED_WITHIN_S) as there:
                    value = f"{number} after".encode()
                    assert (await there.send(value, partition=0)).offset == before + 1
                    self.seen.values.append(value)
            finally:
                await self._cluster.resume(owner)
            try:
                for request in late:
                    answer = (await producer.answer(request, SETTLED_WITHIN_S)).error
                    self.seen.stale[answer.reason or "stored"] += 1
            finally:
                for name in paused:
                    await self._cluster.resume(name)
            producer.close()
        self.seen.pauses += 1

    async def part(self) -> None:
        """Each broker follows another nameserver, so that of two one at least does not follow the leader."""
        for _ in range(RESTARTS_MAX):
            names = [b.name for b in await self._client.admin.list_brokers()]
            if len({await self._told_by(name) for name in names}) == len(names):
                return
            await self._cluster.kill(names[0])
            await self._cluster.start(names[0])
            await self._shared()
        raise AssertionError(f"after {RESTARTS_MAX} restarts two brokers still follow one nameserver")

    async def _told_by(self, broker: str) -> str:
        """The nameserver that the broker follows."""
        lines = self._cluster.local.log_path(broker).read_text(errors="replace").splitlines()
        followed = [json.loads(line)["nameserver"] for line in lines if '"routing_watched"' in line]
        listed = await self._client.admin.list_nameservers()
        return next((n.name for n in listed if followed and n.member.endpoint == followed[-1]), "")

    async def stored(self) -> list[bytes]:
        """What the first partition holds, in order."""
        end = next(p for p in await self._client.admin.list_partitions(self._topic) if p.partition == 0)
        values: list[bytes] = []
        subscription = f"check-{end.high_watermark}-{len(self.seen.values)}"
        async with self._client.consumer(self._topic, subscription, type="exclusive") as consumer:
            while (
                message := await consumer.receive(1.0 if len(values) >= len(self.seen.values) else 20.0)
            ) is not None:
                if message.partition == 0:
                    values.append(message.value)
                consumer.ack_nowait(message)
        return values

    def fenced(self) -> int:
        """How often a partition told a broker that it is not the owner any more."""
        logs = (self._cluster.local.log_path(name) for name in self._cluster.local.names())
        return sum(log.read_text(errors="replace").count('"owner_deposed"') for log in logs if log.exists())


async def run(kills: int, pauses: int) -> int:
    cluster = await asyncio.to_thread(start_cluster, 3, 3, 2, SETTINGS)
    try:
        async with cluster.connect(timeout_s=30) as client:
            trials = Trials(cluster, client, "takeover/t")
            await trials.begin()
            for _ in range(kills):
                await trials.kill_one()
            if pauses:
                await trials.part()
            for _ in range(pauses):
                await trials.pause_one()
            seen, stored = trials.seen, await trials.stored()
        if kills:
            print(f"{kills} owners killed with -9 (sessions of {SESSION_TIMEOUT_S} s):")
            print(f"  every bundle another broker's  {_spread(seen.moved_s)}")
            print(f"  written again                  {_spread(seen.written_s)}")
            print(f"  before the session ended       {seen.before_session_ended} of {kills}")
        accepted = seen.stale.pop("stored", 0)
        if pauses:
            said = ", ".join(f"{count} {reason}" for reason, count in seen.stale.most_common())
            print(f"{pauses} owners paused while their bundle moved: {pauses * STALE_WRITES} stale writes")
            print(f"  accepted                       {accepted} ({said})")
            print(f"  fenced by the partition        the first writes of {trials.fenced()}, which had not heard of it")
        whole = stored == seen.values
        print(f"{len(seen.values)} accepted writes, {'all of them' if whole else 'NOT as'} stored, once and in order")
        return 0 if whole and not accepted else 1
    finally:
        await asyncio.to_thread(remove_cluster, cluster)


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"p50 {ordered[len(ordered) // 2] * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="takeover", description="Kill and pause owners of bundles, and count.")
    parser.add_argument("--kills", type=int, default=30, help="owners killed with -9 (default %(default)s)")
    parser.add_argument("--pauses", type=int, default=200, help="owners paused (default %(default)s)")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(run(options.kills, options.pauses))


if __name__ == "__main__":
    raise SystemExit(main())
