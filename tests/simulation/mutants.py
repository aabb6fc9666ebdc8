"""Runs with a part of the product replaced by one that is wrong on purpose (lab/mutants), to show that the simulator sees it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stele.lab.mutants import MUTANTS
from tests.support.in_place import PLACES, in_place


@contextmanager
def switched(names: Sequence[str]) -> Iterator[None]:
    """The product with the mutants of these ``names`` in the place of what they stand in for."""
    ours = [name for name in names if MUTANTS[name].replaces.rpartition(":")[2] not in PLACES]
    with in_place(*(MUTANTS[name].load() for name in names if name not in ours)), _everywhere(ours):
        yield


@contextmanager
def _everywhere(names: Sequence[str]) -> Iterator[None]:
    """Wherever a module of the product has the part under its name."""
    replaced: list[tuple[Any, str, Any]] = []
    for name in names:
        module, _, part = MUTANTS[name].replaces.rpartition(":")
        original, mutant = getattr(importlib.import_module(module), part), MUTANTS[name].load()
        for holder in [m for n, m in sys.modules.items() if n.startswith("stele.") and "mutants" not in n]:
            if getattr(holder, part, None) is original:
                replaced.append((holder, part, original))
                setattr(holder, part, mutant)
    try:
        yield
    finally:
        for holder, part, original in replaced:
            setattr(holder, part, original)
