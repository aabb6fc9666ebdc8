"""What a broker counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from stele.broker.pipeline import Result, StoredAt
from stele.services.metrics import latency


class BrokerMetrics:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.batches = Counter(
            "stele_broker_produced_batches", "Batches answered, by result", ["result"], registry=registry
        )
        self.bytes = Counter("stele_broker_produced_bytes", "Bytes of batches that were stored", registry=registry)
        self.append_batches = Histogram(
            "stele_broker_append_batches",
            "Batches joined into one append",
            buckets=(1, 2, 4, 8, 16, 64, 256, 512),
            registry=registry,
        )
        self.append_seconds = latency(
            "stele_broker_append_seconds",
            "From reading a batch from its producer's stream to the answer that it is stored",
            registry,
        )
        self.delivery_seconds = latency(
            "stele_broker_delivery_to_ack_seconds",
            "From sending messages to a consumer to its acknowledgement of the last of them",
            registry,
        )
        self.delivered = Counter("stele_broker_delivered_messages", "Messages sent to consumers", registry=registry)
        self.redelivered = Counter("stele_broker_redelivered_messages", "Of these, sent before", registry=registry)
        self.trimmed = Counter(
            "stele_broker_trimmed_messages",
            "Messages that retention removed before a subscription had acknowledged them",
            registry=registry,
        )
        self.lost = Counter(
            "stele_broker_lost_reads", "Reads of messages that no replica can read any more", registry=registry
        )
        self.acked = Counter(
            "stele_broker_confirmed_acks", "Acknowledgement requests confirmed as durable", registry=registry
        )
        self.fetched = Counter("stele_broker_fetches", "Reads from datanodes", registry=registry)
        self.cached = Counter("stele_broker_cache_hits", "Batches served from memory", registry=registry)
        self.crowded = Gauge(
            "stele_broker_crowded_subscriptions",
            "Subscriptions that are given nothing new: too many ranges of messages are out, delayed or acknowledged out of order",
            registry=registry,
        )
        self.bundles = Gauge("stele_broker_bundles", "Bundles owned", registry=registry)
        self.partitions = Gauge("stele_broker_partitions", "Partitions served", registry=registry)
        self.consumers = Gauge("stele_broker_consumers", "Consumers connected", registry=registry)

    def produced(self, result: Result, size: int, took_s: float) -> None:
        if isinstance(result, StoredAt):
            self.append_seconds.observe(took_s)
            self.batches.labels("duplicate" if result.duplicate else "stored").inc()
            self.bytes.inc(0 if result.duplicate else size)
        else:
            self.batches.labels(result.reason.lower()).inc()
