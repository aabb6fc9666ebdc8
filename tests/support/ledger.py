"""What a test was told is stored, and whether it still is.

Usage::

    ledger = Ledger(client, topic, partitions=4)
    await ledger.send(100)
    ...  # something goes wrong
    await ledger.check()

``check`` reads every partition from its beginning to its end through a subscription of its own: what was acknowledged
is there exactly once, at its offset, and nothing else is.  Where retention has moved a beginning, this holds from there on.
"""

from __future__ import annotations

import asyncio
import itertools

import stele
from stele.model import SendResult
from stele.services.errors import SteleError

QUIET_S = 0.3
DELIVERY_S = 30.0
_number = itertools.count(1)


class Ledger:
    """The client's own record of one topic.  Nothing but this writes to it."""

    def __init__(self, client: stele.Client, topic: str, partitions: int = 1) -> None:
        self.client, self.topic, self.partitions = client, topic, partitions
        self.stored: dict[int, dict[int, bytes]] = {}  # partition → offset → value
        self.unknown: set[bytes] = set()  # an indefinite error: stored or not

    @property
    def count(self) -> int:
        return sum(map(len, self.stored.values()))

    async def send(self, count: int, size: int = 64, send_timeout_s: float = 30.0) -> list[SteleError]:
        """Sends numbered messages at once; the errors of those that were not acknowledged."""
        async with self.client.producer(self.topic, send_timeout_s=send_timeout_s) as producer:
            values = [b"%d:" % next(_number) + b"." * size for _ in range(count)]
            promises = [await producer.enqueue(v, partition=i % self.partitions) for i, v in enumerate(values)]
            await producer.flush()
        errors: list[SteleError] = []
        for value, promise in zip(values, promises, strict=True):
            try:
                self.note(promise.result(), value)
            except SteleError as e:
                errors.append(e)
                if not e.definite:
                    self.unknown.add(value)
        return errors

    async def must_send(self, count: int, size: int = 64) -> None:
        assert await self.send(count, size) == []

    def note(self, result: SendResult, value: bytes) -> None:
        assert result.offset not in self.stored.setdefault(result.partition, {}), "one offset, two messages"
        self.stored[result.partition][result.offset] = value

    async def check(self, timeout_s: float = DELIVERY_S, *, trimmed: bool = False) -> dict[int, int]:
        """Where each partition begins; all at 0 unless ``trimmed``."""
        found: dict[int, dict[int, bytes]] = {}
        subscription = f"check-{next(_number)}"
        async with (
            asyncio.timeout(timeout_s),
            self.client.consumer(self.topic, subscription, type="exclusive") as consumer,
        ):
            begins = {p: consumer.began_at.get(p, 0) for p in range(self.partitions)}
            assert trimmed or set(begins.values()) == {0}, begins
            missing = {(p, o) for p, values in self.stored.items() for o in values if o >= begins[p]}
            while (message := await consumer.receive(None if missing else QUIET_S)) is not None:
                found.setdefault(message.partition, {})[message.offset] = message.value
                missing.discard((message.partition, message.offset))
        read = [value for values in found.values() for value in values.values()]
        assert len(read) == len(set(read)), "a message is stored twice"
        for partition, values in found.items():
            offsets = range(begins[partition], begins[partition] + len(values))
            assert sorted(values) == list(offsets), f"partition {partition} has gaps"
            known = self.stored.get(partition, {})
            for offset, value in values.items():
                if offset in known:
                    assert value == known[offset], f"another message at {partition}/{offset}"
                else:
                    assert value in self.unknown, f"{value[:40]!r} at {partition}/{offset} was never acknowledged"
        return begins
