"""What is made of a change is what would be made of everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stele.nameserver import catalog_reader
from stele.nameserver.catalog import Catalog
from stele.nameserver.catalog_change import CatalogChange, narrowed
from stele.nameserver.catalog_reader import CatalogReader
from stele.nameserver.events import derive
from stele.nameserver.reports import StoreReport, leader_of, leaders, merge
from stele.nameserver.strays import ReportsApart, set_apart
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.histories import History, message

DERIVED = (
    "topic_names",
    "recorded_of",
    "partitions_of",
    "high_water",
    "wanted_bundles",
    "live_stores",
    "serving_stores",
    "placeable_stores",
    "racks",
    "replica_counts",
)
CHANGES = 120


def look(catalog: Catalog) -> dict[str, object]:
    return {name: getattr(catalog, name) for name in DERIVED}


async def test_a_changed_catalog_is_the_one_of_all_records(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(kind: type[CatalogChange]) -> None:
        monkeypatch.setattr(catalog_reader, "CatalogChange", kind)
        for seed in range(20):
            history, reader = History(seed), CatalogReader()
            reader.read({})
            for number in range(CHANGES):
                found = reader.update(history.step()).catalog
                whole = CatalogReader()
                expected = whole.read(history.nodes)
                with promise("what is made of a change is what would be made of everything"):
                    assert found == expected, f"seed {seed}, change {number}"
                    assert look(found) == look(expected), f"seed {seed}, change {number}"
                assert reader.unreadable == whole.unreadable

    await holds_and_mutant_fails(scenario, CatalogChange, "catalog.KeepsWhatIsDerived")


def test_what_is_told_of_a_change_follows_from_what_it_touched() -> None:
    for seed in range(20):
        history, reader = History(seed), CatalogReader()
        before = reader.read({})
        for _ in range(CHANGES):
            update = reader.update(history.step())
            touched = [narrowed(c, *update[1:4]) for c in (before, update.catalog)]
            assert derive(*touched) == derive(before, update.catalog)
            before = update.catalog


async def test_reports_are_set_apart_as_records_and_stores_change() -> None:
    async def scenario(kind: Callable[[], ReportsApart]) -> None:
        for seed in range(20):
            history, reader, apart = History(seed), CatalogReader(), kind()
            reports: dict[int, StoreReport] = {}
            catalog = reader.read({})
            for number in range(CHANGES):
                store_id = history.rng.randrange(1, 4)
                if history.rng.random() < 0.5:
                    update = reader.update(history.step())
                    catalog = update.catalog
                    of_topics = (p.group for name in update.topics for p in catalog.recorded_of.get(name, ()))
                    apart.recorded(catalog, {*update.groups, *of_topics})
                elif store_id in reports and history.rng.random() < 0.1:
                    del reports[store_id]
                    apart.reported(store_id, None, None)
                else:
                    known, said = reports.get(store_id), message(history.rng, store_id)
                    reports[store_id] = merge(known, said)
                    whole = known is None or said.complete
                    apart.reported(store_id, reports[store_id], None if whole else [r.group for r in said.replicas])
                with promise("a replica of another topic is not counted, created over or deleted"):
                    assert dict(apart) == set_apart(catalog, reports), f"seed {seed}, change {number}"
                led = {group: leader_of(list(apart.values()), group) for group in range(1, 12)}
                assert {group: leader for group, leader in led.items() if leader} == leaders(apart)

    await holds_and_mutant_fails(scenario, ReportsApart, "catalog.SetsApartOnce")
