"""The datanodes as this broker reaches them: per datanode one stream of appends, one of fetches, and unary calls.

Guarantee: appends reach the datanode in the order of ``append``; each request is answered or failed exactly once; the
failure of one that never left is definite (Unreachable), of any other indefinite (ConnectionBroken).  Nothing is sent
twice here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stele.services.errors import ConnectionBroken, SteleError, Unreachable
from stele.services.pb import datanode_pb2, datanode_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.streams import AnswerT, RequestStream, RequestT
from stele.services.tasks import Tasks

CONNECT_TIMEOUT_S = 1.0
PROBES_MAX = 32  # of one store at one time

_Appends = RequestStream[datanode_pb2.AppendRequest, datanode_pb2.AppendResponse]
_Fetches = RequestStream[datanode_pb2.FetchRequest, datanode_pb2.FetchResponse]


class DatanodeClient:
    """One datanode at one address.  Its streams are opened when needed, and again after they broke."""

    def __init__(self, channels: Channels, store_id: int, endpoint: str) -> None:
        self.store_id, self.endpoint = store_id, endpoint
        self._channels = channels
        self._appends: _Appends | None = None
        self._fetches: _Fetches | None = None
        self._closed = False

    def append(self, request: datanode_pb2.AppendRequest) -> asyncio.Future[datanode_pb2.AppendResponse]:
        """The answer, or a SteleError: Unreachable, ConnectionBroken, Overloaded.  Cancel the future to forget the request."""
        self._check_open()
        self._appends = self._opened(self._appends, "Append")
        return self._appends.send(request)

    def fetch(self, request: datanode_pb2.FetchRequest) -> asyncio.Future[datanode_pb2.FetchResponse]:
        """As ``append``."""
        self._check_open()
        self._fetches = self._opened(self._fetches, "Fetch")
        return self._fetches.send(request)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        stub = datanode_pb2_grpc.DatanodeStub(self._channels.get(self.endpoint))  # type: ignore[no-untyped-call]
        return await call(getattr(stub, method), request, timeout_s)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(s.close() for s in (self._appends, self._fetches) if s is not None))

    def _check_open(self) -> None:
        if self._closed:
            raise Unreachable(f"{self.endpoint} is no longer used")

    def _opened(self, stream: RequestStream[RequestT, AnswerT] | None, method: str) -> RequestStream[RequestT, AnswerT]:
        if stream is not None and not stream.closed:
            return stream
        return RequestStream(
            self.endpoint,
            self._channels,
            lambda channel: getattr(datanode_pb2_grpc.DatanodeStub(channel), method)(),  # type: ignore[no-untyped-call]
            connect_timeout_s=CONNECT_TIMEOUT_S,
            failure=self._failure,
        )

    def _failure(self, error: SteleError, sent: bool) -> SteleError:
        """Whatever ended the stream, another attempt or another store may do: the address may be another process's by now."""
        if sent:
            return ConnectionBroken(f"the stream to {self.endpoint} broke: {error}", cause=error.reason)
        return Unreachable(f"{self.endpoint} could not be reached: {error}", cause=error.reason)


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
