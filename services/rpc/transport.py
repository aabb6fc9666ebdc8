"""Where channels and servers come from: gRPC over this machine's network.  The simulator has a network of its own.

What a process needs of a network goes through here and nowhere else; ``Channels`` and ``Server`` are handed a ``Transport``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import grpc

Options = Sequence[tuple[str, Any]]


class ReservedPort(Protocol):
    """A port that is this process's and does not listen yet; a server of this process may open it meanwhile."""

    @property
    def number(self) -> int: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """``channel`` and ``server`` are gRPC's, of whatever network."""

    def channel(self, endpoint: str, credentials: grpc.ChannelCredentials | None, options: Options) -> Any: ...

    def server(self, interceptors: Sequence[Any], options: Options) -> Any: ...

    def reserve(self, host: str, port: int, *, setting: str = "port") -> ReservedPort:
        """Port 0: chosen by the system.  Raises PortTaken or InvalidConfig, which names ``setting``."""
        ...

    async def knock(self, endpoint: str) -> None:
        """Returns if somebody listens at ``endpoint``.  OSError: what the system says, ConnectionRefusedError where nobody does.  To be
        bound by the caller: it may never return."""
        ...


class _Reserved:
    def __init__(self, host: str, port: int, setting: str) -> None:
        from stele.services.ports import bind  # with the settings of a server, which a client does without

        self._socket = bind(host, port, setting=setting)
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


class GrpcTransport:
    """The real one."""

    def channel(self, endpoint: str, credentials: grpc.ChannelCredentials | None, options: Options) -> Any:
        if credentials is None:
            return grpc.aio.insecure_channel(endpoint, options=options)
        return grpc.aio.secure_channel(endpoint, credentials, options=options)

    def server(self, interceptors: Sequence[Any], options: Options) -> Any:
        return grpc.aio.server(interceptors=interceptors, options=options)

    def reserve(self, host: str, port: int, *, setting: str = "port") -> ReservedPort:
        return _Reserved(host, port, setting)

    async def knock(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()


GRPC: Transport = GrpcTransport()
