"""One store's transport with a listener that remembers what it was told; in this process, or in one of its own that can be stopped.

    python -m tests.integration.raft.transport_peer STORE_ID SNAPSHOT_BYTES ID=PORT…

prints its port and then ``connected STORE`` and the like; every message that it receives goes back to its sender.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from stele.services.errors import StoreTombstone, StoreUnknown
from stele.services.pb import raft_pb2 as pb
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.storage import Members, Snapshot
from stele.services.raft.timing import Timing
from stele.services.raft.transport import RaftTransport
from stele.services.rpc.channels import Channels
from stele.services.rpc.resolution import StoreAddress
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.servers import Server

TIMING = Timing(heartbeat_s=0.05, election_min_s=0.5, election_max_s=1.0)


def content(size: int) -> bytes:
    """The same bytes in every process."""
    block = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(32))
    return (block * (size // len(block) + 1))[:size]


class Source:
    """An open snapshot that remembers how it is used."""

    def __init__(self, state: bytes, slow_s: float = 0.0) -> None:
        self.snapshot = Snapshot(10, 1, Members((1, 2)), 0, 0, len(state), 0)
        self.state = state
        self.slow_s = slow_s
        self.reads: list[tuple[int, int]] = []
        self.closed = 0

    def read(self, offset: int, length: int) -> bytes:
        assert not self.closed, "read after close"
        time.sleep(self.slow_s)
        self.reads.append((offset, length))
        return self.state[offset : offset + length]

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed += 1


class Listener:
    def __init__(self, told: Callable[[str, int], None] = lambda what, store: None) -> None:
        self.events: list[tuple[str, int]] = []
        self.received: list[pb.RaftMessage] = []
        self.snapshots: dict[tuple[int, int], Source] = {}
        self.opened: list[Source] = []
        self.told = told
        self.on_message: Callable[[int, pb.RaftMessage], None] = lambda sender, message: None

    def deliver(self, sender: int, message: pb.RaftMessage) -> None:
        self.received.append(message)
        self.on_message(sender, message)

    def peer_connected(self, store_id: int) -> None:
        self._tell("connected", store_id)

    def peer_disconnected(self, store_id: int) -> None:
        self._tell("disconnected", store_id)

    def peer_gone(self, store_id: int) -> None:
        self._tell("gone", store_id)

    def peer_silent(self, store_id: int) -> None:
        self._tell("silent", store_id)

    def peer_active(self, store_id: int) -> None:
        self._tell("heard", store_id)

    def turn(self, store_id: int, group_id: int) -> None:
        self._tell("turn", store_id)

    def open_snapshot(self, group_id: int, index: int) -> Source:
        source = self.snapshots[group_id, index]
        self.opened.append(source)
        return source

    def count(self, what: str) -> int:
        return Counter(name for name, _ in self.events)[what]

    def _tell(self, what: str, store_id: int) -> None:
        self.events.append((what, store_id))
        self.told(what, store_id)


class Peer:
    """``addresses`` is shared by all peers of a test: store id → Raft endpoint."""

    def __init__(
        self,
        store_id: int,
        addresses: dict[int, str],
        timing: Timing = TIMING,
        port: int = 0,
        transport: type[RaftTransport] = RaftTransport,
    ) -> None:
        self.store_id = store_id
        self.addresses = addresses
        self.removed: set[int] = set()
        self.listener = Listener()
        self.channels = Channels()
        self.resolver = Resolver(self._lookup, rng=random.Random(store_id))
        self.transport = transport(
            store_id, "cluster", self.channels, self.resolver, random.Random(store_id), timing=timing
        )
        self.transport.listen(self.listener)
        self.server = Server("127.0.0.1", port)
        self.server.add(raft_pb2_grpc.add_RaftServicer_to_server, self.transport, "stele.v1.Raft")

    async def _lookup(self, store_id: int) -> StoreAddress:
        if store_id in self.removed:
            raise StoreTombstone(f"store {store_id} was removed", store_id=store_id)
        if store_id not in self.addresses:
            raise StoreUnknown(f"store {store_id} is not there yet", store_id=store_id)
        return StoreAddress("", self.addresses[store_id])

    async def start(self) -> Peer:
        port = await self.server.start()
        self.addresses[self.store_id] = f"127.0.0.1:{port}"
        return self

    async def stop(self) -> None:
        await self.transport.close()
        await self.server.stop(0)
        await self.resolver.close()
        await self.channels.close()

    def say(self, to: int, group: int) -> None:
        self.transport.send(to, pb.RaftMessage(group=group, timeout_now=pb.TimeoutNow()))
        self.transport.flush()


@asynccontextmanager
async def peers(
    *store_ids: int, timing: Timing = TIMING, transport: type[RaftTransport] = RaftTransport
) -> AsyncIterator[list[Peer]]:
    addresses: dict[int, str] = {}
    started = [await Peer(i, addresses, timing, transport=transport).start() for i in store_ids]
    try:
        yield started
    finally:
        for peer in started:
            await peer.stop()


class Child:
    """A peer in a process of its own.  ``told`` gathers what its listener was told."""

    def __init__(self, store_id: int) -> None:
        self.store_id = store_id
        self.told: list[str] = []

    async def start(self, addresses: dict[int, str], snapshot_bytes: int = 0) -> None:
        known = [f"{i}={endpoint.rpartition(':')[2]}" for i, endpoint in addresses.items()]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            str(self.store_id),
            str(snapshot_bytes),
            *known,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        port = int(await asyncio.wait_for(self.process.stdout.readline(), 20))
        addresses[self.store_id] = f"127.0.0.1:{port}"
        self._reading = asyncio.create_task(self._read(self.process.stdout))

    async def _read(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            self.told.append(line.decode().strip())

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


async def _main(store_id: int, snapshot_bytes: int, *known: str) -> None:
    addresses = {int(i): f"127.0.0.1:{port}" for i, _, port in (k.partition("=") for k in known)}
    peer = Peer(store_id, addresses)
    peer.listener.told = lambda what, store: print(what, store, flush=True)
    peer.listener.snapshots[1, 10] = Source(content(snapshot_bytes))
    peer.listener.on_message = lambda sender, message: peer.say(sender, message.group)
    await peer.start()
    print(addresses[store_id].rpartition(":")[2], flush=True)
    for i in known:
        peer.transport.use(int(i.partition("=")[0]))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
