"""Reports: what a stream of partial and complete messages adds up to."""

from __future__ import annotations

from stele.nameserver.reports import LeaderReport, ReplicaState, disconnected, leaders, merge
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus
from tests.unit.nameserver.world import message, replica, report


def test_a_partial_message_changes_what_it_names() -> None:
    whole = report(1, replica(1), replica(2))
    after = merge(whole, message(1, replica(2, ReplicaState.LEADER), complete=False))
    assert after.complete
    assert after.replicas[1].state == ReplicaState.FOLLOWER
    assert after.replicas[2].state == ReplicaState.LEADER
    assert whole.replicas[2].state == ReplicaState.FOLLOWER


def test_a_deleted_replica_is_gone() -> None:
    whole = report(1, replica(1), replica(2))
    after = merge(whole, message(1, replica(2, ReplicaState.DELETED), complete=False))
    assert after.lacks(2)
    assert after.holds(1)


def test_a_complete_message_replaces() -> None:
    after = merge(report(1, replica(1)), message(1, replica(2)))
    assert set(after.replicas) == {2}


def test_partial_messages_alone_prove_no_absence() -> None:
    first = report(1, replica(1), complete=False)
    assert not first.lacks(2)
    again = merge(disconnected(report(1, replica(1))), message(1, replica(3), complete=False))
    assert not again.lacks(2)


def test_a_broken_stream_decides_nothing() -> None:
    broken = disconnected(report(1, replica(1)))
    assert not broken.holds(1)
    assert not broken.lacks(2)


def test_the_highest_term_leads_and_the_leaders_own_word_counts_at_equal_terms() -> None:
    old = report(1, replica(7, ReplicaState.LEADER, leader_store_id=1, term=3))
    heard = report(2, replica(7, leader_store_id=3, term=4))
    new = report(3, replica(7, ReplicaState.LEADER, leader_store_id=3, term=4))
    assert leaders({1: old}) == {7: LeaderReport(1, 3, True)}
    assert leaders({1: old, 2: heard}) == {7: LeaderReport(3, 4, False)}
    assert leaders({1: old, 2: heard, 3: new}) == {7: LeaderReport(3, 4, True)}
    assert leaders({1: old, 3: disconnected(new)}) == {7: LeaderReport(1, 3, True)}


def test_messages_are_shown_as_they_came() -> None:
    failed = ReplicaStatus(
        group=9,
        topic="demo/t",
        partition=2,
        state=ReplicaState.FAILED,
        leader_store_id=1,
        term=7,
        commit_index=8,
        last_index=9,
        high_watermark=10,
        log_bytes=11,
        problem="disk",
    )
    first = StoreStatus(
        store_id=3,
        state="loading",
        loaded=4,
        total=5,
        disk_free_bytes=600,
        replicas=[failed, replica(2)],
        complete=True,
    )
    second = StoreStatus(
        store_id=3, state="ready", loaded=5, total=5, disk_free_bytes=500, replicas=[replica(2, term=8)]
    )
    shown = merge(merge(None, first), second).whole()
    second.complete = True
    del second.replicas[:]
    second.replicas.extend([replica(2, term=8), failed])
    assert shown == second
