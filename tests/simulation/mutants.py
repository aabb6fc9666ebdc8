"""Runs with a part of the product replaced by one that is wrong on purpose (lab/mutants), to show that the simulator sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stele.lab.mutants import MUTANTS
from tests.support.in_place import in_place


@contextmanager
def switched(names: Sequence[str]) -> Iterator[None]:
    """The product with the mutants of these ``names`` in the place of what they stand in for."""
    with in_place(*(MUTANTS[name].load() for name in names)):
        yield
