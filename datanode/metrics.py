"""What a datanode counts.  The gauges are read when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stele.datanode.store import Store
from stele.services.pb import datanode_pb2 as pb


class _StoreGauges(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        store = self._store
        yield GaugeMetricFamily("stele_groups_loaded", "Groups loaded since the start", store.loaded)
        yield GaugeMetricFamily("stele_groups_to_load", "Groups found at the start", store.total)
        yield GaugeMetricFamily("stele_disk_free_bytes", "Free space under the data directory", store.disk.free_bytes)
        yield GaugeMetricFamily("stele_disk_full", "1 while the store takes no writes", int(store.disk.disk_full))
        yield GaugeMetricFamily(
            "stele_replicas_damaged", "Replicas with entries that cannot be read", store.mender.damaged
        )
        yield GaugeMetricFamily(
            "stele_replicas_awaiting_disk",
            "Replicas whose disk has not answered for some seconds",
            store.silence.waiting,
        )
        states = GaugeMetricFamily("stele_replicas", "Replicas by state", labels=["state"])
        counts: dict[str, int] = {"quarantined": len(store.quarantined)}
        for replica in store.replicas.values():
            counts[replica.state] = counts.get(replica.state, 0) + 1
        for state, count in sorted(counts.items()):
            states.add_metric([state], count)
        yield states


class DatanodeMetrics:
    """Counters of the service."""

    def __init__(self, registry: CollectorRegistry, store: Store) -> None:
        registry.register(_StoreGauges(store))
        self._batches = Counter("stele_append_batches", "Batches by outcome", ["outcome"], registry=registry)
        self._fetched_bytes = Counter("stele_fetched_bytes", "Bytes of batches sent to readers", registry=registry)
        self._fetches = Counter("stele_fetches", "Fetch answers by outcome", ["outcome"], registry=registry)

        self._scrubbed_bytes = Counter("stele_scrubbed_bytes", "Stored bytes checked by the scrub", registry=registry)

    def scrubbed(self, size: int) -> None:
        self._scrubbed_bytes.inc(size)

    def appended(self, answer: pb.AppendResponse) -> None:
        if answer.error.reason:
            self._batches.labels(answer.error.reason).inc()
        for result in answer.results:
            outcome = result.error.reason or ("duplicate" if result.duplicate else "stored")
            self._batches.labels(outcome).inc()

    def fetched(self, answer: pb.FetchResponse) -> None:
        self._fetches.labels(answer.error.reason or ("data" if answer.batches else "empty")).inc()
        self._fetched_bytes.inc(sum(len(b.batch) for b in answer.batches))
