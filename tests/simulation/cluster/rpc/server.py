"""The server's half of the simulated gRPC: handlers, contexts and interceptors are called as ``grpc.aio`` calls them.

Guarantee: a handler's task is cancelled when its client gives the call up, its deadline passes or the connection is gone; the client
hears the status that the handler set, UNKNOWN for what it raised otherwise.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _base_server

from tests.simulation.cluster.rpc.call import CANCELLED, NO_METADATA, OK, RESOURCE_EXHAUSTED, UNAVAILABLE
from tests.simulation.cluster.rpc.flow import Inflow, Outflow, too_large
from tests.simulation.cluster.rpc.network import End, Frame, Node

UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]
UNIMPLEMENTED: int = grpc.StatusCode.UNIMPLEMENTED.value[0]
CODES = {code.value[0]: code for code in grpc.StatusCode}
WINDOW_BYTES = 64 << 10


class _Details:
    """As ``grpc.HandlerCallDetails``."""

    def __init__(self, method: str, metadata: tuple[Any, ...]) -> None:
        self.method = method
        self.invocation_metadata = metadata


class ServerCall:
    """One call at its server."""

    def __init__(
        self,
        server: SimulatedServer,
        end: End,
        stream_id: int,
        method: str,
        metadata: tuple[Any, ...],
        window_bytes: int,
    ) -> None:
        self.server = server
        self.method = method
        self.metadata = metadata
        self.end = end
        self.id = stream_id
        self.incoming = Inflow(WINDOW_BYTES)
        self.outgoing = Outflow(server.loop, window_bytes)
        self.outgoing.open(end, stream_id)
        self.deadline: float | None = None
        self.timer: Any = None
        self.client_gone = False
        self.task: asyncio.Task[None] | None = None
        self.connection: Connection
        self.code: int = OK
        self.details = ""
        self.trailing: tuple[Any, ...] = NO_METADATA
        self.metadata_sent = False
        self.status_sent = False
        self.aborted: BaseException | None = None
        self.callbacks: list[Callable[[Any], None]] = []

    def check(self) -> None:
        """Raises what a handler that goes on after its call's end is told."""
        if self.aborted is not None:
            raise self.aborted
        if self.status_sent:
            raise cygrpc.UsageError("RPC already finished.")

    async def read(self) -> bytes | None:
        message = await self.incoming.next()
        if message is not None and (granted := self.incoming.took(message)):
            self.end.send("window", self.id, granted)
        return message

    async def write(self, message: bytes) -> None:
        if too_large(message, self.server.send_bytes_max):
            limit = self.server.send_bytes_max
            self.reset(RESOURCE_EXHAUSTED, f"SERVER: Sent message larger than max ({len(message)} vs. {limit})")
            raise cygrpc.ExecuteBatchError("the message is too large")
        self.send_metadata(NO_METADATA)
        if not await self.outgoing.send(message):
            for _ in range(3):  # the cancellation of the handler is on its way, and comes first
                await asyncio.sleep(0)
            raise cygrpc.ExecuteBatchError("the call is over")

    def send_metadata(self, metadata: tuple[Any, ...]) -> None:
        if not self.metadata_sent:
            self.metadata_sent = True
            self.end.send("initial", self.id, metadata)

    def answer(self, message: bytes) -> None:
        """The one response of a unary call; its status follows."""
        if too_large(message, self.server.send_bytes_max):
            limit = self.server.send_bytes_max
            self.reset(RESOURCE_EXHAUSTED, f"SERVER: Sent message larger than max ({len(message)} vs. {limit})")
            return
        self.send_metadata(NO_METADATA)
        self.outgoing.put(message)

    async def finish(self) -> None:
        """Sends the status, behind the messages."""
        self.status_sent = True
        await self.outgoing.drained()
        self.end.send("trailers", self.id, self.code, self.details, self.trailing)

    def reset(self, code: int, details: str) -> None:
        """Ends the stream without what it was to say."""
        self.status_sent = True
        self.end.send("rst", self.id, code, details)
        self.gone()

    def gone(self) -> None:
        """Nobody waits for this call any more."""
        if self.client_gone:
            return
        self.client_gone = True
        self.incoming.drop()
        self.outgoing.fail()
        loop, rng = self.server.loop, self.server.node.network.rng
        if (
            self.incoming.awaited and rng.random() < 0.7
        ):  # who reads sees the end of the stream before its task is cancelled
            self.incoming.end()
            loop.call_soon(loop.call_soon, self._cancel)
        else:
            self.incoming.end()
            self._cancel()

    def _cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def ended(self, _task: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.server.forget(self)
        if not self.status_sent and not self.client_gone:  # its handler said nothing
            self.status_sent = True
            self.end.send("rst", self.id, CANCELLED, "CANCELLED")


class Context(_base_server.ServicerContext[Any, Any]):
    """What a handler is given."""

    def __init__(self, call: ServerCall, deserialize: Any, serialize: Any) -> None:
        self._call = call
        self._deserialize, self._serialize = deserialize, serialize

    async def read(self) -> Any:
        self._call.check()
        message = await self._call.read()
        return cygrpc.EOF if message is None else self._deserialize(message) if self._deserialize else message

    async def write(self, message: Any) -> None:
        self._call.check()
        await self._call.write(self._serialize(message) if self._serialize else message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._call.check()
        self._call.send_metadata(tuple(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        call = self._call
        call.check()
        call.aborted = grpc.aio.AbortError("Locally aborted.")
        call.code, call.details = code.value[0], details
        call.trailing = tuple(trailing_metadata) or call.trailing
        await call.finish()
        raise call.aborted

    async def abort_with_status(self, status: Any) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._call.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._call.trailing

    def invocation_metadata(self) -> Any:
        return self._call.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._call.code = code.value[0]

    def code(self) -> Any:
        return self._call.code

    def set_details(self, details: str) -> None:
        self._call.details = details

    def details(self) -> str:
        return self._call.details

    def set_compression(self, compression: grpc.Compression) -> None:
        return None

    def disable_next_message_compression(self) -> None:
        return None

    def peer(self) -> str:
        return f"ipv4:{self._call.end.peer.node.host}"

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> dict[str, Any]:
        return {}

    def time_remaining(self) -> Any:
        deadline = self._call.deadline
        return None if deadline is None else max(0.0, deadline - self._call.server.loop.time())

    def add_done_callback(self, callback: Any) -> None:
        self._call.callbacks.append(callback)

    def cancelled(self) -> bool:
        return self._call.client_gone

    def done(self) -> bool:
        return self._call.status_sent


class _Requests:
    """The requests of a stream, for a handler to go through."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is cygrpc.EOF:
            raise StopAsyncIteration
        return message


class Connection:
    """A client's connection at its server."""

    def __init__(self, server: SimulatedServer) -> None:
        self.server = server
        self.calls: dict[int, ServerCall] = {}
        self.going = False

    def frame(self, end: End, frame: Frame) -> None:
        kind, stream_id = frame[0], frame[1]
        if kind == "headers":
            if self.going:
                end.send("rst", stream_id, UNAVAILABLE, "the server is going away")
                return
            self.calls[stream_id] = self.server.begin(self, end, stream_id, *frame[2:])
            return
        call = self.calls.get(stream_id)
        if call is None:
            return
        match kind:
            case "message":
                limit = self.server.receive_bytes_max
                if too_large(frame[2], limit):
                    size = len(frame[2])
                    call.reset(RESOURCE_EXHAUSTED, f"SERVER: Received message larger than max ({size} vs. {limit})")
                else:
                    call.incoming.put(frame[2])
            case "half":
                call.incoming.end()
            case "window":
                call.outgoing.grant(frame[2])
            case "rst":
                call.gone()

    def broken(self, end: End, why: str) -> None:
        self.server.connections.pop(end, None)
        for call in list(self.calls.values()):
            call.gone()


class SimulatedServer(_base_server.Server):
    """A ``grpc.aio.Server`` on a simulated node."""

    def __init__(self, node: Node, interceptors: Sequence[Any], options: Sequence[tuple[str, Any]]) -> None:
        given = dict(options)
        self.node = node
        self.loop = node.loop
        self.send_bytes_max = int(given.get("grpc.max_send_message_length", -1))
        self.receive_bytes_max = int(given.get("grpc.max_receive_message_length", 4 << 20))
        self.connections: dict[End, Connection] = {}
        self._interceptors = list(interceptors)
        self._generic: list[Any] = []
        self._registered: dict[str, Any] = {}
        self._ports: list[int] = []
        self._calls: dict[ServerCall, None] = {}
        self._state = "new"
        self._idle: list[asyncio.Future[None]] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        self._registered |= {f"/{service_name}/{method}": handler for method, handler in method_handlers.items()}

    def add_insecure_port(self, address: str) -> int:
        try:
            port = self.node.reserve(int(address.rpartition(":")[2]))
        except OSError as e:
            raise RuntimeError(f"Failed to bind to address {address}") from e
        self._ports.append(port)
        return port

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        return self.add_insecure_port(address)

    async def start(self) -> None:
        self._state = "running"
        for port in self._ports:
            self.node.listen(port, self)

    async def stop(self, grace: float | None) -> None:
        if self._state != "running":
            if self._state == "stopping":
                await self._until_idle()
            return
        self._state = "stopping"
        for port in self._ports:
            self.node.release(port)
        for end, connection in list(self.connections.items()):
            connection.going = True
            end.send("goaway", 0)
        if grace:
            try:
                await asyncio.wait_for(self._until_idle(), grace)
            except TimeoutError:
                pass
        for call in list(self._calls):
            call.reset(UNAVAILABLE, "Cancelling all calls")
        await self._until_idle()
        for end in list(self.connections):
            end.close()
        self.connections.clear()
        self._state = "stopped"

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        raise NotImplementedError

    async def _until_idle(self) -> None:
        while self._calls:
            future: asyncio.Future[None] = self.loop.create_future()
            self._idle.append(future)
            await future

    # --- calls --------------------------------------------------------------------------------------------------------

    def accept(self, end: End) -> Connection:
        connection = self.connections[end] = Connection(self)
        return connection

    def begin(
        self,
        connection: Connection,
        end: End,
        stream_id: int,
        method: str,
        metadata: tuple[Any, ...],
        timeout_s: float | None,
        window_bytes: int,
    ) -> ServerCall:
        call = ServerCall(self, end, stream_id, method, metadata, window_bytes)
        call.connection = connection
        self._calls[call] = None
        call.task = self.loop.create_task(self._handle(call), name=method)
        call.task.add_done_callback(call.ended)
        if timeout_s is not None:
            call.deadline = self.loop.time() + timeout_s
            call.timer = self.loop.call_at(call.deadline, call.gone)
        return call

    def forget(self, call: ServerCall) -> None:
        self._calls.pop(call, None)
        call.connection.calls.pop(call.id, None)
        if not self._calls:
            idle, self._idle = self._idle, []
            for future in idle:
                if not future.done():
                    future.set_result(None)

    async def _handle(self, call: ServerCall) -> None:
        try:
            await self._serve(call)
        except grpc.aio.AbortError:
            return
        except asyncio.CancelledError:
            return
        except Exception as e:
            if call.client_gone or call.status_sent:
                return
            if call.code == OK:
                call.code, call.details = UNKNOWN, f"Unexpected {type(e)}: {e}"
            await call.finish()

    async def _serve(self, call: ServerCall) -> None:
        handler = await self._find(0, _Details(call.method, call.metadata))
        if handler is None:
            call.code, call.details = UNIMPLEMENTED, "Method not found!"
            await call.finish()
            return
        context = Context(call, handler.request_deserializer, handler.response_serializer)
        request: Any = _Requests(context)
        if not handler.request_streaming:
            content = await call.read()
            if content is None:
                return
            request = handler.request_deserializer(content) if handler.request_deserializer else content
        shape = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        behaviour = getattr(handler, shape)
        if handler.response_streaming:
            await self._stream(behaviour, request, context)
        else:
            if inspect.iscoroutinefunction(behaviour):
                answer = await behaviour(request, context)
            else:
                answer = await self.loop.run_in_executor(None, behaviour, request, context)
            call.check()
            if call.code == OK:
                call.answer(handler.response_serializer(answer) if handler.response_serializer else answer)
                if call.status_sent:
                    return
        call.check()
        await call.finish()

    async def _stream(self, behaviour: Any, request: Any, context: Context) -> None:
        if inspect.isasyncgenfunction(behaviour):
            answers = behaviour(request, context)
            try:
                async for answer in answers:
                    await context.write(answer)
            except BaseException:
                # Left where it is, as gRPC leaves it, and closed by a task of its own as soon as nobody holds it any more.
                self.loop.call_soon(self.loop.create_task, answers.aclose())
                raise
        elif inspect.iscoroutinefunction(behaviour):
            await behaviour(request, context)
        else:
            answers = behaviour(request, context)
            while (answer := await self.loop.run_in_executor(None, next, answers, cygrpc.EOF)) is not cygrpc.EOF:
                await context.write(answer)

    async def _find(self, place: int, details: _Details) -> Any:
        if place < len(self._interceptors):

            async def further(given: Any) -> Any:
                return await self._find(place + 1, given)

            return await self._interceptors[place].intercept_service(further, details)
        handler = self._registered.get(details.method)
        for generic in () if handler is not None else self._generic:
            handler = generic.service(details)
            if handler is not None:
                break
        return handler
