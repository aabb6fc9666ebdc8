"""The leader of a group killed with -9 while a client writes: how long until a write is acknowledged again.

The client follows the leader: it asks the store that led last, then the one that is named or the next one, a few milliseconds apart.
The time runs from the kill to the first acknowledgement of a write that was sent after it.  The killed store is started again and has
caught up before the next kill.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from benchmarks.children import Child, ChildGone, Children, ended, until
from benchmarks.clusters import start_ours, start_store
from benchmarks.loads import Figures
from benchmarks.raft import Say
from benchmarks.report import Row, row
from benchmarks.samples import median, percentile

WRITE_BYTES = 100
WRITE_PAUSE_S = 0.005
ANSWER_TIMEOUT_S = 1.0
RESUME_TIMEOUT_S = 30.0


class Client:
    """Writes one after the other to whoever leads."""

    def __init__(self, nodes: dict[int, Child]) -> None:
        self._nodes = nodes
        self.leader = next(iter(nodes))
        self.acknowledged = 0

    async def write(self) -> None:
        """Returns once a write is acknowledged.  TimeoutError."""
        async with asyncio.timeout(RESUME_TIMEOUT_S):
            while True:
                if await self._try():
                    break
                await asyncio.sleep(WRITE_PAUSE_S)
        self.acknowledged += 1

    async def _try(self) -> bool:
        named = None
        node = self._nodes.get(self.leader)
        if node is not None:
            try:
                answer = await node.ask("propose", ANSWER_TIMEOUT_S, size=WRITE_BYTES)
            except (ChildGone, TimeoutError):
                answer = {}
            if answer.get("acknowledged"):
                return True
            named = answer.get("leader")
        others = sorted(self._nodes, key=lambda store_id: (store_id <= self.leader, store_id))
        self.leader = named if named in self._nodes else others[0]
        return False


async def measure(children: Children, directory: Path, kills: int, say: Say) -> Figures:
    started, ports = await start_ours(children, directory)
    nodes = dict(enumerate(started, 1))
    times: list[float] = []
    async with ended(children, *started):
        await asyncio.gather(*(node.ask("open", count=1) for node in nodes.values()))
        client = Client(nodes)
        for number in range(kills):
            for _ in range(random.randint(10, 60)):
                await client.write()
                await asyncio.sleep(WRITE_PAUSE_S)
            say(f"failover: kill {number + 1} of {kills}")
            victim = client.leader
            killed = nodes.pop(victim)
            begin = time.perf_counter()
            killed.kill()
            await client.write()
            times.append(time.perf_counter() - begin)
            await children.end(killed)
            nodes[victim] = await start_store(children, directory, ports, victim)
            await nodes[victim].ask("open", count=1)
            await _caught_up(nodes)
        await asyncio.gather(*(children.end(node) for node in nodes.values()))
    return {"kills": kills, "seconds": [round(t, 4) for t in times], "writes": client.acknowledged}


async def _caught_up(nodes: dict[int, Child]) -> None:
    async def same() -> bool:
        states: list[Figures] = await asyncio.gather(*(node.ask("state") for node in nodes.values()))
        return len({state["applied"] for state in states}) == 1 and all(state["with_leader"] for state in states)

    await until(same, "caught up", RESUME_TIMEOUT_S)


def rows(found: Figures) -> list[Row]:
    times = [t * 1e3 for t in found["seconds"]]
    what = f"leader killed, writes resume, {{}} of {found['kills']}"
    return [
        row("failover", what.format("median"), median(times), "ms", at_most=300),
        row("failover", what.format("p99"), percentile(times, 0.99), "ms", ("largest", max(times)), at_most=1000),
    ]
