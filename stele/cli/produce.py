"""``stele produce``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from stele import arguments
from stele.batching import VALUE_BYTES_MAX
from stele.cli.options import DEFAULT_DIRECTORY, FAILED, Directory, ServerOption, TopicName, examples, with_client
from stele.cli.output import progress, report, size
from stele.client import Client
from stele.errors import InputUnreadable
from stele.model import SendResult
from stele.services.errors import InvalidArgument, MessageTooLarge, SteleError
from stele.services.topics import parse_topic
from stele.services.wording import counted

READ_BYTES = 256 * 1024
QUEUED_CHUNKS_MAX = 8
PACE_S = 0.01
EPILOG = examples(
    'echo "hello" | stele produce shop/orders',
    "stele produce shop/orders < orders.ndjson",
    "stele produce shop/orders --count 100000 --size 200 --rate 5000",
    "stele produce shop/orders --count 10 --key customer-7",
)


def produce(
    topic: TopicName,
    count: Annotated[
        int | None, typer.Option("--count", "-n", help="Send so many made-up messages instead of stdin.", min=1)
    ] = None,
    message_size: Annotated[
        int, typer.Option("--size", metavar="BYTES", help="Size of a made-up message.", min=1)
    ] = 100,
    rate: Annotated[
        float, typer.Option("--rate", help="At most so many messages per second (0: no limit).", min=0)
    ] = 0,
    key: Annotated[
        str | None, typer.Option("--key", "-k", help="Key of every message: all go to one partition.")
    ] = None,
    partition: Annotated[int | None, typer.Option("--partition", help="Send to this partition.", min=0)] = None,
    linger_ms: Annotated[float, typer.Option("--linger-ms", help="Wait so long to fill a batch.", min=0)] = 5.0,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Give a message up after so long.", min=0.01)
    ] = 30.0,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Send messages: each line of stdin is one, or --count of them are made up.  Ends when all are stored on a majority of replicas;
    exit status 1 if any was not."""
    parse_topic(topic)
    arguments.number("--rate", rate, 0, 1e9, "of messages per second")
    if count is None and sys.stdin is not None and sys.stdin.isatty():
        report("reading messages from the terminal, one per line; Ctrl-D ends")
    tally = _Tally()

    async def work(client: Client) -> None:
        messages = _made_up(count, message_size, rate) if count is not None else _lines(rate)
        producer = client.producer(topic, linger_ms=linger_ms, send_timeout_s=timeout_s)
        as_given = os.fsencode(key) if key is not None else None
        unreadable: InputUnreadable | MessageTooLarge | None = None
        with progress(f"sending to {topic}", count) as advance:
            try:
                try:
                    async for value in messages:
                        sent_s = time.perf_counter()
                        promise = await producer.enqueue(value, as_given, partition=partition)
                        tally.sent(len(value))
                        promise.add_done_callback(lambda p, s=sent_s: tally.answered(p, s, advance))  # type: ignore[misc]
                        if tally.error is not None:
                            break
                except (InputUnreadable, MessageTooLarge) as e:
                    unreadable = e  # what was read before it is stored first
                await producer.close()
            finally:
                await producer.abort()
        if unreadable is not None and tally.error is None:
            raise unreadable

    try:
        with_client(server, directory, work)
    finally:
        if tally.stored or tally.attempted > tally.failed:
            report(tally.summary())
    if tally.error is not None:
        if not isinstance(tally.error, SteleError) or not tally.stored:
            raise tally.error
        report(f"{tally.failed} of {tally.attempted} messages were not acknowledged; the first error:")
        raise tally.error


class _Tally:
    """What was sent and what became of it."""

    def __init__(self) -> None:
        self.attempted = self.stored = self.failed = self.bytes = 0
        self.error: BaseException | None = None
        self._latencies_s: list[float] = []
        self._first_s = self._last_s = 0.0

    def sent(self, size_bytes: int) -> None:
        self._first_s = self._first_s or time.perf_counter()
        self.attempted += 1
        self.bytes += size_bytes

    def answered(self, promise: asyncio.Future[SendResult], sent_s: float, advance: object) -> None:
        self._last_s = time.perf_counter()
        if promise.cancelled():
            return
        error = promise.exception()
        if error is None:
            self.stored += 1
            self._latencies_s.append(self._last_s - sent_s)
            advance(1)  # type: ignore[operator]
        else:
            self.failed += 1
            self.error = self.error or error

    def summary(self) -> str:
        took_s = max(self._last_s - self._first_s, 1e-6)
        text = f"{counted(self.stored, 'message')} ({size(self.bytes)}) in {took_s:.2f} s"
        if self.stored > 1:
            text += f", {self.stored / took_s:,.0f} messages/s, {size(self.bytes / took_s)}/s"
        if self._latencies_s:
            latencies = sorted(self._latencies_s)
            p50, p99 = (latencies[min(len(latencies) - 1, int(len(latencies) * q))] * 1000 for q in (0.5, 0.99))
            text += f", acknowledged after {p50:.1f} ms (p50), {p99:.1f} ms (p99)"
        return text


async def _made_up(count: int, message_size: int, rate: float) -> AsyncIterator[bytes]:
    """Numbered messages, at most ``rate`` per second."""
    if message_size > 64 * 1024 * 1024:
        raise InvalidArgument(f"--size {message_size} is not accepted: 1 to 1 MiB")
    began_s = time.perf_counter()
    for i in range(count):
        await _pace(i, rate, began_s)
        yield str(i).encode().ljust(message_size, b".")[: max(message_size, len(str(i)))]


async def _lines(rate: float) -> AsyncIterator[bytes]:
    """Lines of stdin as they come; read in a thread of its own, which ends with the process.  InputUnreadable; what was read of a line by
    then is no line.  MessageTooLarge as soon as a line is too long for any message: no more of it is read."""
    if sys.stdin is None:
        raise InputUnreadable("stdin cannot be read: it is closed")
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue(QUEUED_CHUNKS_MAX)

    def read() -> None:
        more: bytes | OSError = b"?"
        try:
            while isinstance(more, bytes) and more:
                try:
                    more = os.read(descriptor, READ_BYTES)
                except OSError as e:
                    more = e
                asyncio.run_coroutine_threadsafe(chunks.put(more), loop).result()
        except (RuntimeError, asyncio.CancelledError, concurrent.futures.CancelledError):
            return  # the command has ended

    threading.Thread(target=read, name="stdin", daemon=True).start()
    began_s, sent, rest = time.perf_counter(), 0, b""
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise InputUnreadable(f"stdin cannot be read: {chunk.strerror or chunk}")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            await _pace(sent, rate, began_s)
            sent += 1
            yield line.removesuffix(b"\r")
        if len(rest) > VALUE_BYTES_MAX + 1:
            raise MessageTooLarge(
                f"line {sent + 1} has more than {VALUE_BYTES_MAX} bytes, accepted are {VALUE_BYTES_MAX}",
                bytes_max=VALUE_BYTES_MAX,
            )
    if rest:
        yield rest.removesuffix(b"\r")


async def _pace(sent: int, rate: float, began_s: float) -> None:
    if rate > 0:
        ahead_s = sent / rate - (time.perf_counter() - began_s)
        if ahead_s > PACE_S:
            await asyncio.sleep(ahead_s)


__all__ = ["EPILOG", "FAILED", "produce"]
