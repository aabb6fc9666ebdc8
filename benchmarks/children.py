"""Processes of a benchmark: started, spoken to over their standard input and output, ended.

Guarantee: when ``Children`` is left, for whatever reason, every process that it started is dead and reaped.  A benchmark that is itself
killed leaves none behind either: a child ends when its standard input ends.

The language is one JSON object per line: ``{"id": 7, "do": "open", …}`` is answered with ``{"id": 7, "ok": …}`` or ``{"id": 7, "error":
"…"}``, in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINE_BYTES_MAX = 16 << 20
START_TIMEOUT_S = 60.0


class ChildGone(Exception):
    """The process ended before it answered."""


class ChildFailed(Exception):
    """The process answered with an error."""


class Child:
    """One process.  ``ask`` waits for its answer."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._reading.done()

    async def ask(self, do: str, timeout_s: float = START_TIMEOUT_S, **arguments: object) -> Any:
        """The answer to one command.  ChildGone, ChildFailed, TimeoutError."""
        if not self.is_alive:
            raise ChildGone(self.name)
        assert self._process.stdin is not None
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
            async with asyncio.timeout(timeout_s):  # `wait_for` hides an interrupt that comes with the answer
                return await answer
        except (BrokenPipeError, ConnectionResetError):
            raise ChildGone(self.name) from None
        except TimeoutError:
            raise TimeoutError(f"{self.name}: no answer to {do!r} within {timeout_s:g} s") from None
        finally:
            self._asked.pop(number, None)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                answer = json.loads(line)
                asked = self._asked.get(answer["id"])
                if asked is None or asked.done():
                    continue
                if "error" in answer:
                    asked.set_exception(ChildFailed(f"{self.name}: {answer['error']}"))
                else:
                    asked.set_result(answer["ok"])
        finally:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(ChildGone(self.name))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """Dead and reaped when this returns."""
        self.kill()
        await self._process.wait()
        await asyncio.gather(self._reading, return_exceptions=True)


class Children:
    """``async with Children(errors) as children``; what they say on standard error goes to the file ``errors``."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        self._running: list[Child] = []

    async def start(
        self, name: str, module: str, environment: Mapping[str, str] | None = None, **first: object
    ) -> Child:
        """Starts ``python -m module`` and waits for its answer to the command ``start`` with the arguments ``first``."""
        with self._errors.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                limit=LINE_BYTES_MAX,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends its children
            )
        child = Child(name, process)
        self._running.append(child)
        await child.ask("start", START_TIMEOUT_S, **first)
        return child

    async def end(self, child: Child) -> None:
        await child.end()
        if child in self._running:
            self._running.remove(child)

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        running, self._running = self._running, []
        for child in running:
            child.kill()
        await asyncio.gather(*(child.end() for child in running), return_exceptions=True)


async def until(holds: Callable[[], Awaitable[bool]], what: str, timeout_s: float, pause_s: float = 0.05) -> None:
    """Returns once ``holds`` says so.  TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {what} within {timeout_s:g} s")
        await asyncio.sleep(pause_s)


# --- the child's side -----------------------------------------------------------------------------------------------

Handler = Callable[..., Awaitable[Any]]


async def serve(handlers: Mapping[str, Handler]) -> None:
    """Answers commands until standard input ends.  Each runs as a task of its own."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        asked = json.loads(line)
        task = loop.create_task(_answer(handlers[asked.pop("do")], asked.pop("id"), asked))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)  # the benchmark is gone: nothing here is worth an orderly end


async def _answer(handler: Handler, number: int, arguments: dict[str, Any]) -> None:
    try:
        say({"id": number, "ok": await handler(**arguments)})
    except Exception as e:
        cause = e
        while isinstance(cause, ExceptionGroup):
            cause = cause.exceptions[0]
        say({"id": number, "error": f"{type(cause).__name__}: {cause}"})


def say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


@asynccontextmanager
async def ended(children: Children, *started: Child) -> AsyncIterator[None]:
    """The processes ``started`` are dead when the block is left."""
    try:
        yield
    finally:
        await asyncio.gather(*(children.end(child) for child in started))
