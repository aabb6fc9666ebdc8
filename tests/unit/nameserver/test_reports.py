"""Reports: what a stream of partial and complete messages adds up to."""

from __future__ import annotations

from stele.nameserver.reports import LeaderReport, Replica, ReplicaState, StoreReport, disconnected, leaders, merge
from stele.nameserver.view import read_status, store_status
from stele.services.pb import datanode_pb2
from tests.unit.nameserver.world import report


def test_a_partial_message_changes_what_it_names() -> None:
    whole = merge(None, report(1, Replica(1), Replica(2)))
    after = merge(whole, report(1, Replica(2, state=ReplicaState.LEADER), complete=False))
    assert after.complete
    assert after.replicas[1].state == ReplicaState.FOLLOWER
    assert after.replicas[2].state == ReplicaState.LEADER


def test_a_deleted_replica_is_gone() -> None:
    whole = merge(None, report(1, Replica(1), Replica(2)))
    after = merge(whole, report(1, Replica(2, state=ReplicaState.DELETED), complete=False))
    assert after.lacks(2)
    assert after.holds(1)


def test_a_complete_message_replaces() -> None:
    after = merge(merge(None, report(1, Replica(1))), report(1, Replica(2)))
    assert set(after.replicas) == {2}


def test_partial_messages_alone_prove_no_absence() -> None:
    first = merge(None, report(1, Replica(1), complete=False))
    assert not first.lacks(2)
    again = merge(disconnected(merge(None, report(1, Replica(1)))), report(1, Replica(3), complete=False))
    assert not again.lacks(2)


def test_a_broken_stream_decides_nothing() -> None:
    broken = disconnected(report(1, Replica(1)))
    assert not broken.holds(1)
    assert not broken.lacks(2)


def test_the_highest_term_leads_and_the_leaders_own_word_counts_at_equal_terms() -> None:
    old = report(1, Replica(7, state=ReplicaState.LEADER, leader_store_id=1, term=3))
    heard = report(2, Replica(7, leader_store_id=3, term=4))
    new = report(3, Replica(7, state=ReplicaState.LEADER, leader_store_id=3, term=4))
    assert leaders({1: old}) == {7: LeaderReport(1, 3, True)}
    assert leaders({1: old, 2: heard}) == {7: LeaderReport(3, 4, False)}
    assert leaders({1: old, 2: heard, 3: new}) == {7: LeaderReport(3, 4, True)}
    assert leaders({1: old, 3: disconnected(new)}) == {7: LeaderReport(1, 3, True)}


def test_a_report_survives_the_wire() -> None:
    whole = StoreReport(
        3,
        "ready",
        4,
        5,
        600,
        {9: Replica(9, "demo/t", 2, ReplicaState.FAILED, 1, 7, 8, 9, 10, 11, "disk")},
        complete=True,
        connected=True,
    )
    sent = datanode_pb2.StoreStatus.FromString(store_status(whole).SerializeToString())
    assert read_status(sent) == whole
