"""How far subscriptions are behind, as the owner of their partitions knows it, counted when somebody looks.

Guarantee: at most ``SERIES_MAX`` subscriptions are listed, those with the largest backlogs; how many are left out is told, too.

Not promised: partitions that nobody has used since this broker owns them are not opened for this, and not in it (``stele subscription ls``
opens them).  The age of a message is by the clock of its producer, against this broker's: it informs, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stele.broker.owned_partitions import OwnedPartitions

SERIES_MAX = 1_000


@dataclass(slots=True)
class _Behind:
    messages: int = 0
    lag_s: float | None = 0.0  # None: not known of any partition that it is behind in


class SubscriptionMetrics(Collector):
    def __init__(self, partitions: OwnedPartitions, registry: CollectorRegistry) -> None:
        self._partitions = partitions
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ("topic", "subscription")
        backlogs = GaugeMetricFamily(
            "stele_subscription_backlog_messages",
            "Messages stored and not acknowledged, of all partitions that this broker has opened",
            labels=labels,
        )
        lags = GaugeMetricFamily(
            "stele_subscription_lag_seconds",
            "Age of the oldest message that is not acknowledged, by the time that its producer gave it; "
            "absent while it is not known",
            labels=labels,
        )
        behind = self._behind()
        for key in nlargest(SERIES_MAX, behind, key=lambda k: (behind[k].messages, k)):
            backlogs.add_metric(key, behind[key].messages)
            if (lag_s := behind[key].lag_s) is not None:
                lags.add_metric(key, lag_s)
        yield backlogs
        yield lags
        yield GaugeMetricFamily(
            "stele_subscriptions_unlisted",
            f"Subscriptions left out of the list, which holds the {SERIES_MAX} with the largest backlogs",
            max(0, len(behind) - SERIES_MAX),
        )

    def _behind(self) -> dict[tuple[str, str], _Behind]:
        found: dict[tuple[str, str], _Behind] = {}
        unknown: set[tuple[str, str]] = set()
        for topic, subscription, messages, lag_s in self._partitions.backlogs():
            one = found.setdefault((topic, subscription), _Behind())
            one.messages += messages
            if lag_s is None:
                unknown.add((topic, subscription))
            else:
                one.lag_s = max(one.lag_s or 0.0, lag_s)
        for key in unknown:
            found[key].lag_s = found[key].lag_s or None
        return found
