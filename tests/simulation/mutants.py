"""Runs with a part of the product replaced by one that is wrong on purpose (lab/mutants), to show that the simulator sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import stele.services.raft.group as group_module
import stele.services.raft.registry as registry_module
from stele.lab.mutants import MUTANTS

_PLACES: dict[str, Any] = {
    "Engine": group_module,
    "Journal": group_module,
    "Snapshotting": group_module,
    "Ticker": registry_module,
    "Group": registry_module,
}
"""Where the product names the class that a mutant is derived from."""


@contextmanager
def switched(names: Sequence[str]) -> Iterator[None]:
    """The product with the mutants of these ``names`` in the place of what they stand in for."""
    put_back: list[tuple[Any, str, type]] = []
    try:
        for mutant in (MUTANTS[name] for name in names):
            base = mutant.replaces.partition(":")[2]
            module = _PLACES[base]
            put_back.append((module, base, getattr(module, base)))
            setattr(module, base, mutant.load())
        yield
    finally:
        for module, base, original in reversed(put_back):
            setattr(module, base, original)
