"""The catalog as ZooKeeper has it now, for what a copy that may lag must not decide."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import TypeVar

from stele.nameserver.catalog import Catalog
from stele.nameserver.catalog_reader import CatalogReader
from stele.services.coordination.session import Session
from stele.services.coordination.znode import Node
from stele.services.errors import RecordUnreadable

READS_AT_ONCE_MAX = 128

T = TypeVar("T")


async def read_now(session: Session, folders: Mapping[str, int]) -> Catalog:
    """What stands below ``folders`` now, each with how many levels of nodes it has; of the rest the catalog says nothing.

    RecordUnreadable: nobody can say what one of the records is.  CoordinationUnknown."""
    await session.sync()
    nodes: dict[str, Node] = {}
    for folder, depth in folders.items():
        level = [folder]
        for _ in range(depth):
            names = await _each(level, session.children)
            level = [f"{path}/{name}" for path, below in names.items() for name in below]
            nodes |= await _each(level, session.get)
    reader = CatalogReader()
    catalog = reader.read(nodes)
    for path, problem in reader.unreadable.items():
        raise RecordUnreadable(problem, path=path)
    return catalog


async def _each(paths: list[str], ask: Callable[[str], Awaitable[T | None]]) -> dict[str, T]:
    """The answers by path; what is absent is left out."""
    found: dict[str, T] = {}
    left = iter(paths)
    while chunk := list(islice(left, READS_AT_ONCE_MAX)):
        answers = await asyncio.gather(*map(ask, chunk))
        found |= {path: answer for path, answer in zip(chunk, answers, strict=True) if answer is not None}
    return found
