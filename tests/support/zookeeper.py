"""ZooKeeper servers for tests: one per test worker, one per test that kills it, and a connection that a test can spoil."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kazoo.client import KazooClient

from stele.local.zookeeper import ZooKeeperServer
from stele.services.clock import Clock
from stele.services.coordination.kazoo_client import LeaseClient, LeaseConnection
from stele.services.coordination.records import Incarnation
from stele.services.coordination.session import Session

SESSION_TIMEOUT_S = 1.5
_numbers = itertools.count(1)


@contextlib.contextmanager
def server() -> Iterator[ZooKeeperServer]:
    """A ZooKeeper of its own, gone with its data afterwards.  Its writes are not synced: no test pulls the plug."""
    directory = Path(tempfile.mkdtemp(prefix="stele-test-zookeeper-"))
    started = ZooKeeperServer(directory, sync=False)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(directory, ignore_errors=True)


def connecting_by(kind: type[LeaseConnection]) -> Callable[[str, float, Clock], LeaseClient]:
    """What a session takes as ``connect``."""
    return lambda hosts, timeout_s, clock: LeaseClient(hosts, timeout_s, clock, connection=kind)


def unique_cluster_name() -> str:
    return f"t{os.getpid()}-{next(_numbers)}"


@asynccontextmanager
async def open_session(
    hosts: str, cluster: str, timeout_s: float = SESSION_TIMEOUT_S, **options: object
) -> AsyncIterator[Session]:
    """A started session, closed afterwards."""
    session = Session(hosts, cluster, timeout_s, **options)  # type: ignore[arg-type]
    await session.start(timeout_s=20)
    try:
        yield session
    finally:
        await session.close()


@dataclass
class Sessions:
    """Sessions of one cluster, each as if of a process of its own; all closed with ``stack``."""

    hosts: str
    cluster: str
    stack: AsyncExitStack

    async def open(self, hosts: str = "", timeout_s: float = SESSION_TIMEOUT_S, **options: object) -> Session:
        return await self.stack.enter_async_context(
            open_session(hosts or self.hosts, self.cluster, timeout_s, **options)
        )

    async def proxy(self) -> Proxy:
        return await self.stack.enter_async_context(proxy_to(self.hosts))

    async def cut_off(self) -> tuple[Session, Callable[[], None]]:
        """A session of another machine's process, and what makes it vanish without a word: the server learns of it by the timeout only."""
        proxy = await self.proxy()
        session = await self.open(proxy.hosts, incarnation=Incarnation(instance="elsewhere", machine="another machine"))
        return session, proxy.cut


async def end_session(session: Session, hosts: str = "", credentials: tuple[int, bytes] | None = None) -> None:
    """The server ends the session: somebody else presents its id and password (taken before its connection broke), and closes it."""
    await end_by_credentials(hosts or session.hosts, credentials or session.credentials)


async def end_by_credentials(hosts: str, credentials: tuple[int, bytes]) -> None:
    """The same, of any session."""

    def take_over_and_close() -> None:
        thief = KazooClient(hosts, client_id=credentials, timeout=10)
        thief.start(timeout=10)
        thief.stop()
        thief.close()

    await asyncio.to_thread(take_over_and_close)


def password_of(session_id: int) -> bytes:
    """Of any session: a server makes it from the id, by java.util.Random, so that each of an ensemble knows it."""
    multiplier, mask = 0x5DEECE66D, (1 << 48) - 1
    seed, password = ((session_id ^ 0xB3415C00) ^ multiplier) & mask, b""
    while len(password) < 16:
        seed = (seed * multiplier + 0xB) & mask
        password += (seed >> 16).to_bytes(4, "little")
    return password


def _stands(task: Path) -> bool:
    """Whether a thread (its folder under /proc) is stopped, or gone meanwhile."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def frozen(zookeeper: ZooKeeperServer) -> Iterator[None]:
    """The server stands still: it takes connections and answers nothing."""
    zookeeper.kill(signal.SIGSTOP)
    # The signal is sent, not yet taken: on a busy machine some of the server's threads go on for a moment, and answer.
    try:
        deadline = time.monotonic() + 2.0  # a server in a container has no process of ours to look at
        while time.monotonic() < deadline and not all(map(_stands, Path(f"/proc/{zookeeper.pid}/task").iterdir())):
            time.sleep(0.001)
        yield
    finally:
        zookeeper.kill(signal.SIGCONT)


class Proxy:
    """A TCP connection to a server that a test can spoil.

    ``drop_answers`` delivers what clients send and swallows what the server says, ``drop_requests`` the other way round; ``cut`` breaks
    the connections and refuses new ones; ``restore`` undoes all of it (a connection that lost bytes is broken)."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._dropping: set[str] = set()
        self._refusing = False
        self.hosts = ""

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        self.hosts = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def drop_answers(self) -> None:
        self._dropping.add("answers")

    def drop_requests(self) -> None:
        self._dropping.add("requests")

    def cut(self) -> None:
        self._refusing = True
        self._break()

    def restore(self) -> None:
        if self._dropping:
            self._break()
        self._dropping.clear()
        self._refusing = False

    def _break(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one that the streams module makes is reported as failed when the proxy stops.
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, up_writer}
        self._writers |= both
        tasks = [
            asyncio.create_task(self._pump(reader, up_writer, "requests")),
            asyncio.create_task(self._pump(up_reader, writer, "answers")),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for each in both:
                each.transport.abort()
            self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if direction not in self._dropping:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def proxy_to(hosts: str) -> AsyncIterator[Proxy]:
    proxy = await Proxy(hosts).start()
    try:
        yield proxy
    finally:
        await proxy.stop()
