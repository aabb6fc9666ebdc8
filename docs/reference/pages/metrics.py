"""metrics.md: what each role counts, from the classes that register metrics.

Each class of the product that is given a ``CollectorRegistry`` is made once with a registry that writes down what is registered;
what else it is given is a stand-in, as nothing of it runs.  A class in services/ belongs to the roles that hand it their registry.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import MagicMock

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import stele
from pages import code, table
from stele.services.config import ROLES

HEAD = """# Metrics

Every role serves these at `http://host:admin_port/metrics` in Prometheus' text format (`admin_port` is a
[setting](configuration.md); `stele cluster status -o json` names the endpoint of each process of a local cluster). Besides them every
process has `process_*` (memory, CPU, open files; where the system tells) and `python_gc_*` from the Prometheus client, and the gauge
`stele_event_loop_longest_stall_seconds`: past its timeout the session with ZooKeeper ends while the loop stands still.

A histogram is scraped as `_bucket`, `_sum` and `_count`; of each counter and histogram `_created` says since when it counts.
Histograms of seconds all have the same buckets, from half a millisecond to half a minute, so that they can be joined over processes.

The number of series does not grow with the number of partitions: terms and leader changes are summed over the replicas of a datanode.
`stele partition info` shows the term of each replica of one (`stele partition ls -o json` of all), `stele explain` says why its leader
leads. Over a cluster
`sum(rate(stele_raft_leader_changes_total[5m])) by (cause)` are the leader changes of partitions by what they followed from.

Every nameserver counts all operations, and knows all topics and partitions: over nameservers take the maximum, not the sum.

Backlog and lag are told by the broker that owns a partition: sum the one, and take the maximum of the other, over brokers. The lag in
seconds is the age of the oldest message that is not acknowledged: this broker's clock against the time that the message's producer gave it,
which is stored with it and so outlives every owner. Clocks that differ, and producers that give messages times of their own, show in it;
it informs people, and nothing is decided by it. Partitions that nobody has used since this broker owns them are not in either;
`stele subscription ls` opens and counts them all.
"""


class Noted(CollectorRegistry):
    """Remembers what is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        self.collectors.append(collector)


def page() -> str:
    makers = list(registering())
    lines = [HEAD]
    for role in ROLES:
        rows = [
            row for maker, argument in makers if counts_for(maker, argument, role) for row in counted(maker, argument)
        ]
        lines += [f"## {role.capitalize()}", "", *table(("metric", "type", "labels", "what it is"), rows), ""]
    return "\n".join(lines)


def registering() -> Iterator[tuple[type, str]]:
    """The product's classes whose constructor takes a registry, with the name of that argument."""
    for package in ("services", *ROLES):
        for found in pkgutil.walk_packages([str(Path(stele.__path__[0]) / package)], f"stele.{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for maker in vars(module).values():
                if isinstance(maker, type) and maker.__module__ == module.__name__:
                    for name, parameter in inspect.signature(maker.__init__).parameters.items():  # type: ignore[misc]
                        if "CollectorRegistry" in str(parameter.annotation):
                            yield maker, name


def counted(maker: type, argument: str) -> Iterator[tuple[str, str, str, str]]:
    registry = Noted()
    needed = inspect.signature(maker).parameters.values()
    given = {
        p.name: MagicMock()
        for p in needed
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    maker(**given | {argument: registry})
    for collector in registry.collectors:
        for metric in collector.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield code(name), metric.type, ", ".join(map(code, labels(collector, metric))), metric.documentation


def labels(collector: Collector, metric: Metric) -> tuple[str, ...]:
    """Names of the labels, which both kinds keep to themselves."""
    found = (getattr(holder, "_labelnames", ()) for holder in (collector, metric))
    return tuple(next(filter(None, found), ()))


def counts_for(maker: type, argument: str, role: str) -> bool:
    """Whether the metrics of a class are among those of ``role``."""
    inside = maker.__module__.split(".")[1]
    handing = (
        *sources(role),
        *sources("services"),
    )  # what services hand a process's own registry counts in every process
    return inside == role or (inside == "services" and any(hands_over(path, maker, argument) for path in handing))


def sources(role: str) -> Iterator[Path]:
    return (Path(stele.__path__[0]) / role).rglob("*.py")


def hands_over(path: Path, maker: type, argument: str) -> bool:
    return (maker.__name__, argument) in handed(path)


@cache
def handed(path: Path) -> frozenset[tuple[str, str | None]]:
    """What is called in a file by its plain name, with each keyword that it is given."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return frozenset((call.func.id, k.arg) for call in calls if isinstance(call.func, ast.Name) for k in call.keywords)
