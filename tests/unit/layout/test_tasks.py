"""Background tasks are supervised in one way: started through ``services/tasks.py``, where it is said what a failure ends, or that the work
begins again.  A bare task that fails ends in silence, and what depended on it waits.

Tasks that are awaited where they are made, and pass on there what they fail with, stand here with how.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.unit.layout.tree import PACKAGES, modules

STARTS = {"create_task", "ensure_future", "run_coroutine_threadsafe"}

AWAITED = {
    "stele.services.tasks": (
        3,
        "the supervisor itself; work, and threads, whose caller may give up, awaited through a shield",
    ),
    "stele.services.process": (2, "the start, whose result is taken, and the event that ends the process"),
    "stele.services.rpc.streams": (1, "the reader of a handler's stream, whose failure the stream ends with"),
    "stele.services.raft.transport": (
        3,
        "both directions of a stream and its breaking: the first to end ends the stream",
    ),
    "stele.services.raft.snapshotting": (1, "a fetch, whose failure fails the replica"),
    "stele.datanode.serial_appends": (1, "an append, whose outcome the caller has asked for"),
    "stele.datanode.replica": (2, "an append, whose outcome the caller has asked for"),
    "stele.broker.partition_client": (2, "a search, awaited through a shield; probes, whose results the search takes"),
    "stele.broker.consumer": (1, "a batch that is being read, awaited before the next is"),
    "stele.sync": (1, "a call from another thread, which waits for it"),
    "stele.cli.produce": (1, "a line from another thread, which waits until it is taken"),
    "stele.routing": (1, "a look-up, awaited through a shield by all who ask"),
    "stele.consumer": (2, "two waits, of which the first to end counts"),
}


def starts(source: str) -> Iterator[int]:
    """Lines that start a task with no one to answer for it; a TaskGroup's are answered for by its block."""
    tree = ast.parse(source)
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.unparse(item.context_expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name in STARTS and not (isinstance(owner, ast.Name) and owner.id in groups):
                yield node.lineno


def test_p21_tasks_are_started_under_supervision_or_awaited_where_they_are_made() -> None:
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for name, path in modules(package):
            if not name.startswith("stele.lab."):
                found[name] += sum(1 for _ in starts(path.read_text()))
    assert +found == {name: number for name, (number, _) in AWAITED.items()}


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("asyncio.create_task(work())", True),
        ("asyncio.get_running_loop().create_task(work())", True),
        ("self._loop.create_task(work())", True),
        ("create_task(work())", True),
        ("asyncio.ensure_future(work())", True),
        ("self._tasks.start(work())", False),
        ("async def f():\n  async with asyncio.TaskGroup() as g:\n    g.create_task(work())", False),
        ("async def f():\n  async with asyncio.TaskGroup() as g:\n    loop.create_task(work())", True),
    ],
)
def test_a_start_is_seen(source: str, seen: bool) -> None:
    assert bool(list(starts(source))) is seen
