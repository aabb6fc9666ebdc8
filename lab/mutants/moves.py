"""A nameserver that moves replicas and removes stores carelessly (F2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stele.nameserver.absence import Absence
from stele.nameserver.catalog import Catalog, StoreEntry, StoreState
from stele.nameserver.effects import DeleteLeft, ReconcileEffect
from stele.nameserver.moves import UNLIMITED, MoveLimits, MovePlan, check_may_go, highest_replication
from stele.nameserver.reconcile import plan
from stele.nameserver.relocation import Relocation
from stele.nameserver.replica_balance import EVEN, plan_balance
from stele.nameserver.reports import LeaderReport, Reports
from stele.services.errors import NotEnoughStores


def leaves_first(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[ReconcileEffect]:
    """The replica that is to go leaves its group before the one in its place counts."""
    hasty = {
        g: replace(p, target=tuple(s for s in p.target if s in p.materialised) or p.target)
        for g, p in catalog.partitions.items()
    }
    return plan(replace(catalog, partitions=hasty), reports, leaders)


def deletes_what_is_not_named(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """A replica on a store that its partition's record does not name is deleted."""
    extras = [
        DeleteLeft(s, g, r.replicas[g].topic_id)
        for s, r in reports.items()
        for g in r.replicas
        if g in catalog.partitions and s not in catalog.partitions[g].replicas
    ]
    return [*extras, *plan(catalog, reports, leaders)]


def counts_every_store(catalog: Catalog, store: StoreEntry) -> None:
    """Whether enough stores are left is asked of all that were ever registered, the one that goes among them."""
    up = sum(s.state == StoreState.UP for s in catalog.stores.values())
    if up < highest_replication(catalog):
        raise NotEnoughStores("too few stores", up=up)


class AsksTheMirror(Relocation):
    """Whether enough stores are left is asked of a copy of the records, which may lag."""

    async def decommission(self, store_id: int, dry_run: bool) -> MovePlan:
        catalog = self._view().catalog
        check_may_go(catalog, catalog.stores[store_id])
        await self.writer.enter(store_id, StoreState.UP, StoreState.OFFLINE)
        return MovePlan()


class TakesSilenceForLoss(Absence):
    """Whoever is not registered for long enough is down, however many others are not heard."""

    def look(self, catalog: Catalog, reports: Reports, now_s: float) -> frozenset[int]:
        super().look(catalog, reports, now_s)
        return frozenset(s for s, since in self._missed_since.items() if now_s - since >= self._down_after_s)


def evens_out_any_difference(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    differ_max: int = EVEN,
    limits: MoveLimits = UNLIMITED,
) -> MovePlan:
    """A replica moves to a store that has fewer by one."""
    return plan_balance(catalog, reports, leaders, differ_max - 1, replace(limits, moves_max=1))


def moves_what_is_not_in_order(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    differ_max: int = EVEN,
    limits: MoveLimits = UNLIMITED,
) -> MovePlan:
    """A store that is not heard is taken for one whose replicas count."""
    heard = {
        s: replace(next(iter(reports.values())), connected=True) if not r.connected else r for s, r in reports.items()
    }
    return plan_balance(catalog, heard, leaders, differ_max, limits)
