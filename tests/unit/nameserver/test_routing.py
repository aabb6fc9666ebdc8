"""A broker that is told what changed knows what it would be told of the whole."""

from __future__ import annotations

import pytest

from stele.broker.ownership import Ownership, RoutingTable
from stele.nameserver import routing
from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    Member,
    MemberKind,
    NamespaceEntry,
    PartitionEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.catalog_reader import CatalogReader
from stele.nameserver.routing import BrokerRouting, RoutingChange, RoutingChanges, changed_members
from stele.nameserver.view import View
from stele.services.bundles import bundle_of, bundles_of, holds
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.nameservers import _joined
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.histories import History

TOLD_BYTES_MAX = 64 * 1024


def message(told: BrokerRouting, view: View) -> pb.Routing | None:
    """What is told at this moment, its parts put together."""
    whole: pb.Routing | None = None
    while told.take(view) or whole is not None:
        part = told.part(view)
        assert part.ByteSize() < TOLD_BYTES_MAX
        whole = _joined(whole, pb.Routing.FromString(part.SerializeToString()))
        if not part.more:
            return whole
    return None


class Hearing:
    """A broker's tables, as it keeps them."""

    def __init__(self, broker: str, changes: RoutingChanges, kind: type[BrokerRouting]) -> None:
        self.told = kind(broker, changes)
        self.routes, self.ownership = RoutingTable(absent_grace_s=0.0), Ownership(broker)

    def hear(self, view: View) -> None:
        if (said := message(self.told, view)) is not None:
            self.routes.observe(said, 0.0)
            self.ownership.observe(said)


def served(routes: RoutingTable, catalog: Catalog, broker: str) -> dict[tuple[str, int], object]:
    """What the table says of the partitions that are recorded as the broker's."""
    own = {}
    for topic in catalog.topics.values():
        for partition in catalog.partitions_of.get(topic.name, ()):
            namespace = catalog.namespaces.get("demo")
            if namespace is None or partition.index >= topic.partitions or topic.state == TopicState.DELETING:
                continue
            bundle = catalog.bundles.get(bundle_of(topic.name, partition.index, namespace.bundles, namespace.splits))
            if bundle is not None and bundle.broker == broker:
                own[topic.name, partition.index] = routes.get(topic.name, partition.index)
    return own


async def test_a_broker_that_is_told_what_changed_knows_what_concerns_it() -> None:
    async def scenario(kind: type[BrokerRouting]) -> None:
        for seed in range(20):
            history, reader, changes = History(seed), CatalogReader(), RoutingChanges()
            catalog = reader.read({})
            brokers = {name: Hearing(name, changes, kind) for name in ("br1", "br2")}
            for number in range(150):
                before, update = catalog, reader.update(history.step())
                catalog = update.catalog
                change = RoutingChange(update.topics, update.groups, update.bundles)
                change.add(changed_members(before, catalog))
                changes.record(change, catalog)
                view = View(catalog, {}, {})
                for name, hearing in brokers.items():
                    if history.rng.random() < 0.3:
                        continue  # it hears of several changes at once
                    hearing.hear(view)
                    whole, anew = RoutingTable(), message(BrokerRouting(name, changes), view)
                    assert anew is not None
                    whole.observe(anew, 0.0)
                    with promise("a broker that is told what changed knows what concerns it"):
                        what = f"seed {seed}, change {number}, {name}"
                        assert served(hearing.routes, catalog, name) == served(whole, catalog, name), what
                        assert None not in served(whole, catalog, name).values(), what
                        assert hearing.routes.topic_ids == whole.topic_ids, what
                        assert hearing.routes.partitions == whole.partitions, what
                        assert hearing.routes.creating == whole.creating, what

    await holds_and_mutant_fails(scenario, BrokerRouting, "catalog.TellsOfTheTouchedAlone")


PARTITIONS, BROKERS = 4_000, 4


def cluster(turned: int = 0, owner: int = 1) -> Catalog:
    """A large one, in which partition ``turned`` has its replicas in another order, and bundle 0 another owner."""
    topics, bundles = PARTITIONS // 10, bundles_of("demo", 16)
    members = {f"br{n}": Member(MemberKind.BROKERS, f"br{n}", f"h:{n}", joined_zxid=1) for n in range(1, BROKERS + 1)}
    owners = {b: f"br{i % BROKERS + 1 if i else owner}" for i, b in enumerate(bundles)}
    return Catalog(
        namespaces={"demo": NamespaceEntry("demo", 16, 3)},
        topics={f"demo/t{n}": TopicEntry(f"demo/t{n}", n + 1, 10, 3, TopicState.READY) for n in range(topics)},
        partitions={
            group: PartitionEntry(
                group, f"demo/t{(group - 1) // 10}", (group - 1) % 10, (2, 1) if group == turned else (1, 2)
            )
            for group in range(1, PARTITIONS + 1)
        },
        bundles={b: BundleEntry(b, broker, 1 + (owner != 1), assigned_zxid=2) for b, broker in owners.items()},
        brokers=members,
    )


def begun(catalog: Catalog) -> tuple[RoutingChanges, dict[str, BrokerRouting]]:
    changes = RoutingChanges()
    changes.record(RoutingChange(everything=True), catalog)
    return changes, {name: BrokerRouting(name, changes) for name in catalog.brokers}


def test_a_change_is_told_to_its_owner_alone_and_is_small() -> None:
    first = cluster()
    changes, told = begun(first)
    whole = {name: message(one, View(first, {}, {})) for name, one in told.items()}
    routes = {name: sum(len(t.partitions) for t in said.topics) for name, said in whole.items() if said}
    assert sum(routes.values()) == PARTITIONS
    turned = cluster(turned=77)
    changes.record(RoutingChange(groups={77}), turned)
    said = {name: message(one, View(turned, {}, {})) for name, one in told.items()}
    [owner] = [name for name, one in said.items() if one is not None]
    assert turned.bundles[changes.bundle(77)].broker == owner
    assert said[owner].ByteSize() < 1024
    assert said[owner].changes


def test_who_gains_a_bundle_is_told_of_its_partitions_and_who_loses_it_of_that() -> None:
    first, moved = cluster(), cluster(owner=2)
    changes, told = begun(first)
    for one in told.values():
        message(one, View(first, {}, {}))
    bundle = next(iter(first.bundles))
    changes.record(RoutingChange(bundles={bundle}), moved)
    said = {name: message(one, View(moved, {}, {})) for name, one in told.items()}
    assert all([b.bundle for b in one.bundles] == [bundle] for one in said.values() if one)
    gained = {(t.topic.topic, p.partition) for t in said["br2"].topics for p in t.partitions if p.bundle == bundle}
    assert len(gained) == len(changes.groups(bundle)) > 0
    assert not said["br1"].topics
    assert all(holds(bundle, topic, partition) for topic, partition in gained)


def test_who_is_far_behind_is_told_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = cluster()
    view = View(catalog, {}, {})
    changes, told = begun(catalog)
    message(told["br1"], view)
    for _ in range(routing.CHANGES_MAX):
        changes.record(RoutingChange(groups={77}), catalog)
    near = message(told["br1"], view)
    assert near is None or near.changes
    for _ in range(routing.CHANGES_MAX + 1):
        changes.record(RoutingChange(groups={77}), catalog)
    anew = message(told["br1"], view)
    assert anew is not None
    assert not anew.changes
    assert len(anew.topics) == PARTITIONS // 10
