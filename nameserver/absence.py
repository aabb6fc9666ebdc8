"""Since when each store is away, as one leader sees it.  Pure: the time comes with each look.

Guarantee: a store counts as down only after this leader has missed it for ``down_after_s`` without a break, and only while it has heard
all of the others but one at most: a whole cluster that starts cold, or a leader that hears nobody, is no reason to rebuild anything.
"""

from __future__ import annotations

from stele.nameserver.catalog import Catalog, StoreState
from stele.nameserver.reports import Reports, is_heard


class Absence:
    """One per term of office."""

    def __init__(self, down_after_s: float) -> None:
        self._down_after_s = down_after_s
        self._missed_since: dict[int, float] = {}

    def look(self, catalog: Catalog, reports: Reports, now_s: float) -> frozenset[int]:
        """The stores that are down.  Called while ZooKeeper is in step; a time in which it is not begins the wait anew (:meth:`forget`)."""
        expected = {s for s, store in catalog.stores.items() if store.state == StoreState.UP}
        missed = {s for s in expected if s not in catalog.live_stores}
        self._missed_since = {s: self._missed_since.get(s, now_s) for s in missed}
        if is_cold(catalog, reports):
            return frozenset()
        return frozenset(s for s, since in self._missed_since.items() if now_s - since >= self._down_after_s)

    def forget(self) -> None:
        """Nothing is known of the time that has passed."""
        self._missed_since.clear()


def is_cold(catalog: Catalog, reports: Reports) -> bool:
    """Whether more than one of the stores that should be up is not heard: then nothing is moved or built anew."""
    expected = [s for s, store in catalog.stores.items() if store.state == StoreState.UP]
    return sum(is_heard(reports, s) for s in expected) < len(expected) - 1
