"""Reads every record of a cluster from ZooKeeper, as they were at one moment.

Guarantee: ZooKeeper knows no read of many nodes at once, so the tree is read again until two readings in a row found the same nodes,
each last changed by the same transaction: between the two, it was what was read.

Not promised: that it is so still.  What is found is to be written only under a check of it (tree_import.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from stele.services.coordination.copy_document import COPIED, MetadataCopy, ZnodeValue, value_of
from stele.services.coordination.session import Session
from stele.services.coordination.znode import Node
from stele.services.errors import NotReady, RecordUnreadable

ROUNDS_MAX = 20

TreeNodes = dict[str, Node]


async def read_tree(session: Session) -> TreeNodes:
    """Every node of the kinds that are copied, by path; none where there is no cluster.  CoordinationUnknown; NotReady: records changed
    during each of ``ROUNDS_MAX`` readings."""
    await session.sync()
    known = await _read_once(session)
    for _ in range(ROUNDS_MAX):
        again = await _read_once(session)
        if _identity(again) == _identity(known):
            return again
        known = again
    raise NotReady(
        f"records of {session.root} changed during each of {ROUNDS_MAX} readings; try again when less is done"
    )


def copy_of(
    cluster: str, nodes: TreeNodes, taken_ms: int = 0, software: str = ""
) -> tuple[MetadataCopy, dict[str, str]]:
    """What can be read of the nodes, and what is wrong with the others, by path."""
    records: dict[str, ZnodeValue] = {}
    wrong: dict[str, str] = {}
    for path, node in nodes.items():
        try:
            records[path] = value_of(path, node.value)
        except RecordUnreadable as e:
            wrong[path] = e.message
    copy, unreadable = MetadataCopy(cluster, records, taken_ms, software).without_what_is_unreadable()
    return copy, wrong | unreadable


def _identity(nodes: TreeNodes) -> dict[str, tuple[int, int]]:
    return {path: (node.stat.czxid, node.stat.mzxid) for path, node in nodes.items()}


async def _read_once(session: Session) -> TreeNodes:
    expanded = await asyncio.gather(*(_expand(session, kind.path.split("/")) for kind in COPIED))
    paths = dict.fromkeys(path for paths in expanded for path in paths)
    found = await asyncio.gather(*(session.get(path) for path in paths))
    return {path: node for path, node in zip(paths, found, strict=True) if node is not None}


async def _expand(session: Session, pattern: Iterable[str]) -> list[str]:
    """The paths that there are of a kind; of one with a fixed path, whether or not it is there."""
    paths = [""]
    for part in pattern:
        if not part.startswith("<"):
            paths = [f"{path}/{part}".lstrip("/") for path in paths]
        else:
            below = await asyncio.gather(*(session.children(path) for path in paths))
            paths = [f"{path}/{name}" for path, names in zip(paths, below, strict=True) for name in names or ()]
    return paths
