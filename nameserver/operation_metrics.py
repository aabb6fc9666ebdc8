"""What became of operations: counted by every nameserver, from the events that all of them derive.

Guarantee: each nameserver counts all operations that begin or end while it runs, whoever leads; nothing is asked of anybody for it.

Not promised: what began before this nameserver did is counted as it ends, without its seconds and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stele.nameserver.catalog import StoreState
from stele.nameserver.events import ClusterEvent
from stele.nameserver.view import View
from stele.services.clock import SYSTEM, Clock
from stele.services.events import EventKind

LASTS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
_BEGINS: Mapping[str, str] = {
    EventKind.MOVE_BEGAN: "move",
    EventKind.DECOMMISSION_BEGAN: "decommission",
    EventKind.REBALANCE_BEGAN: "rebalance",
}
_ENDS: Mapping[str, tuple[str, str]] = {
    EventKind.REPLICA_MOVED: ("move", "done"),
    EventKind.DECOMMISSION_CANCELLED: ("decommission", "cancelled"),
    EventKind.STORE_REMOVED: ("decommission", "done"),
    EventKind.REBALANCE_ENDED: ("rebalance", "done"),
}


@dataclass(frozen=True, slots=True)
class _Running:
    began_s: float
    before: frozenset[str]  # of a move: the stores that held replicas


class OperationMetrics(Collector):
    """``observe`` is given events before ``view()`` shows what they came from."""

    def __init__(self, view: Callable[[], View], registry: CollectorRegistry, clock: Clock = SYSTEM) -> None:
        self._view, self._clock = view, clock
        self._running: dict[tuple[str, str], _Running] = {}
        self._begun = Counter(
            "stele_operations_begun",
            "Operations that began, by kind and by what for",
            ["kind", "cause"],
            registry=registry,
        )
        self._ended = Counter(
            "stele_operations_ended",
            "Operations that ended: done, cancelled, or gone with their topic",
            ["kind", "outcome"],
            registry=registry,
        )
        self._lasted = Histogram(
            "stele_operation_seconds",
            "How long operations lasted that this nameserver saw begin and end",
            ["kind"],
            registry=registry,
            buckets=LASTS_S,
        )
        self._moved = Counter(
            "stele_moved_bytes",
            "Bytes of the logs of replicas that have come to where they were moved",
            registry=registry,
        )
        registry.register(self)

    def observe(self, events: Sequence[ClusterEvent]) -> None:
        for event in events:
            if (kind := _BEGINS.get(event.kind)) is not None:
                self._begun.labels(kind, event.cause).inc()
                before = frozenset(event.facts.get("before", "").split(",")) - {""}
                self._running[kind, event.subject] = _Running(self._clock.monotonic(), before)
            elif (end := _ENDS.get(event.kind)) is not None:
                self._end(event, *end)
            elif event.kind == EventKind.TOPIC_DELETED:
                for key in [k for k in self._running if k[1].rpartition("-")[0] == event.subject]:
                    del self._running[key]
                    self._ended.labels("move", "gone").inc()

    def _end(self, event: ClusterEvent, kind: str, outcome: str) -> None:
        running = self._running.pop((kind, event.subject), None)
        if running is not None:
            self._lasted.labels(kind).observe(self._clock.monotonic() - running.began_s)
            if kind == "move" and running.before:
                now = frozenset(event.facts["replicas"].split(","))
                outcome = "cancelled" if now == running.before else outcome
                self._moved.inc(self._bytes(int(event.facts["group"]), now - running.before))
        self._ended.labels(kind, outcome).inc()

    def _bytes(self, group: int, stores: frozenset[str]) -> int:
        reports = (self._view().reports.get(int(s)) for s in stores)
        return sum(r.replicas[group].log_bytes for r in reports if r is not None and group in r.replicas)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        catalog = self._view().catalog
        running = GaugeMetricFamily("stele_operations_running", "Operations under way, by kind", labels=["kind"])
        running.add_metric(["move"], sum(bool(p.target) for p in catalog.partitions.values()))
        running.add_metric(["decommission"], sum(s.state == StoreState.OFFLINE for s in catalog.stores.values()))
        running.add_metric(["rebalance"], int(catalog.rebalance is not None))
        running.add_metric(["alter"], sum(t.growing_to > 0 for t in catalog.topics.values()))
        yield running
