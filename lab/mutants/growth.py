"""More partitions for a topic, given or used carelessly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stele.consumer import Consumer
from stele.nameserver.catalog import Catalog
from stele.nameserver.effects import ReconcileEffect, ShowPartitions
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import LeaderReport, Reports
from stele.routing import TopicRoutes


def shows_at_once(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[ReconcileEffect]:
    """The new partitions are shown before they are made."""
    growing = [t for t in catalog.topics.values() if t.growing_to]
    shown = [ShowPartitions(t.name, t.topic_id, t.growing_to) for t in growing]
    return [*shown, *plan(catalog, reports, leaders)]


def begins_the_shown_anew(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """While a topic grows, a replica that a store has lost of a partition that was there before is begun anew, as a voter."""
    growing = {
        name: replace(t, partitions=0, growing_to=max(t.partitions, t.growing_to)) if t.growing_to else t
        for name, t in catalog.topics.items()
    }
    forgotten = {g: replace(p, materialised=()) for g, p in catalog.partitions.items()}
    return plan(replace(catalog, topics=growing, partitions=forgotten), reports, leaders)


class BeginsAsItWasTold(Consumer):
    """A partition that the topic was given later is begun as a new subscription would be."""

    def _follow(self, routes: TopicRoutes, begun: bool) -> None:
        super()._follow(routes, begun=False)
