"""Wrong on purpose (R4.6): a store counts as able to take replicas as soon as it is alive, though it still loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stele.nameserver import reconcile
from stele.nameserver.catalog import Catalog, MemberState
from stele.nameserver.reports import LeaderReport, Reports


def plan(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[reconcile.Effect]:
    return reconcile.plan(
        as_if_ready(catalog), {s: replace(r, state=MemberState.READY) for s, r in reports.items()}, leaders
    )


def as_if_ready(catalog: Catalog) -> Catalog:
    members = {name: replace(m, state=MemberState.READY) for name, m in catalog.datanodes.items()}
    return replace(catalog, datanodes=members)
