"""A replica counts for the topic that it is of, and for no other that was given its group (fault P3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stele.nameserver.catalog import Catalog, NamespaceEntry, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.effects import MarkReady, RemoveRecords
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import ReplicaState, Reports, StrayKind, decisively_changed, disconnected, leaders, merge
from stele.nameserver.strays import ReportsApart, set_apart
from stele.nameserver.view import View
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.world import datanode, message, replica, report

SetApart = Callable[[Catalog, Reports], Reports]

TOPIC = TopicEntry("demo/t", 1, 1, 3, TopicState.READY)
CATALOG = Catalog(
    namespaces={"demo": NamespaceEntry("demo", 1, 3)},
    topics={"demo/t": TOPIC},
    partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3), materialised=(1, 2, 3))},
    datanodes={f"dn{s}": datanode(s) for s in (1, 2, 3)},
)
CREATING = replace(CATALOG, topics={"demo/t": replace(TOPIC, state=TopicState.CREATING)})
DELETING = replace(CATALOG, topics={"demo/t": replace(TOPIC, state=TopicState.DELETING)})
LEADER = replica(7, state=ReplicaState.LEADER, leader_store_id=1, term=3, topic="demo/former", topic_id=5)
STRANGERS: Reports = {
    s: report(s, LEADER if s == 1 else replica(7, topic="demo/former", topic_id=5)) for s in (1, 2, 3)
}


async def test_p3_a_group_of_another_topic_counts_for_nothing_and_is_left_alone() -> None:
    """ZooKeeper was put back to an older copy, and a new topic was given a group that stores hold as another topic's."""

    async def scenario(apart: SetApart) -> None:
        creating, deleting = apart(CREATING, STRANGERS), apart(DELETING, STRANGERS)
        with promise("a replica of another topic is not counted, created over or deleted"):
            assert leaders(creating) == {}
            assert plan(CREATING, creating, leaders(creating)) == []
            assert plan(DELETING, deleting, leaders(deleting)) == [RemoveRecords("demo/t", 1)]

    await holds_and_mutant_fails(scenario, set_apart, "catalog.counts_strangers")


def test_p3_a_stranger_is_shown_and_is_no_route() -> None:
    reports = set_apart(CATALOG, STRANGERS)
    view = View(CATALOG, reports, leaders(reports))
    (partition,) = view.partitions("demo/t").partitions
    assert partition.route.leader_store_id == 0
    assert {r.state for r in partition.route.replicas} == {StrayKind.STRANGER}
    assert {r.status.problem for r in partition.reports} == {"holds group 7 of the topic demo/former with id 5"}
    status = reports[1].whole()
    assert [(r.group, r.state) for r in status.replicas] == [(7, StrayKind.STRANGER)]
    assert LEADER.state == ReplicaState.LEADER, "what the store said is not touched"


def test_p3_what_the_records_say_counts() -> None:
    reports = {1: report(1, replica(7, state=ReplicaState.LEADER, leader_store_id=1, term=3))}
    known = set_apart(CREATING, reports)
    assert known == reports
    assert plan(CREATING, known, leaders(known)) == [MarkReady("demo/t", 1)]


def test_p3_a_name_that_was_used_again_and_another_partition_are_strangers() -> None:
    for other in (replica(7, topic_id=2), replica(7, partition=1), replica(7, topic="demo/u")):
        assert set_apart(CATALOG, {1: report(1, other)})[1].strays[7].kind is StrayKind.STRANGER


def test_p3_a_replica_written_before_ids_were_known_is_known_by_name() -> None:
    old = replica(7, topic_id=0, state=ReplicaState.FOLLOWER)
    assert set_apart(CATALOG, {1: report(1, old)})[1].holds(7)
    assert set_apart(CATALOG, {1: report(1, replica(7, topic_id=0, topic="demo/u"))})[1].strays.keys() == {7}


def test_p3_a_replica_that_cannot_say_whose_it_is_keeps_its_place() -> None:
    unreadable = replica(7, topic="", topic_id=0, state=ReplicaState.FAILED)
    known = set_apart(CATALOG, {1: report(1, unreadable)})
    assert known[1].holds(7)
    assert plan(CATALOG, known, {}) == []


def test_p3_a_group_without_a_record_is_an_orphan_and_not_lacking() -> None:
    known = set_apart(CATALOG, {1: report(1, replica(9))})
    assert known[1].strays[9].kind is StrayKind.ORPHAN
    assert not known[1].lacks(9)
    assert not known[1].holds(9)
    assert known[1].lacks(7)
    assert not set_apart(CATALOG, {1: disconnected(report(1, replica(9)))})[1].lacks(7)


def test_p3_a_partition_whose_topic_is_not_seen_yet_proves_nothing() -> None:
    behind = replace(CATALOG, topics={})
    assert set_apart(behind, {1: report(1, replica(7))})[1].holds(7)


def test_p3_positions_are_shown_as_the_stores_tell_them_though_nobody_decides_by_them() -> None:
    known, first, moved = ReportsApart(), report(1, replica(7)), replica(7)
    known.recorded(CATALOG, {7})
    known.reported(1, first, None)
    assert known[1].replicas[7].high_watermark == 0
    moved.high_watermark = 50
    second = merge(first, message(1, moved, complete=False))
    assert decisively_changed(first, second) == frozenset()
    known.reported(1, second, [7])
    known.reported(2, report(2), None)
    assert known[1].replicas[7].high_watermark == 50
    assert sorted(known) == [1, 2]
