"""A thousand groups with nothing to do on each of three stores, and one store opened again.

Processor time comes from /proc/<pid>/stat over a while in which nothing is asked.  Memory is the growth of the resident set from before
the groups were opened until they have settled, divided by their number; the groups hold the product's partition machine.
``traced`` is what Python's own allocator counts for groups in a process that runs with tracemalloc: a hint where it goes.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.children import Child, Children, ended, until
from benchmarks.clusters import start_ours, start_store
from benchmarks.loads import Figures
from benchmarks.raft import Say
from benchmarks.report import Row, row
from benchmarks.samples import cpu_s, resident_bytes

SETTLE_S = 5.0
OPEN_TIMEOUT_S = 180.0
TRACED_GROUPS = 200


async def measure(children: Children, directory: Path, groups: int, seconds: float, say: Say) -> Figures:
    say(f"idle: {groups} groups on each of 3 stores, created")
    nodes, ports = await start_ours(children, directory)
    before = [resident_bytes(node.pid) for node in nodes]
    async with ended(children, *nodes):
        opened = await asyncio.gather(
            *(node.ask("open", OPEN_TIMEOUT_S, count=groups, partitions=True) for node in nodes)
        )
        await _all_led(nodes, groups)
        await asyncio.sleep(SETTLE_S)
        say(f"idle: watched for {seconds:g} s")
        spent, begin = [cpu_s(node.pid) for node in nodes], time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - begin
        shares = [(cpu_s(node.pid) - s) / passed for node, s in zip(nodes, spent, strict=True)]
        grown = [(resident_bytes(node.pid) - b) / groups for node, b in zip(nodes, before, strict=True)]
        led = [(await node.ask("state"))["led"] for node in nodes]
        say("idle: one store opened again")
        again = [await _reopened(children, directory, ports, nodes, groups) for _ in range(2)]
    say("idle: what Python allocates")
    traced = await _traced(children, directory / "traced", min(groups, TRACED_GROUPS))
    return {
        "groups": groups,
        "created_s": max(o["settled_s"] for o in opened),
        "cpu_share": shares,
        "bytes_per_group": grown,
        "led": led,
        "reopened": again,
        "traced": traced,
    }


async def _all_led(nodes: list[Child], groups: int) -> None:
    async def led() -> bool:
        states: list[Figures] = await asyncio.gather(*(node.ask("state") for node in nodes))
        return all(state["with_leader"] == groups for state in states)

    await until(led, f"{groups} groups led", OPEN_TIMEOUT_S, pause_s=0.5)


async def _reopened(children: Children, directory: Path, ports: list[int], nodes: list[Child], groups: int) -> Figures:
    """The last store killed and started: seconds until all its groups have settled, from the start of the process."""
    await children.end(nodes.pop())
    begin = time.perf_counter()
    node = await start_store(children, directory, ports, len(ports))
    nodes.append(node)
    started = time.perf_counter()
    opened: dict[str, Any] = await node.ask("open", OPEN_TIMEOUT_S, count=groups, partitions=True)
    ready = time.perf_counter()
    await _all_led(nodes, groups)
    return {"process_s": started - begin, "ready_s": ready - begin, **opened}


async def _traced(children: Children, directory: Path, groups: int) -> Figures:
    nodes, _ = await start_ours(children, directory)
    async with ended(children, *nodes):
        await nodes[0].ask("trace", on=True)
        await asyncio.gather(*(node.ask("open", OPEN_TIMEOUT_S, count=groups, partitions=True) for node in nodes))
        await _all_led(nodes, groups)
        await asyncio.sleep(1)
        found: Figures = await nodes[0].ask("trace", on=False)
    return {"groups": groups, "bytes_per_group": found["bytes"] / groups, "top": found["top"]}


def rows(found: Figures) -> list[Row]:
    groups = found["groups"]
    again = found["reopened"]
    return [
        row(
            "idle",
            f"{groups:,} idle groups, processor per store",
            max(found["cpu_share"]) * 100,
            "% of a core",
            at_most=5,
        ),
        row(
            "idle",
            f"{groups:,} idle groups, memory of each",
            max(found["bytes_per_group"]) / 1024,
            "KiB",
            ("traced by Python", found["traced"]["bytes_per_group"] / 1024),
            at_most=64,
        ),
        row(
            "idle",
            f"{groups:,} groups loaded and ready, from the start of the process",
            max(a["ready_s"] for a in again),
            "s",
            ("of it, opening them", max(a["opened_s"] for a in again)),
            at_most=5,
        ),
    ]
