"""Where the processor time of a group goes under load: py-spy samples whoever holds the interpreter, in the leader and a follower.

py-spy is no dependency of the project: ``.venv/bin/pip install py-spy``.  It samples from outside, so the processes run as they are.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.children import Child, Children
from benchmarks.clusters import leader, start_ours
from benchmarks.loads import KIB_64, MIB_1, ONE_AT_A_TIME, SMALL_64, SMALL_5000

LOADS = {"one": ONE_AT_A_TIME, "small64": SMALL_64, "small": SMALL_5000, "64k": KIB_64, "1m": MIB_1}
SECONDS = 8.0
SAMPLES_PER_S = 400
SHOWN = 25


async def run(load_name: str, directory: Path, console: Console) -> None:
    tool = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if tool is None:
        console.print("py-spy is not installed; run: .venv/bin/pip install py-spy")
        return
    load = LOADS[load_name]
    here = directory / "profile"
    here.mkdir()
    async with Children(here / "errors.log") as children:
        nodes, _ = await start_ours(children, here)
        await asyncio.gather(*(node.ask("open", count=1) for node in nodes))
        led_by = await leader(nodes)
        follower = next(node for node in nodes if node is not led_by)
        console.print(f"profile: {load.name}, {SECONDS:g} s")
        running = asyncio.ensure_future(led_by.ask("load", **load.arguments(SECONDS)))
        await asyncio.sleep(1)
        await asyncio.gather(*(_sample(tool, node, here) for node in (led_by, follower)))
        console.print((await running), highlight=False)
        for title, node in (("leader", led_by), ("follower", follower)):
            _show(title, (here / str(node.pid)).read_text().splitlines(), Console())


async def _sample(tool: str, node: Child, directory: Path) -> None:
    seconds = str(int(SECONDS - 2))
    process = await asyncio.create_subprocess_exec(
        tool,
        *("record", "--pid", str(node.pid), "--duration", seconds, "--rate", str(SAMPLES_PER_S)),
        *("--format", "raw", "--gil", "--output", str(directory / str(node.pid))),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()


def shares(stacks: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """Of py-spy's raw lines ``frame;frame;… count``: samples by innermost frame, by every frame on the stack, and in all."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    return own, within, total


def _show(title: str, stacks: Iterable[str], console: Console) -> None:
    own, within, total = shares(stacks)
    table = Table(title=f"{title}, {total} samples", title_justify="left")
    for name in ("own", "with what it calls", "frame"):
        table.add_column(name, justify="left" if name == "frame" else "right")
    for frame, count in own.most_common(SHOWN):
        table.add_row(f"{count / total:.1%}", f"{within[frame] / total:.1%}", frame)
    table.add_section()
    for frame, count in within.most_common(SHOWN):
        table.add_row(f"{own[frame] / total:.1%}", f"{count / total:.1%}", frame)
    console.print(table)
