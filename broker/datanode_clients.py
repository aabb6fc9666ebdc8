"""The datanodes as this broker reaches them: per datanode one stream of appends, one of fetches, and unary calls.

Guarantee: requests on a stream reach the datanode in the order of ``send``; each is answered or failed exactly once; the
failure of one that never left is definite (Unreachable), of any other indefinite (ConnectionBroken).  Nothing is sent
twice here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol

import grpc
import structlog

from stele.services.errors import ConnectionBroken, Overloaded, SteleError, Unreachable
from stele.services.pb import datanode_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.status import typed_errors
from stele.services.tasks import Tasks

CONNECT_TIMEOUT_S = 1.0
PROBES_MAX = 32  # of one store at one time
QUEUED_MAX = 100_000  # requests of one stream that are not answered

_log = structlog.get_logger()


class _Numbered(Protocol):
    request_id: int


class RequestStream:
    """Requests and their answers over one bidirectional stream, which is opened when needed and again after it broke."""

    def __init__(self, channels: Channels, endpoint: str, method: str) -> None:
        self._channels, self._endpoint, self._method = channels, endpoint, method
        self._queue: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._sent: dict[int, asyncio.Future[Any]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_id = 0
        self._closed = False

    def send(self, request: _Numbered) -> asyncio.Future[Any]:
        """Numbers ``request`` and queues it; the answer, or a SteleError.  Cancel the future to forget the request."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._closed or len(self._queue) + len(self._sent) >= QUEUED_MAX:
            answer.set_exception(
                Unreachable(f"{self._endpoint} is no longer used")
                if self._closed
                else Overloaded(f"{QUEUED_MAX} requests to {self._endpoint} are unanswered", limit=QUEUED_MAX)
            )
            return answer
        self._last_id += 1
        request.request_id = self._last_id
        self._queue.append((request, answer))
        self._wake.set()
        if self._task is None:
            self._task = loop.create_task(self._run())
        return answer

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        error: SteleError = Unreachable(f"{self._endpoint} is no longer used")
        stream: Any = None
        try:
            channel = await self._channels.connected(self._endpoint, CONNECT_TIMEOUT_S)
            stream = getattr(datanode_pb2_grpc.DatanodeStub(channel), self._method)()  # type: ignore[no-untyped-call]
            await self._exchange(stream)
        except SteleError as e:
            error = e
        except Exception as e:
            _log.exception("datanode_stream_failed", endpoint=self._endpoint, method=self._method)
            error = ConnectionBroken(f"the stream failed: {e!r}")
        finally:
            if stream is not None:
                stream.cancel()
            self._task = None
            self._fail(error)

    async def _exchange(self, stream: Any) -> None:
        """Until the stream breaks; raises what broke it."""
        reading = asyncio.create_task(self._read(stream))
        writing = asyncio.create_task(self._write(stream))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_EXCEPTION)
            for task in (reading, writing):
                if task.done():
                    task.result()
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _write(self, stream: Any) -> None:
        while True:
            while self._queue:
                request, answer = self._queue.popleft()
                if answer.done():
                    continue
                self._sent[request.request_id] = answer  # BEFORE the write: from here on it may have arrived
                try:
                    with typed_errors():
                        await stream.write(request)
                except asyncio.InvalidStateError:
                    return  # the call has ended; the reader knows why
            self._wake.clear()
            await self._wake.wait()

    async def _read(self, stream: Any) -> None:
        while True:
            with typed_errors():
                response = await stream.read()
            if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise ConnectionBroken(f"{self._endpoint} ended the stream")
            answer = self._sent.pop(response.request_id, None)
            if answer is not None and not answer.done():
                answer.set_result(response)

    def _fail(self, error: SteleError) -> None:
        sent, self._sent = self._sent, {}
        queued, self._queue = self._queue, deque()
        for answer in sent.values():
            if not answer.done():
                answer.set_exception(
                    ConnectionBroken(f"the stream to {self._endpoint} broke: {error}", cause=error.reason)
                )
        for _, answer in queued:
            if not answer.done():
                answer.set_exception(Unreachable(f"{self._endpoint} could not be reached: {error}", cause=error.reason))


class DatanodeClient:
    """One datanode at one address."""

    def __init__(self, channels: Channels, store_id: int, endpoint: str) -> None:
        self.store_id, self.endpoint = store_id, endpoint
        self._channels = channels
        self.appends = RequestStream(channels, endpoint, "Append")
        self.fetches = RequestStream(channels, endpoint, "Fetch")

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        stub = datanode_pb2_grpc.DatanodeStub(self._channels.get(self.endpoint))  # type: ignore[no-untyped-call]
        return await call(getattr(stub, method), request, timeout_s)

    async def close(self) -> None:
        await asyncio.gather(self.appends.close(), self.fetches.close())


class DatanodeClients:
    """By store id."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._open: dict[int, DatanodeClient] = {}
        self._endpoints: dict[int, str] = {}
        self._closing = Tasks()
        self._probes: dict[int, asyncio.Semaphore] = {}

    def observe(self, endpoints: dict[int, str]) -> None:
        """Where the stores are now; streams to former addresses end."""
        self._endpoints = dict(endpoints)
        for store_id, datanode in list(self._open.items()):
            if endpoints.get(store_id) != datanode.endpoint:
                self._closing.start(self._open.pop(store_id).close())

    def get(self, store_id: int) -> DatanodeClient:
        """Raises Unreachable while no address of the store is known."""
        datanode = self._open.get(store_id)
        if datanode is None:
            endpoint = self._endpoints.get(store_id)
            if not endpoint:
                raise Unreachable(f"no address of store {store_id} is known", store_id=store_id)
            datanode = self._open[store_id] = DatanodeClient(self._channels, store_id, endpoint)
        return datanode

    def probes(self, store_id: int) -> asyncio.Semaphore:
        """Bounds how many partitions ask one store at one time whether it leads; a silent store holds up nobody else."""
        return self._probes.setdefault(store_id, asyncio.Semaphore(PROBES_MAX))

    async def close(self) -> None:
        await asyncio.gather(*(d.close() for d in self._open.values()), self._closing.finished())
        self._open.clear()
