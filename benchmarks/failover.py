"""The leader of a group killed with -9 while a client writes: how long until a write is acknowledged again.

The client follows the leader: it asks the store that led last, then the one that is named or the next one, a few milliseconds apart.
The time runs from the kill to the first acknowledgement of a write that was sent after it.  The killed store is started again and has
caught up before the next kill.  The same is done to stock PySyncObj a few times.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.children import Child, ChildGone, Children, until
from benchmarks.clusters import start_all_stock, start_ours, start_stock, start_store
from benchmarks.loads import Figures
from benchmarks.raft import Say
from benchmarks.report import Row, row
from benchmarks.samples import median, percentiles

WRITE_BYTES = 100
WRITE_PAUSE_S = 0.005
ANSWER_TIMEOUT_S = 1.0
RESUME_TIMEOUT_S = 30.0


class Client:
    """Writes one after the other to whoever leads."""

    def __init__(self, nodes: dict[int, Child]) -> None:
        self._nodes = nodes
        self.leader = next(iter(nodes))

    async def write(self) -> None:
        """Returns once a write is acknowledged.  TimeoutError."""
        async with asyncio.timeout(RESUME_TIMEOUT_S):
            while True:
                if await self._try():
                    break
                await asyncio.sleep(WRITE_PAUSE_S)

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


async def measure(children: Children, directory: Path, kills: int, stock_kills: int, say: Say) -> Figures:
    started, ports = await start_ours(children, directory)
    await asyncio.gather(*(node.ask("open", count=1) for node in started))

    async def start_again(store_id: int) -> Child:
        node = await start_store(children, directory, ports, store_id)
        await node.ask("open", count=1)
        return node

    seconds = await _kill_leaders(children, started, start_again, kills, "failover", say)
    found: Figures = {"kills": kills, "seconds": seconds}
    if stock_kills:
        replicas, stock_ports = await start_all_stock(children, directory, batch=False)
        again = partial(_start_stock_again, children, directory, stock_ports)
        try:
            found["stock_seconds"] = await _kill_leaders(children, replicas, again, stock_kills, "failover, stock", say)
        except (ChildGone, TimeoutError) as e:
            found["stock_problem"] = f"{type(e).__name__}: {e}"
    return found


async def _start_stock_again(children: Children, directory: Path, ports: list[int], number: int) -> Child:
    return await start_stock(children, directory, ports, number, batch=False)


async def _kill_leaders(
    children: Children,
    started: list[Child],
    start_again: Callable[[int], Awaitable[Child]],
    kills: int,
    name: str,
    say: Say,
) -> list[float]:
    """Seconds without an acknowledgement, for each kill."""
    nodes = dict(enumerate(started, 1))
    times: list[float] = []
    client = Client(nodes)
    await client.write()
    for number in range(kills):
        for _ in range(random.randint(10, 60)):
            await client.write()
            await asyncio.sleep(WRITE_PAUSE_S)
        say(f"{name}: kill {number + 1} of {kills}")
        victim = client.leader
        killed = nodes.pop(victim)
        begin = time.perf_counter()
        killed.kill()
        await client.write()
        times.append(round(time.perf_counter() - begin, 4))
        await children.end(killed)
        nodes[victim] = await start_again(victim)
        await _caught_up(nodes)
    await asyncio.gather(*(children.end(node) for node in nodes.values()))
    return times


async def _caught_up(nodes: dict[int, Child]) -> None:
    async def same() -> bool:
        states: list[Figures] = await asyncio.gather(*(node.ask("state") for node in nodes.values()))
        return len({state["applied"] for state in states}) == 1 and all(state["with_leader"] for state in states)

    await until(same, "caught up", RESUME_TIMEOUT_S)


def rows(found: Figures) -> list[Row]:
    times = [t * 1e3 for t in found["seconds"]]
    stock = [t * 1e3 for t in found.get("stock_seconds", ())]
    what = f"leader killed, writes resume, {{}} of {found['kills']}"
    middle = (f"stock, no batches, of {len(stock)}", median(stock) if stock else None)
    worst = (f"stock's largest of {len(stock)}", max(stock) if stock else None)
    note = found.get("stock_problem", "")
    return [
        row("failover", what.format("median"), median(times), "ms", middle, at_most=300, note=note),
        row("failover", what.format("p99"), percentiles(times, 0.99)[0], "ms", worst, at_most=1000),
    ]
