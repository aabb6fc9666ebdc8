"""What a datanode counts.  The gauges are read when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from stele.datanode.store import Store
from stele.services.metrics import latency
from stele.services.pb import datanode_pb2 as pb
from stele.services.raft.election import ElectionCause


class _StoreGauges(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
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
        terms, highest = 0, 0
        for replica in store.replicas.values():
            counts[replica.state] = counts.get(replica.state, 0) + 1
            if (group := replica.group) is not None:
                terms, highest = terms + group.term, max(highest, group.term)
        for state, count in sorted(counts.items()):
            states.add_metric([state], count)
        yield states
        yield GaugeMetricFamily("stele_raft_terms", "Sum of the terms of all replicas; grows by each election", terms)
        yield GaugeMetricFamily("stele_raft_term_highest", "The highest term of a replica", highest)
        elections = CounterMetricFamily(
            "stele_raft_leader_changes", "Elections that replicas of this store won, by cause", labels=["cause"]
        )
        for cause in ElectionCause:
            elections.add_metric([cause], store.events.elections[cause])
        yield elections


class SyncMetrics:
    """Of the disk: ``synced`` may be called on any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.synced = latency(
            "stele_disk_sync_seconds", "How long each sync (fdatasync) of a replica's file takes", registry
        ).observe


class DatanodeMetrics:
    """Counters of the service."""

    def __init__(self, registry: CollectorRegistry, store: Store) -> None:
        registry.register(_StoreGauges(store))
        self._batches = Counter("stele_append_batches", "Batches by outcome", ["outcome"], registry=registry)
        self.applied = latency(
            "stele_append_seconds",
            "From proposing an append to its outcome, committed and applied; refused ones are not in it",
            registry,
        ).observe
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
