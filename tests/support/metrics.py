"""What is counted, as it would be scraped."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

Labels = tuple[tuple[str, str], ...]


def samples(maker: Any, *given: Any) -> dict[str, dict[Labels, float]]:
    """Of ``maker(*given, registry)``: by name, and by labels in the order of their names."""
    registry = CollectorRegistry()
    maker(*given, registry)
    return of(registry)


def of(registry: CollectorRegistry) -> dict[str, dict[Labels, float]]:
    found: dict[str, dict[Labels, float]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found
