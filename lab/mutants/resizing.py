"""A nameserver that gives topics more or fewer replicas carelessly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stele.nameserver.catalog import Catalog
from stele.nameserver.moves import UNLIMITED, MoveLimits, MovePlan
from stele.nameserver.reports import LeaderReport, Reports
from stele.nameserver.resizing import plan_resizes


def keeps_the_first(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport], limits: MoveLimits = UNLIMITED
) -> MovePlan:
    """Which replicas are given up does not depend on which stores answer."""
    plan = plan_resizes(catalog, reports, leaders, limits)
    return replace(plan, moves=tuple(replace(m, target=(*m.before, *m.target)[: len(m.target)]) for m in plan.moves))
