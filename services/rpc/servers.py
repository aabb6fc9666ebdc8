"""gRPC servers: one per port, with health, reflection, limits and typed errors.

Guarantee: the port is this process's alone (PortTaken otherwise); it opens in ``start`` and not before; an error of the tree that a
handler raises reaches the caller typed (services/rpc/status.py), any other exception reaches it as InternalError with an incident
number and without its text, which goes to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from stele.services.config import join_address
from stele.services.errors import InternalError, InvalidArgument, SteleError
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.status import task_is_cancelled, to_status
from stele.services.rpc.transport import GRPC, Transport
from stele.services.tasks import Tasks

ANSWER_MARGIN_S = 0.1  # of a caller's deadline: the answer has to arrive before it
WAIT_MIN_S, WAIT_MAX_S = 0.05, 600.0  # for what a caller asked
CLIENT_PING_INTERVAL_MIN_MS = 500
SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),  # else two processes share one port, each seeing half of the connections
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 5_000),  # a client that is cut off must not hold its streams for hours
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_log = structlog.get_logger()


class Server:
    """``server.add(adder, servicer, name)`` for each service, ``await server.start()``, ``await server.stop(grace_s)``.

    ``credentials`` is where TLS goes in; without it connections are plain.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
        credentials: grpc.ServerCredentials | None = None,
        transport: Transport = GRPC,
    ) -> None:
        self._host, self._port = host, port
        self._interceptors = [*interceptors, TypedErrors()]
        self._credentials = credentials
        self._transport = transport
        self._services: list[tuple[Callable[[Any, Any], None], Any, str]] = []
        self._server: grpc.aio.Server | None = None
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving = True
        self._publishing = Tasks()
        self.port = 0

    def add(self, adder: Callable[[Any, Any], None], servicer: Any, full_service_name: str) -> None:
        """Adds a service, e.g. ``add(broker_pb2_grpc.add_BrokerServicer_to_server, self, "stele.v1.Broker")``; before ``start``."""
        if self._server is not None:
            raise RuntimeError(f"{full_service_name} is added to a server that has started")
        self._services.append((adder, servicer, full_service_name))

    async def start(self) -> int:
        """Opens the port and serves; the bound port.  Raises PortTaken."""
        server = self._transport.server(self._interceptors, SERVER_OPTIONS)
        for adder, servicer, _ in self._services:
            adder(servicer, server)
        names = [name for _, _, name in self._services]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        self.port = self._bind(server)
        self._server = server
        await self._publish_health()
        await server.start()
        return self.port

    async def stop(self, grace_s: float = 0.0) -> None:
        """Takes nothing new, lets calls in flight finish for ``grace_s``, then ends them.  Harmless if not started or stopped."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._health.enter_graceful_shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.stop(grace_s), grace_s + 2.0)

    def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the whole process and for each service."""
        self._serving = serving
        if self._server is not None:
            self._publishing.start(self._publish_health(), "publish-health")

    async def _publish_health(self) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *(name for _, _, name in self._services)):
            await self._health.set(name, status)

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._host, self._port)
        try:
            bound = (
                server.add_insecure_port(address)
                if self._credentials is None
                else server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            self._transport.reserve(self._host, self._port).close()  # gRPC does not say why; asking the system does
            raise
        if not bound:
            self._transport.reserve(self._host, self._port).close()
            raise RuntimeError(f"gRPC could not open {address}")
        return bound


def left_s(context: Any, default_s: float) -> float:
    """For how long a handler may work on its answer: until shortly before the caller's deadline; ``default_s`` for one that gave none.

    gRPC tells the deadline by the wall clock, which may have been set since.  A handler runs for a caller that still waits, so one whose
    time seems to be up has not been told how long."""
    told_s = context.time_remaining()
    if told_s is None or told_s <= 0:
        return default_s
    return float(max(WAIT_MIN_S, min(told_s, WAIT_MAX_S) - ANSWER_MARGIN_S))


class TypedErrors(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Maps what any handler raises, in all four shapes of a call, as coroutine, generator or plain function.

    It sets the status instead of aborting: an aborted handler keeps a graceful stop from ending.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        behaviour, attribute = _behaviour(handler)
        return _Handler(handler, attribute, _guarded(behaviour, handler.response_streaming, method))


class _Handler(grpc.RpcMethodHandler):  # type: ignore[type-arg]
    """A method handler with its behaviour replaced."""

    def __init__(self, handler: Any, attribute: str, behaviour: Callable[..., Any]) -> None:
        self.request_streaming = handler.request_streaming
        self.response_streaming = handler.response_streaming
        self.request_deserializer = handler.request_deserializer
        if not handler.request_streaming:
            self.request_deserializer = _reading(handler.request_deserializer)
        self.response_serializer = handler.response_serializer
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        setattr(self, attribute, behaviour)


class _Unreadable:
    """In place of a request that is no message: gRPC itself would answer with a bare UNKNOWN."""


def _reading(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserializer is None:
        return None

    def read(content: bytes) -> Any:
        try:
            return deserializer(content)
        except DecodeError:
            return _Unreadable()

    return read


def _check(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise _unreadable()
    return request


def _unreadable() -> InvalidArgument:
    return InvalidArgument("a request is not a message of this call's type")


def _behaviour(handler: Any) -> tuple[Callable[..., Any], str]:
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    attribute = f"{request}_{response}"
    return getattr(handler, attribute), attribute


def _guarded(behaviour: Callable[..., Any], response_streaming: bool, method: str) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with contextlib.aclosing(behaviour(_check(request), context)) as answers:
                    async for answer in answers:
                        yield answer
            except (Exception, asyncio.CancelledError) as e:
                _end(context, e, method)

        return generate
    if inspect.iscoroutinefunction(behaviour):

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await behaviour(_check(request), context)
            except (Exception, asyncio.CancelledError) as e:
                return _end(context, e, method)

        return answer
    if response_streaming:

        def generate_in_thread(request: Any, context: Any) -> Iterator[Any]:
            try:
                yield from behaviour(_check(request), context)
            except Exception as e:
                _end(context, e, method)

        return generate_in_thread

    def answer_in_thread(request: Any, context: Any) -> Any:
        try:
            return behaviour(_check(request), context)
        except Exception as e:
            return _end(context, e, method)

    return answer_in_thread


def _end(context: Any, error: BaseException, method: str) -> None:
    """Ends the call with ``error`` as its status; an abort that the handler asked for stays what it is, and so does the end of a call
    that its client gave up.  Where only something that the handler waited for was cancelled the client still waits for an answer."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, asyncio.CancelledError) and task_is_cancelled():
        raise error
    if isinstance(error, DecodeError):  # a request of a stream
        error = _unreadable()
    if not isinstance(error, SteleError):
        incident = secrets.token_hex(4)
        _log.error("rpc_failed", method=method, incident=incident, exc_info=error)
        error = InternalError(f"internal error, see incident {incident} in the peer's log", incident=incident)
    status = to_status(error)
    context.set_code(status.code)
    context.set_details(status.details)
    # Not there where handlers are threads.
    earlier = context.trailing_metadata() if hasattr(context, "trailing_metadata") else None
    context.set_trailing_metadata((*(earlier or ()), *status.trailing_metadata))
