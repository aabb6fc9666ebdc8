"""A stream whose handler does what each request says, and what both sides saw of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from stele.services.errors import NotLeader, SteleError
from stele.services.rpc.channels import Channel, Channels
from stele.services.rpc.servers import Server
from stele.services.rpc.status import from_rpc_error
from stele.services.rpc.transport import GRPC, Transport
from tests.simulation.cluster.rpc.alone import Alone
from tests.simulation.cluster.rpc.transport import SimulatedTransport

SERVICE = "stele.test.Script"
EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
WAIT_S = 60.0
Seen = tuple[object, ...]
Scenario = Callable[["Stage"], Awaitable[None]]


class Script:
    """``seen`` is what the handlers saw, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.changed = asyncio.Event()
        self.go_on = asyncio.Event()
        self.reads = 0

    def see(self, what: str) -> None:
        self.seen.append(what)
        self.changed.set()

    async def saw(self, what: str) -> None:
        """Returns once a handler has seen it."""
        async with asyncio.timeout(WAIT_S):
            while what not in self.seen:
                self.changed.clear()
                await self.changed.wait()

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Reader and writer."""
        try:
            async for request in requests:
                if await self._do(request, context):
                    self.see("ended")
                    return
            self.see("EOF")
            await context.write(b"last")
        except asyncio.CancelledError:
            self.see("cancelled")
            raise
        except Exception as e:
            self.see(f"raised {type(e).__name__}")
            raise

    async def generate(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            for number in range(int(request)):
                yield b"%d" % number
            await self._do(b"leader", context)
        except asyncio.CancelledError:
            self.see("cancelled")
            raise

    async def pour(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """More than anybody takes."""
        try:
            for _ in range(3000):
                yield b"x" * 10_000
                self.see("poured")
        finally:
            self.see("left")

    async def once(self, request: bytes, context: Any) -> bytes:
        try:
            await self._do(request, context)
        except asyncio.CancelledError:
            self.see("cancelled")
            raise
        return b"x" * int(request[4:]) if request.startswith(b"big:") else request

    async def _do(self, request: bytes, context: Any) -> bool:
        what, _, rest = request.partition(b":")
        match what:
            case b"echo":
                await context.write(rest)
            case b"twice":
                await context.write(rest)
                await context.write(rest)
            case b"write":
                await context.write(b"x" * int(rest))
            case b"end":
                return True
            case b"leader":
                raise NotLeader("not here", leader="a:1")
            case b"plain":
                raise ValueError("secret")
            case b"abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "asked for")
            case b"wait":
                self.see("waits")
                await asyncio.Event().wait()
            case b"until":
                self.see("waits")
                await self.go_on.wait()
            case b"flood":
                for _ in range(int(rest)):
                    await context.write(b"x" * 10_000)
                    self.see("wrote")
            case b"metadata":
                given = dict(context.invocation_metadata())
                await context.send_initial_metadata((("first", "1"),))
                context.set_trailing_metadata((("last", given.get("asked", "")),))
        return False


def add_script(servicer: Script, server: Any) -> None:
    handlers = {
        "talk": grpc.stream_stream_rpc_method_handler(servicer.talk),
        "generate": grpc.unary_stream_rpc_method_handler(servicer.generate),
        "pour": grpc.unary_stream_rpc_method_handler(servicer.pour),
        "once": grpc.unary_unary_rpc_method_handler(servicer.once),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class Stage:
    """A server and a client of it, over whichever transport; ``seen`` is what the client saw."""

    def __init__(self, transport: Transport, host: str) -> None:
        self.transport, self.host = transport, host
        self.script = Script()
        self.channels = Channels(transport=transport)
        self.seen: list[object] = []
        self.endpoint = ""
        self.server: Server

    async def serve(self, port: int = 0) -> None:
        self.server = Server(self.host, port, transport=self.transport)
        self.server.add(add_script, self.script, SERVICE)
        self.endpoint = f"{self.host}:{await self.server.start()}"

    @property
    def channel(self) -> Channel:
        return self.channels.get(self.endpoint)

    def talk(self, **given: Any) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/talk")(**given)

    def generate(self, count: int, **given: Any) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/generate")(b"%d" % count, **given)

    def once(self, request: bytes, **given: Any) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/once")(request, **given)

    async def see(self, what: str, work: Awaitable[Any]) -> Any:
        """Notes what ``work`` came to."""
        self.seen.append((what, *await outcome(work)))

    async def code_of(self, call: Any) -> None:
        """Notes the end of a call; waits for it."""
        async with asyncio.timeout(WAIT_S):
            self.seen.append(("code", (await call.code()).name))

    async def close(self) -> None:
        await self.channels.close()
        await self.server.stop()


async def outcome(work: Awaitable[Any]) -> Seen:
    """What it came to, without what no two runs have in common."""
    try:
        async with asyncio.timeout(WAIT_S):
            result = await work
    except grpc.RpcError as e:
        error = from_rpc_error(e)
        code: Any = e.code()  # type: ignore[attr-defined]
        return (code.name, error.reason, error.definite, error.facts.get("leader", ""))
    except SteleError as e:
        return (e.reason, e.definite)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return ("CancelledError",)
    except Exception as e:
        return (type(e).__name__,)
    if result is EOF:
        return ("EOF",)
    return (bytes(result[:20]), len(result)) if isinstance(result, bytes) else (result,)


async def no_progress(counted: Callable[[], int], for_s: float = 0.7) -> int:
    """The count once it has stood still for so long."""
    last = -1
    while (now := counted()) != last:
        last = now
        await asyncio.sleep(for_s)
    return last


async def given_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


def real(scenario: Scenario) -> tuple[list[object], list[str]]:
    async def run() -> tuple[list[object], list[str]]:
        stage = Stage(GRPC, "127.0.0.1")
        try:
            await scenario(stage)
        finally:
            await stage.close()
        return stage.seen, settled(stage.script.seen)

    return asyncio.run(run())


def simulated(scenario: Scenario, seed: int = 0) -> tuple[list[object], list[str]]:
    world = Alone(seed)
    node = world.node("h")

    async def run() -> tuple[list[object], list[str]]:
        stage = Stage(SimulatedTransport(node), "h")
        try:
            await scenario(stage)
        finally:
            await stage.close()
        return stage.seen, settled(stage.script.seen)

    found = world.run(node, run)
    assert not world.unhandled
    return found


def settled(seen: list[str]) -> list[str]:
    """A handler that reads when its client goes may see the end of the stream before it is cancelled, or not."""
    return [what for what, then in zip(seen, [*seen, ""][1:], strict=True) if (what, then) != ("EOF", "cancelled")]
