"""Which topics have to be planned for anew.  Pure.

Guarantee: a topic is planned for again while anything of it, its partitions, their replicas or the stores changed since, or its last
plan came to something; every topic is at least every ``WHOLE_EVERY_S``.  What a plan says of a topic follows from these alone, so that
the others have nothing due.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stele.nameserver.catalog import Catalog
from stele.nameserver.catalog_change import narrowed

WHOLE_EVERY_S: Final = 120.0


class PlanScope:
    """``touch`` after each change; ``take`` BEFORE planning and ``planned`` after it: what was taken and not planned is taken again."""

    def __init__(self) -> None:
        self._due: set[str] | None = None  # None: all
        self._taken: set[str] | None = set()
        self._whole_at_s = float("-inf")

    def touch(self, topics: Iterable[str] | None) -> None:
        """None: all of them."""
        if topics is None:
            self._due = None
        elif self._due is not None:
            self._due.update(topics)

    def take(self, catalog: Catalog, now_s: float) -> Catalog:
        """The catalog with the topics and partitions that are due alone."""
        self.touch(self._taken)
        if now_s - self._whole_at_s >= WHOLE_EVERY_S:
            self._due = None
        self._taken, self._due = self._due, set()
        if self._taken is None:
            self._whole_at_s = now_s
            return catalog
        groups = (p.group for name in self._taken for p in catalog.recorded_of.get(name, ()))
        return narrowed(catalog, self._taken, groups, catalog.bundles)

    def planned(self, is_idle: bool) -> None:
        """``is_idle``: nothing was due.  Otherwise the same are planned for again."""
        if is_idle:
            self._taken = set()
