"""Channels to other processes, one per endpoint, and calls on them.

Guarantee: ``call`` has a deadline, raises errors of the tree alone, and says *definite* (Unreachable) only when nothing was sent.  A
peer that is killed is noticed at once, one that is frozen or cut off within ``KEEPALIVE_TIME_MS + PING_TIMEOUT_MS``; a peer that comes
back is reached again within ``RECONNECT_BACKOFF_MAX_MS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
from grpc import ChannelConnectivity

from stele.services.errors import MessageTooLarge, Unreachable
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.status import typed_errors
from stele.services.rpc.transport import GRPC, Transport

KEEPALIVE_TIME_MS = 2_000
PING_TIMEOUT_MS = 2_000
RECONNECT_BACKOFF_MAX_MS = 1_000

# With `keepalive_timeout_ms` alone a frozen peer is noticed only after a minute; `ping_timeout_ms` is what counts.  Each channel has its
# own subchannels, so that closing and dialling again really dials; names are resolved again at once, since a restarted container has
# another address; proxies are for the internet.
CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_BACKOFF_MAX_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_BACKOFF_MAX_MS),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.dns_min_time_between_resolutions_ms", RECONNECT_BACKOFF_MAX_MS),
    ("grpc.enable_http_proxy", 0),
    ("grpc.client_idle_timeout_ms", 60_000),  # an address that nobody uses any more is not dialled for ever
)


class Method:
    """A method of a stub that knows its channel, so that ``call`` can tell "never sent" from "sent and lost".

    It holds the channel itself: a table beside it that finds one by the other would keep both for ever as soon as the channel leads back
    to the method, as it does through its event loop."""

    __slots__ = ("_begin", "channel")

    def __init__(self, channel: Channel, begin: Callable[..., Any]) -> None:
        self.channel, self._begin = channel, begin

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(*args, **kwargs)


class Channel(grpc.aio.Channel):
    """A gRPC channel whose methods know it."""

    def __init__(
        self,
        endpoint: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        transport: Transport = GRPC,
    ) -> None:
        self.endpoint = endpoint
        self._inner: Any = transport.channel(endpoint, credentials, (*CHANNEL_OPTIONS, *options))

    async def connected(self, timeout_s: float) -> None:
        """Returns once the connection stands.  Raises Unreachable if it does not within ``timeout_s``, or as soon as an attempt fails."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected()
        except TimeoutError:
            raise Unreachable(
                f"{self.endpoint} was not reached within {timeout_s:g} s", endpoint=self.endpoint
            ) from None
        except grpc.aio.UsageError:
            raise Unreachable(f"the channel to {self.endpoint} is closed", endpoint=self.endpoint) from None

    @property
    def is_connected(self) -> bool:
        return self.get_state() is ChannelConnectivity.READY

    async def _connected(self) -> None:
        state = self.get_state(try_to_connect=True)
        while state is not ChannelConnectivity.READY:
            if state is ChannelConnectivity.TRANSIENT_FAILURE:
                raise Unreachable(f"{self.endpoint} could not be reached", endpoint=self.endpoint)
            if state is ChannelConnectivity.SHUTDOWN:
                raise Unreachable(f"the channel to {self.endpoint} is closed", endpoint=self.endpoint)
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return Method(self, self._inner.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return Method(self, self._inner.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return Method(self, self._inner.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return Method(self, self._inner.stream_stream(*args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:
        return cast(ChannelConnectivity, self._inner.get_state(try_to_connect))

    async def wait_for_state_change(self, last_observed_state: ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Channels:
    """The channels of a process.  ``credentials`` is where TLS goes in; without it connections are plain."""

    def __init__(self, credentials: grpc.ChannelCredentials | None = None, *, transport: Transport = GRPC) -> None:
        self._credentials = credentials
        self._transport = transport
        self._open: dict[str, Channel] = {}

    def get(self, endpoint: str) -> Channel:
        """The channel to ``endpoint``; dialled at its first use."""
        channel = self._open.get(endpoint)
        if channel is None:
            channel = self._open[endpoint] = Channel(endpoint, self._credentials, transport=self._transport)
        return channel

    def apart(self, endpoint: str, options: Sequence[tuple[str, Any]] = ()) -> Channel:
        """Another channel, with a connection of its own; the caller closes it."""
        return Channel(endpoint, self._credentials, options, self._transport)

    async def connected(self, endpoint: str, timeout_s: float) -> Channel:
        """The channel to ``endpoint``, with its connection standing.  Raises Unreachable: nothing was sent."""
        channel = self.get(endpoint)
        await channel.connected(timeout_s)
        return channel

    async def knock(self, endpoint: str) -> None:
        """Returns if somebody listens at ``endpoint``; OSError otherwise (services/rpc/transport.py).  It may never return."""
        await self._transport.knock(endpoint)

    async def close(self, endpoint: str | None = None) -> None:
        """Closes one channel, or all; calls on it end with ConnectionBroken."""
        closing = list(self._open) if endpoint is None else [endpoint]
        channels = [self._open.pop(e) for e in closing if e in self._open]
        await asyncio.gather(*(channel.close() for channel in channels))


async def call(method: Any, request: Any, timeout_s: float, metadata: tuple[tuple[str, str], ...] | None = None) -> Any:
    """The answer of a unary call; ``method`` is one of a generated stub on a channel of ``Channels``.  Raises SteleError: Unreachable
    if the request never left, MessageTooLarge if it never may."""
    if request.ByteSize() > MESSAGE_BYTES_MAX:
        raise MessageTooLarge(
            f"the request has {request.ByteSize()} bytes, accepted are {MESSAGE_BYTES_MAX}", bytes_max=MESSAGE_BYTES_MAX
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    if isinstance(method, Method):
        await method.channel.connected(timeout_s)
    with typed_errors(timeout_s=timeout_s):
        return await method(request, timeout=max(0.001, deadline - loop.time()), metadata=metadata)
