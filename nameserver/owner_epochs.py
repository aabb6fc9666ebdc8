"""The highest owner epoch that partitions of each bundle have seen, kept up to date.  Pure.

Guarantee: the same as ``View.owner_epochs`` finds in all reports, for the groups that it was told of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from stele.nameserver.reports import StoreReport
from stele.nameserver.routing import RoutingChanges


class OwnerEpochs:
    """``look`` BEFORE the bundles of partitions are placed anew (routing.py), ``placed`` after it."""

    def __init__(self, bundles: RoutingChanges) -> None:
        self._bundles = bundles
        self._seen: dict[int, int] = {}  # by group, of those that have seen any
        self._stale: set[str] = set()
        self.of_bundles: Mapping[str, int] = {}

    def look(self, groups: Collection[int], reports: Iterable[StoreReport]) -> None:
        connected = [report.replicas for report in reports if report.connected]
        for group in groups:
            epoch = max((r.owner_epoch for said in connected if (r := said.get(group)) is not None), default=0)
            self._stale.add(self._bundles.bundle(group))
            if epoch != self._seen.get(group, 0):
                if epoch:
                    self._seen[group] = epoch
                else:
                    del self._seen[group]

    def placed(self, groups: Iterable[int], everything: bool) -> None:
        """``everything``: the bundles are others now."""
        stale, self._stale = self._stale.union(*([self._bundles.bundle(group)] for group in groups)), set()
        found = {} if everything else {b: epoch for b, epoch in self.of_bundles.items() if b not in stale}
        for bundle in self._bundles.bundles if everything else stale:
            epoch = max((self._seen.get(group, 0) for group in self._bundles.groups(bundle)), default=0)
            if bundle and epoch:
                found[bundle] = epoch
        self.of_bundles = found
