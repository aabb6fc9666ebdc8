"""One Produce stream to one broker, shared by every producer of a client.

Guarantee: each submitted batch is answered exactly once, in the order of submission within a partition; when the stream ends, what was
written is answered with an indefinite error and what was not with a definite one.  At most the granted credit is unanswered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from stele.services.errors import ConnectionBroken, SteleError, Unreachable
from stele.services.pb import broker_pb2, broker_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.status import from_pb, typed_errors

CONNECT_TIMEOUT_S = 2.0

Answered = Callable[[int, SteleError | None], None]  # base offset, or why not


@dataclass(frozen=True, slots=True)
class _Submitted:
    request: broker_pb2.ProduceRequest
    answered: Answered


class ProduceStream:
    """Opens at construction; ``closed`` is True once it takes no more."""

    def __init__(self, endpoint: str, channels: Channels, on_closed: Callable[[ProduceStream], None]) -> None:
        self.endpoint = endpoint
        self.closed = False
        self._channels = channels
        self._on_closed = on_closed
        self._next_id = 1
        self._waiting: deque[_Submitted] = deque()
        self._written: dict[int, _Submitted] = {}
        self._written_bytes = 0
        self._credit_bytes = 0
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"produce {endpoint}")

    def submit(self, topic: str, partition: int, batch: bytes, answered: Answered) -> None:
        if self.closed:
            raise RuntimeError(f"the stream to {self.endpoint} is closed")
        request = broker_pb2.ProduceRequest(request_id=self._next_id, topic=topic, partition=partition, batch=batch)
        self._next_id += 1
        self._waiting.append(_Submitted(request, answered))
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        error: SteleError = ConnectionBroken(f"the stream to {self.endpoint} was closed")
        call: Any = None
        writer: asyncio.Task[None] | None = None
        try:
            channel = await self._channels.connected(self.endpoint, CONNECT_TIMEOUT_S)
            call = broker_pb2_grpc.BrokerStub(channel).Produce()  # type: ignore[no-untyped-call]
            self._credit_bytes = await self._granted(call)
            writer = asyncio.create_task(self._write(call), name=f"produce-write {self.endpoint}")
            while True:
                with typed_errors():
                    response = await call.read()
                if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                    raise ConnectionBroken(f"{self.endpoint} ended the stream")
                self._answer(response)
        except SteleError as e:
            error = e
        finally:
            self.closed = True
            if writer is not None:
                writer.cancel()
            if call is not None:
                call.cancel()
            self._on_closed(self)
            self._fail_all(error)

    async def _granted(self, call: Any) -> int:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                with typed_errors(sent=False):
                    first = await call.read()
        except TimeoutError:
            raise Unreachable(f"{self.endpoint} did not open a stream within {CONNECT_TIMEOUT_S:g} s") from None
        if first is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise Unreachable(f"{self.endpoint} ended the stream")
        return int(first.credit_bytes)

    async def _write(self, call: Any) -> None:
        while True:
            while self._waiting and self._has_credit(len(self._waiting[0].request.batch)):
                submitted = self._waiting.popleft()
                # Counted as written BEFORE the write: from here on its outcome is not known until it is answered.
                self._written[submitted.request.request_id] = submitted
                self._written_bytes += len(submitted.request.batch)
                try:
                    with typed_errors():
                        await call.write(submitted.request)
                except (SteleError, asyncio.InvalidStateError):
                    return  # the reader learns why
            self._wake.clear()
            await self._wake.wait()

    def _has_credit(self, wanted_bytes: int) -> bool:
        return not self._written or self._written_bytes + wanted_bytes <= self._credit_bytes

    def _answer(self, response: broker_pb2.ProduceResponse) -> None:
        submitted = self._written.pop(response.request_id, None)
        if submitted is None:
            return
        self._written_bytes -= len(submitted.request.batch)
        if self._waiting:
            self._wake.set()
        submitted.answered(response.base_offset, from_pb(response.error))

    def _fail_all(self, error: SteleError) -> None:
        written, self._written = self._written, {}
        waiting, self._waiting = self._waiting, deque()
        broken = error if not error.definite else ConnectionBroken(f"the stream to {self.endpoint} ended: {error}")
        for submitted in written.values():
            submitted.answered(0, broken)
        unsent = error if error.definite else Unreachable(f"the stream to {self.endpoint} ended before it was sent")
        for submitted in waiting:
            submitted.answered(0, unsent)


class ProduceStreams:
    """The streams of a client, one per broker."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._streams: dict[str, ProduceStream] = {}

    def get(self, endpoint: str) -> ProduceStream:
        """The stream to a broker, opened at its first use and after it ended."""
        stream = self._streams.get(endpoint)
        if stream is None or stream.closed:
            stream = self._streams[endpoint] = ProduceStream(endpoint, self._channels, self._forget)
        return stream

    async def close(self) -> None:
        await asyncio.gather(*(s.close() for s in list(self._streams.values())))

    def _forget(self, stream: ProduceStream) -> None:
        if self._streams.get(stream.endpoint) is stream:
            del self._streams[stream.endpoint]
