"""The client's half of the simulated gRPC: what ``grpc.aio`` asks of its core, asked of the simulated network.

The call objects that users see are grpc.aio's own; ``ClientCall`` (call.py) and ``Core`` stand for the compiled ``cygrpc._AioCall``
and ``cygrpc.AioChannel`` below them.  tests/integration/rpc compares what both come to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ref

from grpc import ChannelConnectivity
from grpc._cython import cygrpc
from grpc.aio import Metadata
from grpc.aio import _call as calls
from grpc.aio import _channel as channels

from tests.simulation.cluster.rpc.call import CANCELLED, NO_METADATA, UNAVAILABLE, ClientCall, UnaryCall
from tests.simulation.cluster.rpc.network import End, Frame, Node

BACKOFF_FACTOR = 1.6
BACKOFF_JITTER = 0.2


class Core:
    """A channel: at most one connection, dialled when it is wanted and again after a failure."""

    def __init__(self, node: Node, endpoint: str, options: dict[str, Any]) -> None:
        self.node = node
        self.loop = node.loop
        self.send_bytes_max = int(options.get("grpc.max_send_message_length", -1))
        self.receive_bytes_max = int(options.get("grpc.max_receive_message_length", 4 << 20))
        self.receive_window_bytes = int(options.get("grpc.http2.lookahead_bytes", 64 << 10))
        self._endpoint = endpoint
        ping_s = options.get("grpc.http2.ping_timeout_ms", 60_000) / 1000
        keepalive_s = options.get("grpc.keepalive_time_ms", 1 << 31) / 1000
        self._keepalive_s = max(ping_s, keepalive_s)
        self._connect_timeout_s = options.get("grpc.min_reconnect_backoff_ms", 20_000) / 1000
        self._backoff_max_s = options.get("grpc.max_reconnect_backoff_ms", 120_000) / 1000
        self._first_backoff_s = options.get("grpc.initial_reconnect_backoff_ms", 1_000) / 1000
        self.state = ChannelConnectivity.IDLE
        self.calls: dict[ClientCall, None] = {}
        self._waiting: dict[ClientCall, None] = {}  # for a connection
        self._watchers: list[asyncio.Future[None]] = []
        self._end: End | None = None
        self._last_id = 0
        self._streams: dict[End, dict[int, ClientCall]] = {}
        self._attempt = 0
        self._attempt_from = 0.0
        self._dialling = False
        self._backoff_s = self._first_backoff_s
        self._backing_off: Any = None

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, unary: bool, method: str, deadline: float | None, wait_for_ready: bool | None) -> ClientCall:
        if self.state is ChannelConnectivity.SHUTDOWN:
            raise cygrpc.UsageError("Channel is closed.")
        return (UnaryCall if unary else ClientCall)(self, method, deadline, wait_for_ready)

    def pick(self, call: ClientCall) -> None:
        """Gives ``call`` the connection, now or when there is one; fails it if there is none to be had."""
        if self._end is not None:
            self._attach(call, self._end)
        elif self.state is ChannelConnectivity.TRANSIENT_FAILURE and not call.wait_for_ready:
            call.broken(UNAVAILABLE, self._why)
        else:
            self._waiting[call] = None
            self.connect()

    def _attach(self, call: ClientCall, end: End) -> None:
        self._last_id += 2
        self._streams[end][self._last_id] = call
        call.attached(end, self._last_id)

    def forget(self, call: ClientCall, end: End | None, stream_id: int) -> None:
        self.calls.pop(call, None)
        self._waiting.pop(call, None)
        if end is not None:
            streams = self._streams.get(end)
            if streams is not None:
                streams.pop(stream_id, None)
                if not streams and end is not self._end:  # one that takes no more: it was told to go
                    del self._streams[end]
                    end.close()

    # --- connecting ---------------------------------------------------------------------------------------------------

    _why = "failed to connect to all addresses"

    def check_state(self, try_to_connect: bool) -> ChannelConnectivity:
        if try_to_connect:
            self.connect()
        return self.state

    def connect(self) -> None:
        if self.state is ChannelConnectivity.IDLE:
            self._become(ChannelConnectivity.CONNECTING)
            self._dial()

    def _dial(self) -> None:
        if self.state is ChannelConnectivity.SHUTDOWN or self._end is not None or self._dialling:
            return
        self._backing_off = None
        self._dialling = True
        self._attempt += 1
        self._attempt_from = self.loop.time()
        attempt = self._attempt
        self.node.network.dial(
            self.node, self._endpoint, self._keepalive_s, lambda e, why: self._dialled(attempt, e, why)
        )
        self.loop.call_later(self._connect_timeout_s, self._dialled, attempt, None, "connection attempt timed out")

    def _dialled(self, attempt: int, end: End | None, why: str) -> None:
        if attempt != self._attempt or not self._dialling or self.state is ChannelConnectivity.SHUTDOWN:
            if end is not None:
                end.close()
            return
        self._dialling = False
        if end is not None and end.open:
            self._end, end.receiver = end, self
            self._streams[end] = {}
            self._backoff_s = self._first_backoff_s
            self._become(ChannelConnectivity.READY)
            waiting, self._waiting = self._waiting, {}
            for call in waiting:
                self._attach(call, end)
            return
        self._why = f"failed to connect to all addresses; last error: UNAVAILABLE: {self._endpoint}: {why}"
        jitter = self.node.network.rng.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        next_at = max(self.loop.time(), self._attempt_from + self._backoff_s * jitter)
        self._backoff_s = min(self._backoff_s * BACKOFF_FACTOR, self._backoff_max_s)
        self._backing_off = self.loop.call_at(next_at, self._dial)
        self._become(ChannelConnectivity.TRANSIENT_FAILURE)
        for call in [call for call in self._waiting if not call.wait_for_ready]:
            call.broken(UNAVAILABLE, self._why)

    def _become(self, state: ChannelConnectivity) -> None:
        if self.state is state:
            return
        self.state = state
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def state_change(self, last: ChannelConnectivity) -> None:
        if self.state is ChannelConnectivity.SHUTDOWN and last is ChannelConnectivity.SHUTDOWN:
            raise cygrpc.UsageError("Channel is closed.")
        while self.state is last:
            future: asyncio.Future[None] = self.loop.create_future()
            self._watchers.append(future)
            await future

    # --- what comes ---------------------------------------------------------------------------------------------------

    def frame(self, end: End, frame: Frame) -> None:
        kind, stream_id = frame[0], frame[1]
        if kind == "goaway":
            self._lose(end)
            if not self._streams[end]:
                del self._streams[end]
                end.close()
            return
        call = self._streams.get(end, {}).get(stream_id)
        if call is None:
            return
        match kind:
            case "message":
                call.message(frame[2])
            case "window":
                call.window(frame[2])
            case "initial":
                call.initial(frame[2])
            case "trailers":
                call.initial(NO_METADATA)
                call.trailers(frame[2], frame[3], frame[4])
            case "rst":
                call.broken(frame[2], frame[3])

    def broken(self, end: End, why: str) -> None:
        streams = self._streams.pop(end, {})
        self._lose(end)
        for call in list(streams.values()):
            call.broken(UNAVAILABLE, why)

    def _lose(self, end: End) -> None:
        if end is self._end:
            self._end = None
            self._become(ChannelConnectivity.IDLE)

    # --- the end ------------------------------------------------------------------------------------------------------

    def closing(self) -> None:
        self._become(ChannelConnectivity.SHUTDOWN)

    def close(self) -> None:
        self._become(ChannelConnectivity.SHUTDOWN)
        if self._backing_off is not None:
            self._backing_off.cancel()
        for call in list(self.calls):
            call.broken(CANCELLED, "Channel closed!")
        self._end = None
        streams, self._streams = self._streams, {}
        for end in streams:
            end.close()


class _Tracked:
    """The calls of a channel, in order; those that nobody holds any more are not kept."""

    def __init__(self) -> None:
        self._calls: dict[int, ref[Any]] = {}

    def add(self, call: Any) -> None:
        self._calls[id(call)] = ref(call)

    def discard(self, call: Any) -> None:
        self._calls.pop(id(call), None)

    def __iter__(self) -> Iterator[Any]:
        for call in [weak() for weak in self._calls.values()]:
            if call is not None:
                yield call


class SimulatedChannel(channels.Channel):
    """A ``grpc.aio.Channel`` over the simulated network."""

    def __init__(self, node: Node, endpoint: str, options: Sequence[tuple[str, Any]]) -> None:
        self._core = Core(node, endpoint, dict(options))
        self._loop: Any = node.loop
        self._calls = _Tracked()

    def unary_unary(self, *given: Any, **named: Any) -> Any:
        return self._maker(calls.UnaryUnaryCall, True, *given, **named)

    def unary_stream(self, *given: Any, **named: Any) -> Any:
        return self._maker(calls.UnaryStreamCall, False, *given, **named)

    def stream_unary(self, *given: Any, **named: Any) -> Any:
        return self._maker(calls.StreamUnaryCall, True, *given, **named)

    def stream_stream(self, *given: Any, **named: Any) -> Any:
        return self._maker(calls.StreamStreamCall, False, *given, **named)

    def _maker(
        self,
        kind: Any,
        unary: bool,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., Any]:
        core, loop = self._core, self._loop

        def begin(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: Any = None,
            wait_for_ready: bool | None = None,
            compression: Any = None,
        ) -> Any:
            deadline = None if timeout is None else loop.time() + timeout
            call = kind(
                request,
                deadline,
                Metadata.from_tuple(tuple(metadata)) if metadata else Metadata(),
                credentials,
                wait_for_ready,
                _Dial(core, unary),
                method,
                request_serializer,
                response_deserializer,
                loop,
            )
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            return call

        return begin

    async def _close(self, grace: float | None) -> None:
        core = self._core
        if core.state is ChannelConnectivity.SHUTDOWN:
            return
        core.closing()
        calls_open = [call for call in self._calls if not call.done()]
        if grace and calls_open:
            await asyncio.wait([self._loop.create_task(_ended(call)) for call in calls_open], timeout=grace)
        for call in calls_open:
            call.cancel()
        core.close()

    def __del__(self) -> None:
        """Nothing: when memory is given back must not decide what happens."""

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:
        return self._core.check_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: ChannelConnectivity) -> None:
        await self._core.state_change(last_observed_state)


class _Dial:
    """What a call of grpc.aio is made on: ``cygrpc.AioChannel``."""

    def __init__(self, core: Core, unary: bool) -> None:
        self._core, self._unary = core, unary

    def call(
        self, method: str, deadline: float | None, _credentials: Any, wait_for_ready: bool | None, _handle: int = 0
    ) -> ClientCall:
        return self._core.call(self._unary, method, deadline, wait_for_ready)


async def _ended(call: Any) -> None:
    try:
        await call.code()
    except Exception:
        return
