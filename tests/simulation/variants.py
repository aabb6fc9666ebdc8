"""Runs with a part of the product replaced by one that is wrong on purpose (lab/variants), to show that the simulator sees it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stele.services.raft.group as group_module
import stele.services.raft.registry as registry_module

_PLACES: dict[str, Any] = {
    "Engine": group_module,
    "Journal": group_module,
    "Snapshotting": group_module,
    "Ticker": registry_module,
    "Group": registry_module,
}
"""Where the product names the class that a variant is derived from."""


def load(name: str) -> list[type]:
    """The classes that ``module:Class`` (of lab/variants, several joined by commas) names."""
    found: list[type] = []
    for one in name.split(","):
        module, _, class_name = one.partition(":")
        found.append(getattr(importlib.import_module(f"stele.lab.variants.{module}"), class_name))
    return found


@contextmanager
def switched(name: str) -> Iterator[None]:
    """The product with the variants of ``name`` in the place of what they are derived from."""
    put_back: list[tuple[Any, str, type]] = []
    try:
        for variant in load(name) if name else ():
            base = next(c.__name__ for c in variant.__mro__[1:] if c.__name__ in _PLACES)
            module = _PLACES[base]
            put_back.append((module, base, getattr(module, base)))
            setattr(module, base, variant)
        yield
    finally:
        for module, base, original in reversed(put_back):
            setattr(module, base, original)
