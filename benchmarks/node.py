"""A store of a benchmark: registry, transport and storage wired as in the datanode, without ZooKeeper around them.

Started by ``children.py``; its commands are the methods of ``Node`` that ``COMMANDS`` names.
"""

from __future__ import annotations

import asyncio
import random
import sys
import sysconfig
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import children
from benchmarks.loads import Figures, Run, payload_of
from stele.datanode.directory import GroupSpec
from stele.datanode.gate import SETTLED_CHECK_S
from stele.datanode.replica import Replica
from stele.datanode.storage import opener
from stele.services import logs, malloc
from stele.services.config import DatanodeConfig
from stele.services.errors import NotLeader, SteleError
from stele.services.pb import raft_pb2_grpc
from stele.services.raft.group import Group
from stele.services.raft.registry import Registry
from stele.services.raft.timing import Timing
from stele.services.raft.transport import RaftTransport
from stele.services.rpc.channels import Channels
from stele.services.rpc.resolution import StoreAddress
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.servers import Server

CLUSTER = "benchmark"
MAY_LEAD_TIMEOUT_S = 60.0


class Counting:
    """The cheapest state machine: what is measured is replication."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.count += 1
        return self.count

    def snapshot(self) -> tuple[bytes, int]:
        return self.count.to_bytes(8, "big"), self.count

    def restore(self, state: bytes) -> None:
        self.count = int.from_bytes(state, "big")


class _Room:
    """A disk that is never full."""

    def take(self, size: int) -> bool:
        return True


class Node:
    """One store.  ``start`` comes first."""

    def __init__(self) -> None:
        self._config: DatanodeConfig
        self._registry: Registry
        self._store_id = 0
        self._members: tuple[int, ...] = ()
        self._server: Server  # kept: a server that is forgotten closes its port

    async def start(self, store_id: int, directory: str, ports: Sequence[int]) -> Figures:
        """Store ``store_id`` of ``len(ports)``, with the product's default settings."""
        logs.configure("json", "error")
        malloc.tune()
        self._store_id = store_id
        self._members = tuple(range(1, len(ports) + 1))
        self._config = config = DatanodeConfig(name=f"dn{store_id}", cluster=CLUSTER, data_dir=directory)
        rng = random.Random()

        async def look_up(wanted: int) -> StoreAddress:
            return StoreAddress("", f"127.0.0.1:{ports[wanted - 1]}")

        transport = RaftTransport(store_id, CLUSTER, Channels(), Resolver(look_up, rng=rng), rng)
        open_storage: Any = opener(config.segment_bytes, 0)
        self._registry = Registry(
            store_id,
            Path(directory) / "groups",
            transport,
            open_storage,
            observed_ms=lambda: round(time.monotonic() * 1000),
            rng=rng,
            timing=Timing(election_min_s=config.election_timeout_min_s, election_max_s=config.election_timeout_max_s),
            entry_bytes_max=config.entry_bytes_max,
        )
        self._server = Server("127.0.0.1", ports[store_id - 1])
        self._server.add(raft_pb2_grpc.add_RaftServicer_to_server, transport, "stele.v1.Raft")
        await self._server.start()
        return {}

    async def open(self, count: int, partitions: bool = False) -> Figures:
        """Groups 1..``count`` as at the start of a datanode: opened, settled, then they may lead."""
        begin = time.perf_counter()
        places = asyncio.Semaphore(self._config.load_parallelism)

        async def one(group_id: int) -> None:
            async with places:
                self._registry.path(group_id).mkdir(parents=True, exist_ok=True)
                if partitions:
                    spec = GroupSpec(group_id, "benchmark", group_id, self._members)
                    replica = Replica(spec, self._store_id, self._config.entry_bytes_max, _Room())
                    replica.run(await self._registry.create(group_id, self._members, replica))
                else:
                    await self._registry.create(group_id, self._members, Counting())

        async with asyncio.TaskGroup() as tasks:
            for group_id in range(1, count + 1):
                tasks.create_task(one(group_id))
        opened = time.perf_counter()
        async with asyncio.timeout(MAY_LEAD_TIMEOUT_S):
            while True:
                if all(group.settled for group in self._registry.groups()):
                    break
                await asyncio.sleep(SETTLED_CHECK_S)
        self._registry.may_lead = True
        return {"opened_s": opened - begin, "settled_s": time.perf_counter() - begin}

    async def state(self) -> Figures:
        """What there is of each kind among the groups."""
        groups = self._registry.groups()
        return {
            "groups": len(groups),
            "led": sum(group.is_leader for group in groups),
            "with_leader": sum(group.leader_store_id != 0 for group in groups),
            "applied": sum(group.applied_index for group in groups),
            "failed": [group.problem for group in groups if group.problem][:3],
        }

    def _group(self) -> Group:
        group = self._registry.get(1)
        assert group is not None
        return group

    async def load(self, size: int, in_flight: int, seconds: float) -> Figures:
        """Proposals to group 1, which this store leads: each answer brings the next."""
        group, payload = self._group(), payload_of(size)
        run = Run(size, seconds, time.perf_counter())
        outstanding = 0
        over = asyncio.Event()
        problems: list[str] = []

        def propose() -> None:
            nonlocal outstanding
            outstanding += 1
            asked = time.perf_counter()
            group.propose(payload).add_done_callback(lambda done: answered(done, asked))

        def answered(done: asyncio.Future[object], asked: float) -> None:
            nonlocal outstanding
            outstanding -= 1
            now = time.perf_counter()
            if (error := done.exception()) is None:
                run.answered(asked, now)
            else:
                problems.append(repr(error))
            if error is None and now < run.end:
                propose()
            elif not outstanding:
                over.set()

        for _ in range(in_flight):
            propose()
        await over.wait()
        return run.result() | ({"problem": problems[0]} if problems else {})

    async def propose(self, size: int) -> Figures:
        """One write for a client elsewhere: acknowledged, or who leads instead."""
        try:
            await self._group().propose(payload_of(size))
        except NotLeader as e:
            return {"leader": e.facts.get("leader")}
        except SteleError as e:
            return {"error": repr(e)}
        return {"acknowledged": True}

    async def trace(self, on: bool) -> Figures:
        """Begins to count what Python allocates; or where it went since, largest first."""
        if on:
            tracemalloc.start(1)
            return {}
        statistics = tracemalloc.take_snapshot().statistics("lineno")
        tracemalloc.stop()
        return {
            "bytes": sum(s.size for s in statistics),
            "top": [{"where": _where(s), "bytes": s.size, "count": s.count} for s in statistics[:25]],
        }


async def run() -> None:
    node = Node()
    commands: dict[str, Any] = {
        name: getattr(node, name) for name in ("start", "open", "state", "load", "propose", "trace")
    }
    await children.serve(commands)


def _where(statistic: tracemalloc.Statistic) -> str:
    """File and line without the folders of this machine: a package's files by their names in it."""
    frame = statistic.traceback[0]
    folders = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))
    folder = next((f for f in folders if frame.filename.startswith(f)), "")
    return f"{frame.filename.removeprefix(folder).lstrip('/')}:{frame.lineno}"


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    sys.exit(0)
