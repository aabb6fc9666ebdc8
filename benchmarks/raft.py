"""A group of three processes, sync on, under the loads of loads.py; against stock PySyncObj and against the machine's floor.

The contestants take turns, each round the other way round, so that a slow moment of the machine meets all of them.  Each begins every
round with fresh processes and empty files.  The floor is what the same machine does without Raft: pwrite + fdatasync, a bare gRPC stream
between two processes, and bare replication (one process writes and sends to two others, which write and answer; floor_node.py).

Stock PySyncObj does not sync: what it acknowledges is in the memory of a majority, ours is on the disks of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.children import Child, Children, ended
from benchmarks.clusters import NODES, ours, stock
from benchmarks.loads import KIB_64, LOADS, MIB_1, ONE_AT_A_TIME, SMALL_64, SMALL_5000, Figures, Load
from benchmarks.report import Row, row
from stele.services.ports import free_ports

OURS, STREAM, BARE = "ours", "bare gRPC stream", "bare replication"
DISK, DISKS = "pwrite + fdatasync", "pwrite + fdatasync, three at once"
STOCK = {True: "stock, batches", False: "stock, no batches"}
LOAD_TIMEOUT_S = 60.0

Say = Callable[[str], None]
Rounds = dict[str, dict[str, list[Figures]]]
"""By contestant, then by load: what each round found."""


async def measure(children: Children, directory: Path, seconds: float, rounds: int, say: Say) -> Rounds:
    found: Rounds = {}

    async def carry(name: str, load: Load, process: Child, do: str = "load", **more: object) -> Figures:
        say(f"{name}: {load.name}")
        result: Figures = await process.ask(do, LOAD_TIMEOUT_S + seconds, **{**load.arguments(seconds), **more})
        found.setdefault(name, {}).setdefault(load.name, []).append(result)
        return result

    for number in range(rounds):
        turns: list[Callable[[Path], Awaitable[None]]] = [
            lambda here: _floor(children, here, seconds, carry, found, say),
            lambda here: _ours(children, here, carry),
            lambda here: _stock(children, here, True, carry),
            lambda here: _stock(children, here, False, carry),
        ]
        for turn in turns if number % 2 else reversed(turns):
            with TemporaryDirectory(dir=directory) as here:  # what one wrote is gone when the next one begins
                await turn(Path(here))
    return found


async def _floor(
    children: Children, directory: Path, seconds: float, carry: Callable[..., Any], found: Rounds, say: Say
) -> None:
    ports = free_ports(NODES)
    starting = (
        children.start(f"floor {n}", "benchmarks.floor_node", path=str(directory / f"floor{n}"), port=ports[n])
        for n in range(NODES)
    )
    nodes = await asyncio.gather(*starting)
    async with ended(children, *nodes):
        for load in (ONE_AT_A_TIME, KIB_64, MIB_1):
            say(f"{DISK}: {load.name}")
            alone = await nodes[0].ask("write", size=load.size, seconds=seconds)
            found.setdefault(DISK, {}).setdefault(load.name, []).append(alone)
            together = await asyncio.gather(*(n.ask("write", size=load.size, seconds=seconds) for n in nodes))
            found.setdefault(DISKS, {}).setdefault(load.name, []).append(min(together, key=lambda f: f["mb_per_s"]))
        for load in LOADS:
            await carry(STREAM, load, nodes[0], "lead", peers=ports[1:2], sync=False)
            await carry(BARE, load, nodes[0], "lead", peers=ports[1:], sync=True)


async def _ours(children: Children, directory: Path, carry: Callable[..., Any]) -> None:
    async with ours(children, directory) as leader:
        for load in LOADS:
            await carry(OURS, load, leader)


async def _stock(children: Children, directory: Path, batch: bool, carry: Callable[..., Any]) -> None:
    """A load that stock does not survive is reported as it is; the next one begins with fresh processes."""
    left = list(LOADS)
    while left:
        async with stock(children, directory / str(len(left)), batch) as leader:
            while left:
                result = await carry(STOCK[batch], left.pop(0), leader)
                if "problem" in result:
                    break


# --- what it comes to -----------------------------------------------------------------------------------------------


def figure(found: Rounds, name: str, load: Load, key: str) -> float | None:
    """The mean over the rounds in which there is one."""
    values = [f[key] for f in found.get(name, {}).get(load.name, ()) if key in f]
    return fmean(values) if values else None


def best_stock(found: Rounds, key: str, *loads: Load, low: bool = False) -> tuple[str, float | None]:
    """The better of stock's two modes, over ``loads``."""
    values = [
        (value, name)
        for name in STOCK.values()
        for load in loads
        if (value := figure(found, name, load, key)) is not None
    ]
    if not values:
        return "stock: nothing", None
    value, name = min(values) if low else max(values)
    return name, value


def rows(found: Rounds) -> list[Row]:
    made: list[Row] = []

    def of(load: Load, key: str, unit: str, against: tuple[str, float | None], **target: Any) -> None:
        made.append(row("raft", _named(load, key), figure(found, OURS, load, key), unit, against, **target))

    def floor(name: str, load: Load, key: str) -> tuple[str, float | None]:
        return name, figure(found, name, load, key)

    one = ONE_AT_A_TIME
    of(one, "p50_ms", "ms", best_stock(found, "p50_ms", one, low=True), at_most=1.2, note="stock does not sync")
    for name in (BARE, STREAM, DISK):
        of(one, "p50_ms", "ms", floor(name, one, "p50_ms"))
    of(one, "p99_ms", "ms", floor(BARE, one, "p99_ms"))
    for load, against in ((SMALL_64, (SMALL_64,)), (SMALL_5000, (SMALL_64, SMALL_5000))):
        of(load, "per_s", "/s", best_stock(found, "per_s", *against), ratio_at_least=3)
        of(load, "per_s", "/s", floor(BARE, load, "per_s"))
    of(KIB_64, "mb_per_s", "MB/s", best_stock(found, "mb_per_s", KIB_64), ratio_at_least=2)
    of(KIB_64, "mb_per_s", "MB/s", floor(BARE, KIB_64, "mb_per_s"))
    of(MIB_1, "mb_per_s", "MB/s", best_stock(found, "mb_per_s", MIB_1), at_least=100)
    for name in (BARE, STREAM, DISK, DISKS):
        of(MIB_1, "mb_per_s", "MB/s", floor(name, MIB_1, "mb_per_s"))
    return made


def problems(found: Rounds) -> list[str]:
    return [
        f"{name}, {load}: {result['problem']}"
        for name, loads in found.items()
        for load, results in loads.items()
        for result in results
        if "problem" in result
    ]


def _named(load: Load, key: str) -> str:
    return f"{load.name}, {key.removesuffix('_ms')}" if key.endswith("_ms") else load.name
