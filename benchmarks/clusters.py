"""The contestants as groups of three processes that carry a load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import Child, Children, ended, until
from stele.services.ports import free_ports

NODES = 3
LEADER_TIMEOUT_S = 30.0


async def start_ours(children: Children, directory: Path) -> tuple[list[Child], list[int]]:
    """Three stores of the product on free ports, empty."""
    ports = free_ports(NODES)
    started = await asyncio.gather(*(start_store(children, directory, ports, s + 1) for s in range(NODES)))
    return list(started), ports


async def start_store(children: Children, directory: Path, ports: list[int], store_id: int) -> Child:
    home = directory / f"store{store_id}"
    return await children.start(
        f"store {store_id}", "benchmarks.node", store_id=store_id, directory=str(home), ports=ports
    )


@asynccontextmanager
async def ours(children: Children, directory: Path) -> AsyncIterator[Child]:
    """The process that leads a fresh group of ours."""
    nodes, _ = await start_ours(children, directory)
    async with ended(children, *nodes):
        await asyncio.gather(*(node.ask("open", count=1) for node in nodes))
        yield await leader(nodes)


@asynccontextmanager
async def stock(children: Children, directory: Path, batch: bool) -> AsyncIterator[Child]:
    """The process that leads a fresh group of stock PySyncObj."""
    nodes, _ = await start_all_stock(children, directory, batch)
    async with ended(children, *nodes):
        yield await leader(nodes)


async def start_all_stock(children: Children, directory: Path, batch: bool) -> tuple[list[Child], list[int]]:
    """Three replicas of stock PySyncObj on free ports, empty."""
    ports = free_ports(NODES)
    directory.mkdir(parents=True, exist_ok=True)
    starting = (start_stock(children, directory, ports, number, batch) for number in range(1, NODES + 1))
    return list(await asyncio.gather(*starting)), ports


async def start_stock(children: Children, directory: Path, ports: list[int], number: int, batch: bool) -> Child:
    return await children.start(
        f"stock {number}",
        "benchmarks.stock_node",
        journal=str(directory / f"journal{number}"),
        ports=ports,
        number=number,
        batch=batch,
    )


async def leader(nodes: list[Child]) -> Child:
    """The one that leads, once all the others can be reached."""
    found: list[Child] = []

    async def one_leads() -> bool:
        states: list[dict[str, Any]] = await asyncio.gather(*(node.ask("state") for node in nodes))
        found[:] = [node for node, state in zip(nodes, states, strict=True) if state["led"]]
        return len(found) == 1 and all(state.get("ready", True) for state in states)

    await until(one_leads, "led by one of three", LEADER_TIMEOUT_S)
    await asyncio.sleep(0.5)  # what an election leaves to do is done
    return found[0]
