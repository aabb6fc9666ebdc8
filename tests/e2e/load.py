"""A client's load, and its own record of it: what it was told is stored, and what it was delivered.

The verdict is computed from this record alone, never from what servers say of themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import stele

RATE_PER_S = 250
KEYS = 32
UNANSWERED_MAX = 2000


@dataclass(slots=True)
class Record:
    sent: int = 0
    acknowledged: dict[int, stele.SendResult] = field(default_factory=dict)  # message number -> where it is stored
    failed: dict[int, stele.SteleError] = field(default_factory=dict)
    delivered: set[int] = field(default_factory=set)  # message numbers, once delivered and acknowledged

    @property
    def undelivered(self) -> set[int]:
        return self.acknowledged.keys() - self.delivered


class Load:
    """Two producers and two consumers of a shared subscription, for as long as ``running`` is entered."""

    def __init__(self, client: stele.Client, topic: str) -> None:
        self._client, self._topic = client, topic
        self._stop = asyncio.Event()
        self._producers: list[asyncio.Task[None]] = []
        self.record = Record()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Record]:
        """Producing goes on until ``finish``; an error of any part ends the block."""
        async with asyncio.TaskGroup() as tasks:
            consumers = [tasks.create_task(self._consume(f"consumer-{n}")) for n in range(2)]
            self._producers = [tasks.create_task(self._produce(n)) for n in range(2)]
            try:
                yield self.record
            finally:
                self._stop.set()
                for task in [*consumers, *self._producers]:
                    task.cancel()

    async def finish(self) -> None:
        """Ends producing; returns when every message has its answer."""
        self._stop.set()
        await asyncio.gather(*self._producers)

    async def _produce(self, producer_number: int) -> None:
        record, room = self.record, asyncio.Semaphore(UNANSWERED_MAX)
        async with self._client.producer(self._topic, send_timeout_s=60) as producer, asyncio.TaskGroup() as answers:
            while not self._stop.is_set():
                await room.acquire()
                number, record.sent = record.sent, record.sent + 1
                promise = await producer.enqueue(
                    str(number).encode(), key=f"{producer_number}-{number % KEYS}".encode()
                )
                answers.create_task(self._answer(number, promise, room))
                await asyncio.sleep(2 / RATE_PER_S)

    async def _answer(self, number: int, promise: asyncio.Future[stele.SendResult], room: asyncio.Semaphore) -> None:
        try:
            self.record.acknowledged[number] = await promise
        except stele.SteleError as error:
            self.record.failed[number] = error
        finally:
            room.release()

    async def _consume(self, name: str) -> None:
        async with self._client.consumer(self._topic, "readers", type="shared", name=name) as consumer:
            async for message in consumer:
                confirmed = consumer.ack_nowait(message)
                number = int(message.value)
                confirmed.add_done_callback(lambda done, n=number: self._confirmed(n, done))

    def _confirmed(self, number: int, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.record.delivered.add(number)


async def stored(client: stele.Client, topic: str, subscription: str, quiet_s: float = 5.0) -> list[stele.Message]:
    """Every message of a topic, read from its beginning by a subscription of its own until nothing more comes."""
    messages: list[stele.Message] = []
    async with client.consumer(topic, subscription, type="exclusive", start="earliest") as consumer:
        while (message := await consumer.receive(timeout_s=quiet_s)) is not None:
            messages.append(message)
            consumer.ack_nowait(message)
        await consumer.flush()
    return messages


def lost(record: Record, messages: list[stele.Message]) -> list[int]:
    """Acknowledged messages that are not stored where the client was told."""
    found = {(m.partition, m.offset): int(m.value) for m in messages}
    return [n for n, at in record.acknowledged.items() if found.get((at.partition, at.offset)) != n]


def duplicated(messages: list[stele.Message]) -> list[int]:
    """Messages stored more than once."""
    places = {(m.partition, m.offset): int(m.value) for m in messages}
    return [n for n, times in Counter(places.values()).items() if times > 1]


def out_of_order(messages: list[stele.Message]) -> list[tuple[int, int]]:
    """Pairs of one producer's numbers that a partition holds in another order than they were sent in."""
    wrong: list[tuple[int, int]] = []
    last: dict[tuple[int, bytes], int] = {}
    for m in sorted(messages, key=lambda m: (m.partition, m.offset)):
        assert m.key is not None
        number, line = int(m.value), (m.partition, m.key.split(b"-")[0])
        if last.get(line, -1) > number:
            wrong.append((last[line], number))
        last[line] = number
    return wrong
