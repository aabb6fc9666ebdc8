"""What is planned for what changed is what would be planned for everything."""

from __future__ import annotations

from stele.nameserver.catalog_reader import CatalogReader
from stele.nameserver.owner_epochs import OwnerEpochs
from stele.nameserver.plan_scope import WHOLE_EVERY_S, PlanScope
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import StoreReport, decisively_changed, leaders, merge
from stele.nameserver.routing import RoutingChange, RoutingChanges, changed_members
from stele.nameserver.strays import set_apart
from stele.nameserver.view import View
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.histories import History, message

STEPS = 100


async def test_what_is_planned_for_what_changed_is_what_would_be_planned_for_everything() -> None:
    async def scenario(kind: type[PlanScope]) -> None:
        found_any = 0
        for seed in range(20):
            history, reader, scope = History(seed), CatalogReader(), kind()
            reports: dict[int, StoreReport] = {}
            catalog = reader.read({})
            for number in range(STEPS):
                if history.rng.random() < 0.5:
                    update = reader.update(history.step())
                    catalog, groups = update.catalog, update.groups
                    scope.touch(None if update.others else update.topics)
                else:
                    store_id = history.rng.randrange(1, 4)
                    known = reports.get(store_id)
                    reports[store_id] = merge(known, message(history.rng, store_id))
                    changed = decisively_changed(known, reports[store_id])
                    groups = set(changed or ())
                    if changed is None:
                        scope.touch(None)
                scope.touch({catalog.partitions[group].topic for group in groups if group in catalog.partitions})
                if history.rng.random() < 0.3:
                    continue  # several changes before the next round
                apart = set_apart(catalog, reports)
                led = leaders(apart)
                found = plan(scope.take(catalog, 0.0), apart, led)
                scope.planned(is_idle=not found)
                found_any += bool(found)
                with promise("what is due is planned for until it is done"):
                    assert found == plan(catalog, apart, led), f"seed {seed}, step {number}"
        assert found_any > 100

    await holds_and_mutant_fails(scenario, PlanScope, "catalog.PlansOnce")


def test_everything_is_planned_for_now_and_then() -> None:
    history, reader, scope = History(1), CatalogReader(), PlanScope()
    catalog = reader.read({})
    for _ in range(STEPS):
        catalog = reader.update(history.step()).catalog
    for now_s, whole in ((0.0, True), (1.0, False), (WHOLE_EVERY_S, True), (WHOLE_EVERY_S + 1, False)):
        assert (scope.take(catalog, now_s).topics == catalog.topics) == whole
        scope.planned(is_idle=True)


def test_owner_epochs_are_those_of_all_reports() -> None:
    for seed in range(20):
        history, reader, changes = History(seed), CatalogReader(), RoutingChanges()
        epochs, reports = OwnerEpochs(changes), dict[int, StoreReport]()
        catalog = reader.read({})
        for number in range(STEPS):
            before, change = catalog, RoutingChange()
            if history.rng.random() < 0.5:
                update = reader.update(history.step())
                catalog = update.catalog
                change = RoutingChange(update.topics, update.groups, update.bundles)
                change.add(changed_members(before, catalog))
                groups = set(range(1, 12))
            else:
                store_id = history.rng.randrange(1, 4)
                said = message(history.rng, store_id)
                for replica in said.replicas:
                    replica.owner_epoch = history.rng.randrange(4)
                reports[store_id] = merge(reports.get(store_id), said)
                groups = {*range(1, 12)} if said.complete else {r.group for r in said.replicas}
            epochs.look(groups, reports.values())
            changes.record(change, catalog)
            epochs.placed(groups, change.everything)
            whole = View(catalog, reports, {}).owner_epochs()
            assert epochs.of_bundles == whole, f"seed {seed}, step {number}"
