"""What a nameserver counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from stele.nameserver.clusterview import ClusterView
from stele.services.metrics import latency


class NameserverMetrics:
    """Counted when somebody looks."""

    def __init__(self, registry: CollectorRegistry, view: ClusterView) -> None:
        self._view = view
        self._epoch = Gauge("stele_nameserver_leading_epoch", "Epoch of its leadership; 0: follows", registry=registry)
        self.lookups = latency(
            "stele_nameserver_lookup_seconds",
            "How long a look-up of a topic takes here, with the answer that there is none",
            registry,
        ).observe
        self._gauge(registry, "synced", "Whether its view is complete", lambda: float(view.synced))
        self._gauge(registry, "topics", "Topics", lambda: len(view.current.catalog.topics))
        self._gauge(registry, "partitions", "Partitions", lambda: len(view.current.catalog.partitions))
        self._gauge(registry, "leaderless_partitions", "Partitions without a known leader", self._leaderless)
        self._gauge(registry, "live_stores", "Registered datanodes", lambda: len(view.current.catalog.live_stores))
        self._gauge(registry, "live_brokers", "Registered brokers", lambda: len(view.current.catalog.brokers))

    def epoch(self, epoch: int) -> None:
        self._epoch.set(epoch)

    def _leaderless(self) -> float:
        view = self._view.current
        return len(view.catalog.partitions.keys() - view.leaders.keys())

    @staticmethod
    def _gauge(registry: CollectorRegistry, name: str, text: str, value: object) -> None:
        Gauge(f"stele_nameserver_{name}", text, registry=registry).set_function(value)  # type: ignore[arg-type]
