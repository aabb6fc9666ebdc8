"""The load of a run: producers at a steady rate, consumers of one shared subscription, and the read-back at the end."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable

from stele.client import Client
from stele.lab.history import History, Place, Sent, decode, encode
from stele.model import SendResult
from stele.services.errors import SteleError

STEP_S = 0.01
LINGER_MS = 20  # eight batches every 20 ms leave half of two cores to the cluster
SEND_TIMEOUT_S = 60.0
READ_BACK_QUIET_S = 1.0
DELIVERY_TIMEOUT_S = 60.0


class Load:
    """``messages`` in total, spread over ``seconds`` and ``producers``; everything that happens goes into ``history``."""

    def __init__(
        self,
        client: Client,
        topic: str,
        history: History,
        messages: int,
        size_bytes: int,
        seconds: float,
        partitions: int,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self._client = client
        self._topic = topic
        self._history = history
        self._messages = messages
        self._size_bytes = size_bytes
        self._seconds = seconds
        self._partitions = partitions
        self._send_timeout_s = send_timeout_s

    async def produce(self, producer_number: int, producers: int) -> None:
        """One producer's share, at a steady rate; returns when all of it is answered."""
        history, mine = self._history, self._messages // producers
        answers: list[asyncio.Future[SendResult]] = []
        started = time.monotonic()
        async with self._client.producer(
            self._topic, linger_ms=LINGER_MS, send_timeout_s=self._send_timeout_s
        ) as producer:
            sent = 0
            while sent < mine:
                due = min(mine, int((time.monotonic() - started) / self._seconds * mine) + 1)
                while sent < due:
                    message = Sent(producer_number, sent)
                    history.sent.add(message)
                    answer = await producer.enqueue(
                        encode(message, self._size_bytes), partition=sent % self._partitions
                    )
                    answer.add_done_callback(functools.partial(self._answered, message))
                    answers.append(answer)
                    sent += 1
                await asyncio.sleep(STEP_S)
            await producer.flush()
        await asyncio.gather(*answers, return_exceptions=True)

    def _answered(self, message: Sent, answer: asyncio.Future[SendResult]) -> None:
        if answer.cancelled():
            self._history.failed[message] = "cancelled"
            return
        error = answer.exception()
        if error is None:
            result = answer.result()
            self._history.acknowledged(message, Place(result.partition, result.offset), time.monotonic())
        else:
            self._history.failed[message] = str(error)
            if isinstance(error, SteleError) and error.definite:
                self._history.definite.add(message)

    async def consume(self, subscription: str, name: str) -> None:
        """One consumer of the shared subscription, until cancelled."""
        async with self._client.consumer(self._topic, subscription, type="shared", name=name) as consumer:
            async for message in consumer:
                place = Place(message.partition, message.offset)
                self._history.received(decode(message.value), place, time.monotonic())
                consumer.ack_nowait(message)

    async def all_delivered(self, progress: Callable[[int], None]) -> bool:
        """Waits until everything acknowledged was delivered; False when it was not within DELIVERY_TIMEOUT_S of the last delivery."""
        last, changed = -1, time.monotonic()
        while True:
            delivered = len(self._history.delivered)
            progress(delivered)
            if all(m in self._history.delivered for m in self._history.acked):
                return True
            if delivered != last:
                last, changed = delivered, time.monotonic()
            elif time.monotonic() - changed > DELIVERY_TIMEOUT_S:
                return False
            await asyncio.sleep(0.2)

    async def read_back(self, progress: Callable[[int], None]) -> None:
        """Reads every partition from its beginning to its end, through a subscription of its own."""
        history = self._history
        highest: dict[int, int] = {}
        for place in history.acked.values():
            highest[place.partition] = max(place.offset, highest.get(place.partition, -1))
        read = 0
        async with self._client.consumer(self._topic, "read-back", type="exclusive", credit=10_000) as consumer:
            seen: set[Place] = set()
            while True:
                reached = all(Place(p, o) in seen for p, o in highest.items())
                message = await consumer.receive(timeout_s=READ_BACK_QUIET_S if reached else DELIVERY_TIMEOUT_S)
                if message is None:
                    return
                consumer.ack_nowait(message)
                place = Place(message.partition, message.offset)
                if place not in seen:  # a redelivery is the consumer's matter, not a second copy
                    seen.add(place)
                    history.read_back(decode(message.value), place)
                read += 1
                if read % 5000 == 0:
                    progress(read)
