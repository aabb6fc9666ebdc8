"""Starts processes of tests.integration.rpc.peer, and ends what a test left."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


class Peer:
    """One process; ``endpoint`` is where it listens, the same after a restart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.endpoint = ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Peer:
        port = self.endpoint.rpartition(":")[2] or "0"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.rpc.peer",
            self.name,
            port,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.endpoint = (await asyncio.wait_for(self._process.stdout.readline(), 30)).decode().strip()
        return self

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
