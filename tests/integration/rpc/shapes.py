"""A service with every shape and style of handler, each of which does what its request says, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

SERVICE = "stele.test.Shapes"
Act = Callable[[bytes], Awaitable[bytes]]
STYLES = [
    "unary_unary_async",
    "unary_unary_sync",
    "unary_stream_async",
    "unary_stream_write",
    "unary_stream_sync",
    "stream_unary_async",
    "stream_stream_async",
    "stream_stream_write",
]


class Shapes:
    """``raises`` is the exception that a request b"raise" meets; b"hang" is never answered."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.raises = raises
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()

    def _act(self, request: bytes) -> bytes:
        if request == b"raise":
            assert self.raises is not None
            raise self.raises
        return request

    async def _act_async(self, request: bytes) -> bytes:
        if request == b"hang":
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return self._act(request)

    async def unary_unary_async(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "asked for")
        return await self._act_async(request)

    def unary_unary_sync(self, request: bytes, _context: Any) -> bytes:
        return self._act(request)

    async def unary_stream_async(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self._act_async(request)

    async def unary_stream_write(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await context.write(await self._act_async(request))

    def unary_stream_sync(self, request: bytes, _context: Any) -> Iterator[bytes]:
        yield b"first"
        yield self._act(request)

    async def stream_unary_async(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        answer = b""
        async for request in requests:
            answer += await self._act_async(request)
        return answer

    async def stream_stream_async(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        async for request in requests:
            yield await self._act_async(request)

    async def stream_stream_write(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"first")
        async for request in requests:
            await context.write(await self._act_async(request))


def add_shapes(servicer: Shapes, server: Any) -> None:
    makers: dict[str, Callable[..., Any]] = {
        "unary_unary": grpc.unary_unary_rpc_method_handler,
        "unary_stream": grpc.unary_stream_rpc_method_handler,
        "stream_unary": grpc.stream_unary_rpc_method_handler,
        "stream_stream": grpc.stream_stream_rpc_method_handler,
    }
    handlers = {style: makers["_".join(style.split("_")[:2])](getattr(servicer, style)) for style in STYLES}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def ask(channel: grpc.aio.Channel, style: str, request: bytes, timeout_s: float = 10) -> list[bytes]:
    """Every answer to one request in the given style; raises what the call raises."""
    kind = "_".join(style.split("_")[:2])
    method = getattr(channel, kind)(f"/{SERVICE}/{style}")

    async def requests() -> AsyncIterator[bytes]:
        yield request

    call = method(requests() if kind.startswith("stream") else request, timeout=timeout_s)
    if kind.endswith("unary"):
        return [await call]
    return [answer async for answer in call]
