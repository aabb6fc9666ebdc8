"""Answers to readers: typed, and from live registrations only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    Leader,
    Member,
    MemberKind,
    MemberState,
    NamespaceEntry,
    PartitionEntry,
    StoreEntry,
    TopicEntry,
    TopicState,
)
from stele.nameserver.reports import LeaderReport, ReplicaState, Reports, leaders
from stele.nameserver.view import View
from stele.services.bundles import bundle_of
from stele.services.errors import InvalidArgument, NamespaceNotFound, StoreTombstone, StoreUnknown, TopicNotFound
from stele.services.intervals import IntervalSet
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.world import datanode, replica, report

BUNDLE = bundle_of("demo/t", 0, 1)
BROKER = Member(MemberKind.BROKERS, "br1", "br1:1", advertised="localhost:1", joined_zxid=5)
CATALOG = Catalog(
    namespaces={"demo": NamespaceEntry("demo", 1, 3)},
    topics={"demo/t": TopicEntry("demo/t", 1, 1, 3, TopicState.READY)},
    partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3))},
    bundles={BUNDLE: BundleEntry(BUNDLE, "br1", 4, assigned_zxid=9)},
    stores={
        1: StoreEntry(1, "dn1", "up", "u1"),
        2: StoreEntry(2, "dn2", "up", "u2"),
        3: StoreEntry(3, "dn3", "tombstone", "u3"),
    },
    buried=IntervalSet.of([(4, 6)]),
    datanodes={"dn1": datanode(1)},
    brokers={"br1": BROKER},
    leader=Leader("ns1", "ns1:1", 2),
)
REPORTS: Reports = {1: report(1, replica(7, state=ReplicaState.LEADER, leader_store_id=1, term=3))}


def view(catalog: Catalog = CATALOG, reports: Reports = REPORTS) -> View:
    return View(catalog, reports, leaders(reports))


async def test_a_topic_is_not_given_the_partitions_of_another_one_of_its_name() -> None:
    """Records are seen one by one: the new topic's partitions perhaps before it, its predecessor perhaps after it is gone."""

    async def scenario(catalog: type[Catalog]) -> None:
        later = PartitionEntry(9, "demo/t", 0, (1, 2, 3), topic_id=2)
        seen = catalog(topics=CATALOG.topics, partitions={9: later})
        seen.validate()
        with promise("what is sent to a topic is not stored in another one of its name"):
            assert not view(seen).lookup("demo/t").partitions
        assert view(seen).lost(later, 1) == ""
        beside = catalog(topics=CATALOG.topics, partitions={7: replace(CATALOG.partitions[7], topic_id=1), 9: later})
        beside.validate()
        assert [p.group for p in view(beside).lookup("demo/t").partitions] == [7]

    await holds_and_mutant_fails(scenario, Catalog, "catalog.GoesByName")


NAMES = st.sampled_from(["a/t", "a/t-1", "a/u", "b/t", "ab/t"])


@given(st.dictionaries(NAMES, st.integers(1, 4)), st.integers(1, 5))
def test_pages_of_a_listing_are_the_whole_of_it_each_once_and_in_order(topics: dict[str, int], limit: int) -> None:
    groups = count(1)
    seen = view(
        Catalog(
            namespaces={n: NamespaceEntry(n, 1, 3) for n in ("a", "ab", "b")},
            topics={name: TopicEntry(name, i, n, 3, TopicState.READY) for i, (name, n) in enumerate(topics.items(), 1)},
            partitions={
                (group := next(groups)): PartitionEntry(group, name, index, (1,))
                for name, n in topics.items()
                for index in range(n)
            },
        )
    )
    listed, after, more = list[str](), "", True
    while more:
        page = seen.topics(limit=limit, after=after)
        assert len(page.topics) == limit or not page.more
        listed += (t.topic for t in page.topics)
        after, more = listed[-1] if listed else "", page.more
    assert listed == sorted(topics)
    assert [t.topic for t in seen.topics("a", after="a/t").topics] == sorted(set(topics) & {"a/t-1", "a/u"})
    found, behind, more = list[tuple[str, int]](), ("", 0), True
    while more:
        some = seen.partitions(limit=limit, after=behind)
        assert len(some.partitions) == limit or not some.more
        found += ((p.topic, p.route.partition) for p in some.partitions)
        behind, more = found[-1] if found else ("", 0), some.more
    assert found == [(name, index) for name in sorted(topics) for index in range(topics[name])]
    assert len(seen.partitions().partitions) == len(found), (
        "without a limit everything is in one message, as it always was"
    )


def test_a_route_names_owner_leader_and_replicas() -> None:
    (route,) = view().lookup("demo/t").partitions
    assert (route.broker, route.owner_epoch, route.bundle, route.leader_store_id) == ("br1", 4, BUNDLE, 1)
    assert (route.broker_address.endpoint, route.broker_address.advertised) == ("br1:1", "localhost:1")
    assert [(r.store_id, r.endpoint, r.state) for r in route.replicas] == [
        (1, "dn1:1", "leader"),
        (2, "", ""),
        (3, "", ""),
    ]


def test_r5_9_a_route_names_no_broker_that_is_gone_or_registered_again() -> None:
    for brokers in ({}, {"br1": replace(BROKER, joined_zxid=10)}):
        seen = view(replace(CATALOG, brokers=brokers))
        (route,) = seen.lookup("demo/t").partitions
        assert (route.broker, route.broker_address.endpoint, route.owner_epoch) == ("", "", 4)
        (assigned,) = seen.routing().bundles
        assert (assigned.broker, assigned.epoch) == ("", 4)


def test_p2_a_replica_that_its_store_lost_is_named_with_the_store_and_the_partition() -> None:
    recorded = {7: PartitionEntry(7, "demo/t", 0, (1, 2, 3), materialised=(1, 2))}
    catalog = replace(CATALOG, partitions=recorded, datanodes={f"dn{s}": datanode(s) for s in (1, 2, 3)})
    candidate = replica(7, state=ReplicaState.CANDIDATE, term=3)

    def shown(catalog: Catalog) -> list[tuple[str, str]]:
        (route,) = view(catalog, {1: report(1, candidate), 2: report(2), 3: report(3)}).lookup("demo/t").partitions
        return [(r.state, r.problem) for r in route.replicas]

    lost = ("lost", "store 2 lost its replica of demo/t-0")
    assert shown(catalog) == [("candidate", ""), lost, ("lost", "store 3 has no replica of demo/t-0")]
    creating = {"demo/t": replace(CATALOG.topics["demo/t"], state=TopicState.CREATING)}
    assert shown(replace(catalog, topics=creating)) == [("candidate", ""), lost, ("", "")]
    deleting = {"demo/t": replace(CATALOG.topics["demo/t"], state=TopicState.DELETING)}
    assert shown(replace(catalog, topics=deleting)) == [("candidate", ""), ("", ""), ("", "")]


def test_p2_a_replica_that_is_not_counted_yet_is_a_learner() -> None:
    leader = replica(7, ReplicaState.LEADER, leader_store_id=1, term=3, voters=(1, 2), learners=(3,))
    reports = {1: report(1, leader), 3: report(3, replica(7, leader_store_id=1, term=3))}
    (route,) = view(reports=reports).lookup("demo/t").partitions
    assert [r.state for r in route.replicas] == ["leader", "", "learner"]
    reports[3] = report(3, replica(7, ReplicaState.RECOVERING, leader_store_id=1, term=3))
    (route,) = view(reports=reports).lookup("demo/t").partitions
    assert [r.state for r in route.replicas] == ["leader", "", "recovering"]


def test_a_leader_outside_the_replicas_is_no_hint() -> None:
    strange = View(CATALOG, REPORTS, {7: LeaderReport(9, 8, True)})
    (route,) = strange.lookup("demo/t").partitions
    assert route.leader_store_id == 0


def test_names_are_checked_before_they_are_looked_for() -> None:
    with pytest.raises(InvalidArgument):
        view().lookup("nonsense")
    with pytest.raises(TopicNotFound):
        view().lookup("demo/none")
    with pytest.raises(NamespaceNotFound):
        view().topics("none")
    assert [t.topic for t in view().topics().topics] == ["demo/t"]


async def test_r2_1_unknown_and_removed_are_told_apart() -> None:
    async def scenario(make: Callable[..., View]) -> None:
        seen = make(CATALOG, REPORTS, {})
        assert seen.resolve(1).endpoint == "dn1:1"
        with promise("a store that was never seen is unknown, not removed"):
            for store_id in (2, 99):
                with pytest.raises(StoreUnknown) as unknown:
                    seen.resolve(store_id)
                assert unknown.value.retryable
        with promise("a removed store is known to be removed"):
            for store_id in (3, 4, 6):
                with pytest.raises(StoreTombstone) as removed:
                    seen.resolve(store_id)
                assert not removed.value.retryable

    await holds_and_mutant_fails(scenario, View, "catalog.UnknownIsTombstone")
    await holds_and_mutant_fails(scenario, View, "catalog.TombstoneIsUnknown")


def test_r4_4_a_loading_store_shows_its_progress() -> None:
    loading = replace(datanode(1, MemberState.LOADING), loaded=3, total=8)
    seen = view(replace(CATALOG, datanodes={"dn1": loading}), {})
    status = seen.stores()[0].status
    assert (status.state, status.loaded, status.total) == ("loading", 3, 8)
    assert seen.lookup("demo/t").partitions[0].replicas[0].endpoint == ""


def test_stores_and_brokers_are_listed_whether_they_live_or_not() -> None:
    seen = view(replace(CATALOG, brokers={}))
    assert [(s.store_id, s.live, s.state) for s in seen.stores()] == [
        (1, True, "up"),
        (2, False, "up"),
        (3, False, "tombstone"),
    ]
    (gone,) = seen.brokers()
    assert (gone.name, gone.live, list(gone.bundles)) == ("br1", False, [BUNDLE])


def test_the_catalog_checks_itself() -> None:
    CATALOG.validate()
    twice = {7: CATALOG.partitions[7], 8: PartitionEntry(8, "demo/t", 0, (1,))}
    with pytest.raises(AssertionError):
        replace(CATALOG, partitions=twice).validate()
