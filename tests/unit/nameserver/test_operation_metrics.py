"""Operations are counted as they begin and end, with how long they lasted and what they moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from stele.nameserver.catalog import Catalog, PartitionEntry, Rebalance, StoreEntry, StoreState, TopicEntry, TopicState
from stele.nameserver.events import derive
from stele.nameserver.moves import Cause
from stele.nameserver.operation_metrics import OperationMetrics
from stele.nameserver.reports import StoreReport
from stele.nameserver.view import View
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus
from tests.support.metrics import Labels, of

BEFORE = PartitionEntry(7, "demo/t", 0, (1, 2, 3))
MOVING = replace(
    BEFORE, replicas=(1, 2, 3, 4), target=(4, 2, 3), cause=Cause.REPAIR, moves_since_ms=9, caused_by="member_gone/dn1@4"
)
TOPIC = TopicEntry("demo/t", 1, 1, 3, TopicState.READY)
QUIET = Catalog(topics={"demo/t": TOPIC}, partitions={7: BEFORE}, stores={1: StoreEntry(1, "dn1", StoreState.UP, "u")})


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 0


class Nameserver:
    def __init__(self, catalog: Catalog = QUIET) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        report = StoreReport(StoreStatus(), replicas={7: ReplicaStatus(group=7, log_bytes=1_000)})
        self.reports = {4: report, 2: report}
        self.view = View(catalog, self.reports, {})
        self.metrics = OperationMetrics(lambda: self.view, self.registry, self.clock)

    def becomes(self, catalog: Catalog, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.metrics.observe(derive(self.view.catalog, catalog))
        self.view = View(catalog, self.reports, {})

    def __getitem__(self, name: str) -> dict[Labels, float]:
        return of(self.registry).get(name, {})


@pytest.fixture
def nameserver() -> Nameserver:
    return Nameserver()


def test_a_move_counts_with_its_cause_seconds_and_bytes(nameserver: Nameserver) -> None:
    nameserver.becomes(replace(QUIET, partitions={7: MOVING}))
    assert nameserver["stele_operations_running"][("kind", "move"),] == 1
    assert nameserver["stele_operations_begun_total"] == {(("cause", "repair"), ("kind", "move")): 1}
    nameserver.becomes(replace(QUIET, partitions={7: replace(BEFORE, replicas=(4, 2, 3))}), after_s=7.0)
    assert nameserver["stele_operations_running"][("kind", "move"),] == 0
    assert nameserver["stele_operations_ended_total"] == {(("kind", "move"), ("outcome", "done")): 1}
    assert nameserver["stele_operation_seconds_sum"] == {(("kind", "move"),): 7.0}
    assert nameserver["stele_moved_bytes_total"] == {(): 1_000}


def test_a_move_that_goes_back_was_cancelled_and_moved_nothing(nameserver: Nameserver) -> None:
    nameserver.becomes(replace(QUIET, partitions={7: MOVING}))
    nameserver.becomes(replace(QUIET, partitions={7: replace(MOVING, target=(1, 2, 3))}))
    nameserver.becomes(QUIET)
    assert nameserver["stele_operations_ended_total"] == {(("kind", "move"), ("outcome", "cancelled")): 1}
    assert nameserver["stele_moved_bytes_total"] == {(): 0}


def test_a_move_ends_with_its_topic(nameserver: Nameserver) -> None:
    nameserver.becomes(replace(QUIET, partitions={7: MOVING}))
    nameserver.becomes(Catalog(stores=QUIET.stores))
    assert nameserver["stele_operations_ended_total"] == {(("kind", "move"), ("outcome", "gone")): 1}


def test_what_began_before_counts_as_it_ends() -> None:
    nameserver = Nameserver(replace(QUIET, partitions={7: MOVING}))
    nameserver.becomes(replace(QUIET, partitions={7: replace(BEFORE, replicas=(4, 2, 3))}))
    assert nameserver["stele_operations_ended_total"] == {(("kind", "move"), ("outcome", "done")): 1}
    assert nameserver["stele_operation_seconds_sum"] == {}


def _offline(catalog: Catalog) -> Catalog:
    return replace(catalog, stores={1: replace(catalog.stores[1], state=StoreState.OFFLINE)})


def _removed(catalog: Catalog) -> Catalog:
    return replace(catalog, stores={1: replace(catalog.stores[1], state=StoreState.TOMBSTONE)})


def _evened(catalog: Catalog) -> Catalog:
    return replace(catalog, rebalance=Rebalance(4))


def _quiet(catalog: Catalog) -> Catalog:
    return QUIET


@pytest.mark.parametrize(
    ("kind", "begun", "ended", "outcome"),
    [
        ("decommission", _offline, _removed, "done"),
        ("decommission", _offline, _quiet, "cancelled"),
        ("rebalance", _evened, _quiet, "done"),
    ],
)
def test_what_operators_begin_counts(
    nameserver: Nameserver,
    kind: str,
    begun: Callable[[Catalog], Catalog],
    ended: Callable[[Catalog], Catalog],
    outcome: str,
) -> None:
    nameserver.becomes(begun(QUIET))
    assert nameserver["stele_operations_begun_total"] == {(("cause", "operator"), ("kind", kind)): 1}
    assert nameserver["stele_operations_running"][("kind", kind),] == 1
    nameserver.becomes(ended(begun(QUIET)), after_s=2.0)
    assert nameserver["stele_operations_ended_total"] == {(("kind", kind), ("outcome", outcome)): 1}
    assert nameserver["stele_operation_seconds_sum"] == {(("kind", kind),): 2.0}
