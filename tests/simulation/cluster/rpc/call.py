"""One call at its client: what ``grpc.aio`` asks of ``cygrpc._AioCall``, asked of the simulated network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
from grpc._cython import cygrpc

from tests.simulation.cluster.rpc.flow import Inflow, Outflow, too_large
from tests.simulation.cluster.rpc.network import End, Node

EOF: Final = cygrpc.EOF
NO_METADATA: Final[tuple[Any, ...]] = ()
OK: Final[int] = grpc.StatusCode.OK.value[0]
CANCELLED: Final[int] = grpc.StatusCode.CANCELLED.value[0]
DEADLINE_EXCEEDED: Final[int] = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
RESOURCE_EXHAUSTED: Final[int] = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
INTERNAL: Final[int] = grpc.StatusCode.INTERNAL.value[0]
UNAVAILABLE: Final[int] = grpc.StatusCode.UNAVAILABLE.value[0]


class Caller(Protocol):
    """What a call is made on: a channel's core."""

    loop: Any
    node: Node
    calls: dict[ClientCall, None]
    send_bytes_max: int
    receive_bytes_max: int
    receive_window_bytes: int

    def pick(self, call: ClientCall) -> None: ...

    def forget(self, call: ClientCall, end: End | None, stream_id: int) -> None: ...


class Status:
    """As ``cygrpc.AioRpcStatus``."""

    __slots__ = ("_code", "_details", "_trailing")

    def __init__(self, code: int, details: str, trailing: tuple[Any, ...] = NO_METADATA) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> int:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing

    def debug_error_string(self) -> str:
        return self._details


class ClientCall:
    """One call.  ``deadline`` is in the loop's time."""

    def __init__(self, core: Caller, method: str, deadline: float | None, wait_for_ready: bool | None) -> None:
        self._core = core
        self._loop = core.loop
        self._method = method
        self._deadline = deadline
        self.wait_for_ready = bool(wait_for_ready)
        self._status: Status | None = None
        self._late_status: Status | None = None  # what came behind messages that are not read yet
        self._initial_metadata: tuple[Any, ...] | None = None
        self._changed: list[asyncio.Future[None]] = []  # who waits for initial metadata or status
        self._callbacks: list[Callable[[], None]] = []
        self._locally_cancelled = False
        self._metadata: tuple[Any, ...] = NO_METADATA
        self._begun: asyncio.Future[None] | None = None
        self._timer: Any = None
        self._end: End | None = None
        self._id = 0
        self._out = Outflow(core.loop)
        self._in = Inflow(core.receive_window_bytes)
        self._half_closed = False
        core.calls[self] = None

    # --- what grpc.aio asks of it -------------------------------------------------------------------------------------

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def done(self) -> bool:
        return self._status is not None

    def cancelled(self) -> bool:
        return self._status is not None and self._status.code() == CANCELLED

    def is_locally_cancelled(self) -> bool:
        return self._locally_cancelled

    def is_ok(self) -> bool:
        return self._status is not None and self._status.code() == OK

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        if self._status is not None:
            callback()
        else:
            self._callbacks.append(callback)

    def set_internal_error(self, text: str) -> None:
        """A write failed.  gRPC may say so even where the call has ended with another status, which is lost by that."""
        status = Status(INTERNAL, "Internal error from Core")
        if self._status is None:
            self._finish(status)
        elif self._locally_cancelled or self._core.node.network.rng.random() < 0.5:
            self._status = status

    def cancel(self, details: str) -> None:
        if self._status is None:
            self._locally_cancelled = True
            self._reset()
            self._in.drop()
            self._finish(Status(CANCELLED, details))

    async def status(self) -> Status:
        while self._status is None:
            await self._change()
        return self._status

    async def initial_metadata(self) -> tuple[Any, ...]:
        while self._initial_metadata is None:
            await self._change()
        return self._initial_metadata

    async def unary_unary(self, request: bytes, metadata: tuple[Any, ...], _context: Any) -> bytes | None:
        self._begin(metadata)
        self._write_now(request)
        self._close_sending()
        return await self._answer()

    async def initiate_unary_stream(self, request: bytes, metadata: tuple[Any, ...], _context: Any) -> None:
        self._begin(metadata)
        self._write_now(request)
        self._close_sending()
        await self.initial_metadata()

    async def initiate_stream_stream(self, metadata: tuple[Any, ...], sent: Callable[[], None], _context: Any) -> None:
        self._begin(metadata)
        if self._end is None and self._status is None:
            self._begun = self._loop.create_future()
            await self._begun
        sent()
        await self.initial_metadata()

    async def stream_unary(self, metadata: tuple[Any, ...], sent: Callable[[], None], _context: Any) -> bytes | None:
        await self.initiate_stream_stream(metadata, sent, _context)
        return await self._answer()

    async def _answer(self) -> bytes | None:
        try:
            await self.status()
        except asyncio.CancelledError:
            # gRPC takes on the status in one step with who waits for the answer: until that goes on, the call is not over.
            if self._status is not None:
                self._locally_cancelled, self._status = True, Status(CANCELLED, "")
            raise
        return self._in.take() if self.is_ok() else None

    async def send_serialized_message(self, message: bytes) -> None:
        if too_large(message, self._core.send_bytes_max):
            self._fail(RESOURCE_EXHAUSTED, _too_large("Sent", message, self._core.send_bytes_max))
            raise cygrpc.ExecuteBatchError("the message is too large")
        if not await self._out.send(message):
            raise cygrpc.ExecuteBatchError("the call is over")

    async def send_receive_close(self) -> None:
        self._close_sending()
        await asyncio.sleep(0)

    async def receive_serialized_message(self) -> Any:
        message = await self._in.next()
        if message is None:
            return EOF
        self._took(message)
        return message

    # --- the way out --------------------------------------------------------------------------------------------------

    def _begin(self, metadata: tuple[Any, ...]) -> None:
        self._metadata = metadata
        if self._status is not None:
            return
        if self._deadline is not None:
            if self._deadline <= self._loop.time():
                self._expired()
                return
            self._timer = self._loop.call_at(self._deadline, self._expired)
        self._core.pick(self)

    def attached(self, end: End, stream_id: int) -> None:
        """The connection stands."""
        self._end, self._id = end, stream_id
        end.send(
            "headers", stream_id, self._method, self._metadata, self.time_remaining(), self._core.receive_window_bytes
        )
        self._out.open(end, stream_id)
        self._release()

    def _write_now(self, message: bytes) -> None:
        if self._status is not None:
            return
        if too_large(message, self._core.send_bytes_max):
            self._fail(RESOURCE_EXHAUSTED, _too_large("Sent", message, self._core.send_bytes_max))
        else:
            self._out.put(message)

    def _close_sending(self) -> None:
        if not self._half_closed:
            self._half_closed = True
            self._out.close()

    def _reset(self) -> None:
        if self._end is not None:
            self._end.send("rst", self._id, CANCELLED, "")

    def _expired(self) -> None:
        self._fail(DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _fail(self, code: int, details: str) -> None:
        if self._status is None:
            self._reset()
            self._in.drop()
            self._finish(Status(code, details))

    # --- what comes ---------------------------------------------------------------------------------------------------

    def initial(self, metadata: tuple[Any, ...]) -> None:
        if self._initial_metadata is None:
            self._initial_metadata = metadata
            self._wake()

    def message(self, message: bytes) -> None:
        if self._status is not None:
            return
        if too_large(message, self._core.receive_bytes_max):
            self._fail(RESOURCE_EXHAUSTED, _too_large("Received", message, self._core.receive_bytes_max))
        else:
            self._in.put(message)

    def window(self, size: int) -> None:
        self._out.grant(size)

    def trailers(self, code: int, details: str, trailing: tuple[Any, ...]) -> None:
        """The end of the stream: behind what came before it."""
        if self._status is not None or self._late_status is not None:
            return
        status = Status(code, details, trailing)
        if self._in.waiting and not self._is_unary():
            self._late_status = status
            self._in.end_behind()
        else:
            self._finish(status)

    def broken(self, code: int, details: str) -> None:
        """The stream was reset or its connection is gone; what came and was not read is lost."""
        self._late_status = None
        if self._status is None:
            self._in.drop()
            self._finish(Status(code, details))

    def _is_unary(self) -> bool:
        return False

    def _took(self, message: bytes) -> None:
        granted = self._in.took(message)
        if granted and self._end is not None:
            self._end.send("window", self._id, granted)
        if self._late_status is not None and not self._in.waiting:
            self._loop.call_soon(self._finish_late)

    def _finish_late(self) -> None:
        if self._status is None and self._late_status is not None:
            self._finish(self._late_status)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, status: Status) -> None:
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._initial_metadata is None:
            self._initial_metadata = NO_METADATA
        self._core.forget(self, self._end, self._id)
        self._release()
        self._wake()
        self._in.end()
        self._out.fail()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _release(self) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def _change(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._changed.append(future)
        return future

    def _wake(self) -> None:
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)


class UnaryCall(ClientCall):
    """One whose only answer comes with its status."""

    def _is_unary(self) -> bool:
        return True


def _too_large(what: str, message: bytes, bytes_max: int) -> str:
    return f"CLIENT: {what} message larger than max ({len(message)} vs. {bytes_max})"
