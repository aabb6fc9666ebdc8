"""A part of a replica replaced where the product builds or calls it, for as long as a ``with`` lasts.

A mutant is a subclass of one part, or a function for which the registry of mutants names the one that it stands in for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import stele.datanode.log.log as log_module
import stele.services.raft.engine as engine_module
import stele.services.raft.group as group_module
import stele.services.raft.links as links_module
import stele.services.raft.registry as registry_module
import stele.services.raft.replication as replication_module
from stele.lab.mutants import MUTANTS

PLACES: dict[str, ModuleType] = {
    "CatchUp": engine_module,
    "RaftElection": engine_module,
    "Engine": group_module,
    "Follower": engine_module,
    "Group": registry_module,
    "Handover": engine_module,
    "Journal": group_module,
    "Lanes": links_module,
    "Outbox": engine_module,
    "Progress": replication_module,
    "Proposals": engine_module,
    "Quiescence": engine_module,
    "ReachedFile": log_module,
    "ReadIndex": engine_module,
    "Recovery": engine_module,
    "Replication": engine_module,
    "SnapshotOffer": engine_module,
    "Snapshotting": group_module,
    "Ticker": registry_module,
    "check_ready": engine_module,
}
"""Where the product names the class or the function that a mutant is derived from."""


def _original(mutant: Any) -> str:
    if isinstance(mutant, type):
        return next(base.__name__ for base in mutant.__mro__ if base.__name__ in PLACES)
    listed = (m.replaces.partition(":")[2] for m in MUTANTS.values() if m.name.endswith(f".{mutant.__name__}"))
    return next(listed, mutant.__name__)


@contextmanager
def in_place(*mutants: Any) -> Iterator[None]:
    """The product with each of ``mutants`` in the place of what it is derived from."""
    put_back: list[tuple[ModuleType, str, Any]] = []
    try:
        for mutant in mutants:
            name = _original(mutant)
            module = PLACES[name]
            put_back.append((module, name, getattr(module, name)))
            setattr(module, name, mutant)
        yield
    finally:
        for module, name, original in reversed(put_back):
            setattr(module, name, original)


def with_part(scenario: Callable[[], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """``scenario`` as one of the part that is to be in place while it runs: the product's own, or a mutant of it."""

    async def run(part: Any) -> None:
        with in_place(part):
            await scenario()

    return run
